//! Response flags: why a request or connection failed, in the letters that Envoy writes in access logs and metric labels.

use std::borrow::Cow;
use std::fmt;

/// A set of response flags. The empty set, `-`, means success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResponseFlags(u32);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $letters:literal @ $bit:literal;)*) => {
        impl ResponseFlags {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*
        }

        /// Each flag with its letters, in the order in which Envoy writes them: that in which they arise.
        const ALL: &[(ResponseFlags, &str)] = &[$((ResponseFlags::$name, $letters)),*];
    };
}

flags! {
    /// A fault was injected: a delay.
    DELAY_INJECTED = "DI" @ 15;
    /// All retries failed.
    UPSTREAM_RETRY_LIMIT_EXCEEDED = "URX" @ 7;
    /// No endpoint is healthy.
    NO_HEALTHY_UPSTREAM = "UH" @ 0;
    /// The proxy reset the stream.
    LOCAL_RESET = "LR" @ 1;
    /// No connection to an endpoint was established.
    UPSTREAM_CONNECTION_FAILURE = "UF" @ 2;
    /// The upstream ended the connection.
    UPSTREAM_CONNECTION_TERMINATION = "UC" @ 3;
    /// A limit on connections or requests was reached.
    UPSTREAM_OVERFLOW = "UO" @ 4;
    /// No route matches.
    NO_ROUTE_FOUND = "NR" @ 5;
    /// The downstream ended the connection.
    DOWNSTREAM_CONNECTION_TERMINATION = "DC" @ 6;
    /// No data moved for the idle timeout.
    STREAM_IDLE_TIMEOUT = "SI" @ 8;
    /// The downstream violated the protocol.
    DOWNSTREAM_PROTOCOL_ERROR = "DPE" @ 9;
    /// The connection exceeded its maximum duration.
    DURATION_TIMEOUT = "DT" @ 10;
    /// The upstream violated the protocol.
    UPSTREAM_PROTOCOL_ERROR = "UPE" @ 11;
    /// The overload manager refused the connection.
    OVERLOAD = "OM" @ 12;
    /// The destination is not known in time.
    NO_CLUSTER_FOUND = "NC" @ 13;
    /// The upstream did not respond in time.
    UPSTREAM_REQUEST_TIMEOUT = "UT" @ 14;
    /// A fault was injected: an abort.
    FAULT_INJECTED = "FI" @ 16;
    /// A server that is asked denied the request or connection, or could not be asked.
    UNAUTHORIZED_EXTERNALLY = "UAEX" @ 17;
    /// A limit on the rate of requests was exceeded.
    RATE_LIMITED = "RL" @ 18;
    /// A service that counts requests could not be asked.
    RATE_LIMIT_SERVICE_ERROR = "RLSE" @ 19;
}

impl ResponseFlags {
    /// No flag.
    pub const NONE: Self = Self(0);

    /// Returns the set with the flags of `other` added.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns whether the set has all flags of `other`.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns the letters, separated by commas; `-` for the empty set.
    pub fn letters(self) -> Cow<'static, str> {
        let mut set = ALL.iter().filter(|(flag, _)| self.contains(*flag)).map(|(_, letters)| *letters);
        let Some(first) = set.next() else { return Cow::Borrowed("-") };
        set.fold(Cow::Borrowed(first), |all, letters| Cow::Owned(format!("{all},{letters}")))
    }
}

impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.letters())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_those_of_envoy_in_its_order() {
        assert_eq!(ResponseFlags::NONE.letters(), "-");
        assert_eq!(ResponseFlags::UPSTREAM_OVERFLOW.letters(), "UO");
        let both = ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED.with(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
        assert_eq!(both.to_string(), "URX,UF");
        assert!(both.contains(ResponseFlags::UPSTREAM_CONNECTION_FAILURE) && !both.contains(ResponseFlags::OVERLOAD));
    }

    #[test]
    fn every_flag_has_a_bit_and_letters_of_its_own() {
        let all = ALL.iter().fold(ResponseFlags::NONE, |all, (flag, _)| all.with(*flag));
        assert_eq!(all.0.count_ones() as usize, ALL.len());
        let letters: std::collections::HashSet<_> = ALL.iter().map(|(_, letters)| letters).collect();
        assert_eq!(letters.len(), ALL.len());
    }
}
