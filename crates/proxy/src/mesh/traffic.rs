//! How requests and connections to a service are carried.

use std::time::Duration;

use balance::OutlierPolicy;

use super::destination::{ClientTls, ConnectionPool, LoadBalancing, ProxyProtocol, RetryBudget, Tunnel};

/// The traffic policy of a service's port, or of a subset.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrafficPolicy {
    /// When failed requests are sent again.
    pub retry: RetryPolicy,
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

/// When and how often a failed request is sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The number of attempts after the first one.
    pub retries: u32,
    /// The maximum wait before the first retry; it doubles with each further one. The wait is drawn at random from below it,
    /// so that requests that failed together are not retried together.
    pub base_interval: Duration,
}

impl Default for RetryPolicy {
    /// Istio's default of two retries, with Envoy's default base interval.
    fn default() -> Self {
        Self { retries: 2, base_interval: Duration::from_millis(25) }
    }
}

impl RetryPolicy {
    /// Returns the wait before a retry, numbered from 0. `random` is in `0.0..1.0`.
    pub fn backoff(&self, retry: u32, random: f64) -> Duration {
        self.base_interval.saturating_mul(1 << retry.min(16)).mul_f64(random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_and_is_a_random_part_of_its_limit() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.backoff(0, 0.0), Duration::ZERO);
        assert_eq!(policy.backoff(0, 0.5), Duration::from_micros(12_500));
        assert_eq!(policy.backoff(2, 0.5), Duration::from_millis(50));
        assert!(policy.backoff(u32::MAX, 1.0) < Duration::from_secs(3600));
    }
}
