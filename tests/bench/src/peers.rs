//! The proxies that ours are compared with, configured for the same work as their documentation describes.

use std::net::SocketAddr;

pub mod envoy;
pub mod envoy_gateway;
pub mod haproxy;
pub mod istio;
pub mod nginx;

/// The one route that a gateway serves.
#[derive(Clone, Debug)]
pub struct SniRoute {
    /// The gateway's listen address.
    pub gateway: SocketAddr,
    /// The address that it forwards to.
    pub server: SocketAddr,
    /// The server name that it forwards.
    pub server_name: String,
}
