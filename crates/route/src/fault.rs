//! Faults that are injected on purpose.

use std::time::Duration;

use http::StatusCode;

/// Parts in a million.
const MILLION: u64 = 1_000_000;

/// The answer instead of a destination's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    /// An HTTP status.
    Http(StatusCode),
    /// A gRPC status, in a response of HTTP status 200.
    Grpc(u16),
}

/// Delays and aborts of a share of the requests. Each is decided for itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fault {
    /// The delay, and the share of the requests in parts in a million.
    pub delay: Option<(Duration, u32)>,
    /// The abort, and the share of the requests in parts in a million.
    pub abort: Option<(Abort, u32)>,
}

/// The faults of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Injected {
    /// The delay.
    pub delay: Option<Duration>,
    /// The abort, after the delay.
    pub abort: Option<Abort>,
}

impl Fault {
    /// Decides the faults of a request. `random` are two times 64 random bits.
    pub fn inject(&self, random: [u64; 2]) -> Injected {
        Injected {
            delay: self.delay.filter(|(_, share)| is_in(*share, random[0])).map(|(delay, _)| delay),
            abort: self.abort.filter(|(_, share)| is_in(*share, random[1])).map(|(abort, _)| abort),
        }
    }
}

/// Returns whether a request with these random bits is part of a share in parts in a million.
pub(crate) fn is_in(share: u32, random: u64) -> bool {
    ((u128::from(random) * u128::from(MILLION)) >> 64) < u128::from(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact_at_their_ends_and_in_a_million() {
        assert!(!is_in(0, 0));
        assert!(is_in(1_000_000, u64::MAX));
        assert!(is_in(1, 0) && is_in(1, u64::MAX / 1_000_000 - 1) && !is_in(1, u64::MAX / 1_000_000 + 1));
        assert!(is_in(500_000, u64::MAX / 2) && !is_in(500_000, u64::MAX / 2 + 2));
    }

    #[test]
    fn delay_and_abort_are_decided_independently() {
        let fault = Fault {
            delay: Some((Duration::from_secs(1), 500_000)),
            abort: Some((Abort::Http(StatusCode::TOO_MANY_REQUESTS), 500_000)),
        };
        let both = fault.inject([0, 0]);
        assert_eq!(both.delay, Some(Duration::from_secs(1)));
        assert_eq!(both.abort, Some(Abort::Http(StatusCode::TOO_MANY_REQUESTS)));
        assert_eq!(fault.inject([u64::MAX, 0]).delay, None);
        assert_eq!(fault.inject([0, u64::MAX]).abort, None);
    }
}
