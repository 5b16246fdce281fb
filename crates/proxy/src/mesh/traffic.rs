//! How requests and connections to a service are carried.

use balance::OutlierDetection;
use route::Retries;

/// The traffic policy of a service's port.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrafficPolicy {
    /// When failed requests are sent again, unless a route says it.
    pub retry: Retries,
    /// When endpoints are ejected.
    pub outlier_detection: OutlierDetection,
}
