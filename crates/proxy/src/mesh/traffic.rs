//! How requests and connections to a service are carried.

use balance::OutlierPolicy;
use route::Retries;

use super::destination::{ClientTls, ConnectionPool, LoadBalancing, ProxyProtocol, RetryBudget, Tunnel};

/// The traffic policy of a service's port, or of a subset.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrafficPolicy {
    /// When failed requests are sent again, unless a route says it.
    pub retry: Retries,
    /// How an endpoint is chosen.
    pub balancing: LoadBalancing,
    /// Limits and timeouts of connections.
    pub pool: ConnectionPool,
    /// When endpoints are ejected; `None`: by `balance`'s own detection.
    pub outlier_detection: Option<OutlierPolicy>,
    /// TLS to endpoints.
    pub tls: ClientTls,
    /// Opaque connections are tunnelled.
    pub tunnel: Option<Tunnel>,
    /// A header that precedes each connection.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// The share of requests that may be retries; `None`: [`ConnectionPool::max_retries`] alone limits them.
    pub retry_budget: Option<RetryBudget>,
}
