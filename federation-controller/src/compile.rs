//! From the inventory to resources.

pub mod address;
pub mod endpoint;
pub mod export;
pub(crate) mod gateway;
pub(crate) mod service;
pub(crate) mod workload;
