//! The proxies that ours are compared with, configured for the same work as their own documentation says.

pub mod envoy;
pub mod envoy_gateway;
pub mod haproxy;
pub mod nginx;
