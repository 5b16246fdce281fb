//! An embedded Kubernetes API server for labs and tests.

pub mod kinds;
