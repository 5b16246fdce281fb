//! When failed attempts are repeated.

use std::sync::Arc;
use std::time::Duration;

use crate::RetryTokens;

/// The error for a condition of `retryOn` that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a retry condition nor a status code")]
pub struct UnknownRetryCondition(String);

/// How often and when requests of a route are repeated.
#[derive(Debug, Clone, PartialEq)]
pub struct Retries {
    /// The number of attempts after the first one.
    pub attempts: u32,
    /// The time limit of one attempt.
    pub per_try_timeout: Option<Duration>,
    /// The outcomes that are repeated.
    pub on: RetryOn,
    /// A request whose connection ended without a response is repeated if its method is idempotent, whatever `on` says. The
    /// mesh's default; conditions of a route are kept to.
    pub idempotent: bool,
    /// The wait before the first retry is drawn at random from below this; the limit doubles with each further one, up to ten
    /// times of it.
    pub base_interval: Duration,
    /// A retry may go to an endpoint that was tried before.
    pub same_hosts: bool,
    /// Retries prefer localities that were not tried.
    pub remote_localities: bool,
    /// What retries are taken from; `None`: nothing.
    pub tokens: Option<Arc<RetryTokens>>,
}

/// Outcomes of attempts that are repeated: the conditions of Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RetryOn {
    conditions: u32,
    /// Statuses of `retriable-status-codes`, ordered.
    codes: Box<[u16]>,
    /// Statuses of gRPC, as a set of bits.
    grpc: u32,
}

/// The names of conditions, and their bits. Conditions of HTTP/3 never arise.
const CONDITIONS: &[(&str, u32)] = &[
    ("5xx", RetryOn::FIVE_XX),
    ("gateway-error", RetryOn::GATEWAY_ERROR),
    ("reset", RetryOn::RESET),
    ("reset-before-request", RetryOn::RESET_BEFORE_REQUEST),
    ("connect-failure", RetryOn::CONNECT_FAILURE),
    ("envoy-ratelimited", RetryOn::RATE_LIMITED),
    ("retriable-4xx", RetryOn::RETRIABLE_4XX),
    ("refused-stream", RetryOn::REFUSED_STREAM),
    ("retriable-status-codes", 0),
    ("retriable-headers", 0),
    ("http3-post-connect-failure", 0),
];

/// The names of conditions on gRPC statuses, and the statuses.
const GRPC: &[(&str, u16)] =
    &[("cancelled", 1), ("deadline-exceeded", 4), ("resource-exhausted", 8), ("internal", 13), ("unavailable", 14)];

impl RetryOn {
    const FIVE_XX: u32 = 1;
    const GATEWAY_ERROR: u32 = 1 << 1;
    const RESET: u32 = 1 << 2;
    const RESET_BEFORE_REQUEST: u32 = 1 << 3;
    const CONNECT_FAILURE: u32 = 1 << 4;
    const RATE_LIMITED: u32 = 1 << 5;
    const RETRIABLE_4XX: u32 = 1 << 6;
    const REFUSED_STREAM: u32 = 1 << 7;

    /// Parses conditions and status codes. Conditions on headers are without effect: Istio configures no such headers.
    ///
    /// # Errors
    /// Returns an error for an unknown condition.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, UnknownRetryCondition> {
        let (mut on, mut codes) = (Self::default(), Vec::new());
        for name in names.into_iter().map(str::trim).filter(|name| !name.is_empty()) {
            if let Some((_, bit)) = CONDITIONS.iter().find(|(known, _)| *known == name) {
                on.conditions |= bit;
            } else if let Some((_, status)) = GRPC.iter().find(|(known, _)| *known == name) {
                on.grpc |= 1 << status;
            } else {
                match name.parse::<u16>() {
                    Ok(code @ 100..=599) => codes.push(code),
                    _ => return Err(UnknownRetryCondition(name.to_owned())),
                }
            }
        }
        codes.sort_unstable();
        codes.dedup();
        on.codes = codes.into();
        Ok(on)
    }

    /// Istio's default: `connect-failure,refused-stream,unavailable,cancelled`.
    pub fn mesh_default() -> Self {
        Self { conditions: Self::CONNECT_FAILURE | Self::REFUSED_STREAM, codes: Box::default(), grpc: 1 << 1 | 1 << 14 }
    }

    /// Returns whether a response is repeated. `grpc_status` is that of a response of gRPC without messages; `rate_limited` is
    /// whether it has the header `x-envoy-ratelimited`.
    pub fn on_response(&self, status: u16, grpc_status: Option<u16>, rate_limited: bool) -> bool {
        if rate_limited {
            return self.has(Self::RATE_LIMITED);
        }
        (self.has(Self::FIVE_XX) && (500..600).contains(&status))
            || (self.has(Self::GATEWAY_ERROR) && (502..=504).contains(&status))
            || (self.has(Self::RETRIABLE_4XX) && status == 409)
            || self.codes.binary_search(&status).is_ok()
            || grpc_status.is_some_and(|status| status < 32 && self.grpc & (1 << status) != 0)
    }

    /// Returns whether an attempt is repeated whose connection was not established.
    pub fn on_connect_failure(&self) -> bool {
        self.has(Self::CONNECT_FAILURE) || self.on_reset(true)
    }

    /// Returns whether an attempt is repeated that the peer refused without processing it.
    pub fn on_refused_stream(&self) -> bool {
        self.has(Self::REFUSED_STREAM) || self.on_reset(true)
    }

    /// Returns whether an attempt is repeated that ended without a response. `unsent` is whether the request was not sent in
    /// full before.
    pub fn on_reset(&self, unsent: bool) -> bool {
        self.has(Self::FIVE_XX | Self::GATEWAY_ERROR | Self::RESET) || (unsent && self.has(Self::RESET_BEFORE_REQUEST))
    }

    /// Returns whether an attempt is repeated that exceeded its time limit, for which the answer would be a 504.
    pub fn on_timeout(&self) -> bool {
        self.on_reset(false) || self.codes.binary_search(&504).is_ok()
    }

    fn has(&self, any: u32) -> bool {
        self.conditions & any != 0
    }
}

impl Default for Retries {
    /// Istio's default of two retries, with Envoy's default interval.
    fn default() -> Self {
        Self {
            attempts: 2,
            per_try_timeout: None,
            on: RetryOn::mesh_default(),
            idempotent: true,
            base_interval: Duration::from_millis(25),
            same_hosts: false,
            remote_localities: false,
            tokens: None,
        }
    }
}

impl Retries {
    /// Returns the wait before a retry, numbered from 0. `random` is in `0.0..1.0`.
    pub fn backoff(&self, retry: u32, random: f64) -> Duration {
        let limit = self.base_interval.saturating_mul(1 << retry.min(16)).min(self.base_interval.saturating_mul(10));
        limit.mul_f64(random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(names: &str) -> RetryOn {
        RetryOn::parse(names.split(',')).unwrap()
    }

    #[test]
    fn conditions_have_envoys_meaning() {
        for (names, status, grpc, expected) in [
            ("5xx", 500, None, true),
            ("5xx", 599, None, true),
            ("5xx", 404, None, false),
            ("gateway-error", 500, None, false),
            ("gateway-error", 503, None, true),
            ("retriable-4xx", 409, None, true),
            ("retriable-4xx", 404, None, false),
            ("connect-failure", 503, None, false),
            ("404, 418", 418, None, true),
            ("retriable-status-codes,503", 503, None, true),
            ("retriable-status-codes", 503, None, false),
            ("unavailable", 200, Some(14), true),
            ("unavailable", 200, Some(13), false),
            ("cancelled,internal", 200, Some(13), true),
            ("unavailable", 200, Some(200), false),
        ] {
            assert_eq!(on(names).on_response(status, grpc, false), expected, "{names} {status} {grpc:?}");
        }
        assert!(!on("5xx").on_response(503, None, true) && on("envoy-ratelimited").on_response(429, None, true));
    }

    #[test]
    fn failures_without_a_response_are_repeated_as_in_envoy() {
        for (names, connect, refused, reset, unsent, timeout) in [
            ("5xx", true, true, true, true, true),
            ("gateway-error", true, true, true, true, true),
            ("reset", true, true, true, true, true),
            ("connect-failure", true, false, false, false, false),
            ("refused-stream", false, true, false, false, false),
            ("reset-before-request", true, true, false, true, false),
            ("retriable-4xx", false, false, false, false, false),
            ("504", false, false, false, false, true),
        ] {
            let on = on(names);
            let outcomes = (
                on.on_connect_failure(),
                on.on_refused_stream(),
                on.on_reset(false),
                on.on_reset(true),
                on.on_timeout(),
            );
            assert_eq!(outcomes, (connect, refused, reset, unsent, timeout), "{names}");
        }
    }

    #[test]
    fn unknown_conditions_are_refused() {
        for name in ["5XX", "nope", "99", "600", "-1"] {
            assert!(RetryOn::parse([name]).is_err(), "{name}");
        }
        assert_eq!(RetryOn::parse(["", " "]).unwrap(), RetryOn::default());
    }

    #[test]
    fn backoff_doubles_up_to_ten_times_and_is_a_random_part_of_its_limit() {
        let retries = Retries::default();
        assert_eq!(retries.backoff(0, 0.0), Duration::ZERO);
        assert_eq!(retries.backoff(0, 0.5), Duration::from_micros(12_500));
        assert_eq!(retries.backoff(2, 0.5), Duration::from_millis(50));
        assert_eq!(retries.backoff(u32::MAX, 1.0), Duration::from_millis(250));
    }
}
