//! An embedded Kubernetes API server for labs and tests.

pub mod defaults;
pub mod kinds;
pub mod merge_keys;
pub mod openapi;
pub mod stream;
pub mod table;
pub mod validate;
