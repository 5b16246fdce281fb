//! The policy of a configured outlier detection.

use std::time::Duration;

/// When endpoints are ejected, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierPolicy {
    /// The number of consecutive errors of the server that eject an endpoint: status 5xx and, unless
    /// [`OutlierPolicy::split_local_origin`], failures to connect and to receive a response. 0: never.
    pub consecutive_5xx: u32,
    /// The same, of gateway errors (502, 503, 504) alone. 0: never.
    pub consecutive_gateway_errors: u32,
    /// Failures to connect and to receive a response are counted apart from statuses.
    pub split_local_origin: bool,
    /// The number of consecutive failures that eject an endpoint if they are counted apart. 0: never.
    pub consecutive_local_origin_failures: u32,
    /// How often ejections may end.
    pub interval: Duration,
    /// The duration of the first ejection. Each further one lasts this much longer, at most
    /// [`OutlierPolicy::max_ejection_time`]; an interval without an ejection takes one back.
    pub base_ejection_time: Duration,
    /// The maximum share of endpoints that are ejected at a time, in percent. It is not rounded up: 10 % of nine endpoints
    /// is none, as in Envoy.
    pub max_ejection_percent: u32,
    /// Below this share of healthy endpoints, in percent, all are used ("panic"). 0: never.
    pub min_health_percent: u32,
}

impl Default for OutlierPolicy {
    /// The defaults of a DestinationRule.
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway_errors: 0,
            split_local_origin: false,
            consecutive_local_origin_failures: 5,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_percent: 10,
            min_health_percent: 0,
        }
    }
}

impl OutlierPolicy {
    /// Returns the longest duration of an ejection: Envoy's default.
    pub(super) fn max_ejection_time(&self) -> Duration {
        self.base_ejection_time.max(Duration::from_secs(300))
    }
}
