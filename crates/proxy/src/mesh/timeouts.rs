//! How long the steps of reaching a destination may take, all in one place, because they must fit into each other.
//!
//! | step | by default | reason |
//! | --- | --- | --- |
//! | connecting to a pod of the own network | 1 s | two round trips within a network; a pod that vanished stays listed for longer, and must not hold a request for that long |
//! | connecting through a gateway | 10 s | Istio's connect timeout. Two round trips between networks and the gateway's own attempts: works up to 2 s one way |
//! | a gateway: connecting to any of its pods | 2 s | several attempts in parallel; less than what its clients wait (`docs/decisions/connect-budgets.md`) |
//! | connecting to a destination outside the mesh | 10 s | Istio's connect timeout |
//! | the next endpoint is tried in parallel | 250 ms | [`HEDGE_DELAY`]: failover need not wait for any of the above |
//! | first use of a destination | 2 s | one round trip to a controller, which may be on another network |
//!
//! `connectTimeout` of the mesh settings replaces these timeouts; a gateway uses three fifths of it. It is also how a user says
//! that networks are slow, so the first use of a destination may take as long. TCP and TLS share a connect timeout.
//!
//! How the gateway's budget follows from these: `docs/decisions/connect-budgets.md`. A sidecar waits 15 s for a client's handshake.

use std::time::Duration;

use super::snapshot::MeshSettings;

/// How long to wait for an endpoint before the next one is tried in parallel. A connection within a region takes two round
/// trips, some milliseconds; one to another continent takes longer than this, and still wins unless another endpoint is
/// nearer. An endpoint that is not the first to answer is not judged by that: its attempt goes on until its own timeout.
pub const HEDGE_DELAY: Duration = Duration::from_millis(250);

const DIRECT: Duration = Duration::from_secs(1);
const THROUGH_GATEWAY: Duration = Duration::from_secs(10);
const AT_GATEWAY: Duration = Duration::from_secs(2);
/// The share of a configured timeout that a gateway uses. The rest is for two round trips between the networks.
const SHARE_OF_GATEWAY: (u32, u32) = (3, 5);
const EXTERNAL: Duration = Duration::from_secs(10);

/// How long the first use of a destination waits for the controller. It answers within milliseconds and a round trip; after
/// this time it counts as unreachable, and the destination as unknown.
const FIRST_USE: Duration = Duration::from_secs(2);
/// The same while the discovery stream is known to be lost: what a reconnect may take.
const FIRST_USE_WHILE_LOST: Duration = Duration::from_millis(100);

/// The connect timeouts of a destination's endpoints, for TCP and TLS together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectTimeouts {
    /// To an endpoint at its own address.
    pub direct: Duration,
    /// To an endpoint through the gateway of its network.
    pub through_gateway: Duration,
}

impl MeshSettings {
    /// Returns the connect timeouts, of a service of the mesh or of another destination.
    pub fn connect_timeouts(&self, in_mesh: bool) -> ConnectTimeouts {
        let or = |default| self.configured_connect_timeout.unwrap_or(default);
        ConnectTimeouts { direct: or(if in_mesh { DIRECT } else { EXTERNAL }), through_gateway: or(THROUGH_GATEWAY) }
    }

    /// Returns how long a gateway may take to connect to any of its pods.
    pub fn gateway_connect_budget(&self) -> Duration {
        let (part, whole) = SHARE_OF_GATEWAY;
        self.configured_connect_timeout.map_or(AT_GATEWAY, |configured| configured * part / whole)
    }

    /// Returns how long the first use of a destination may wait for the controller, whose link may be known to be `lost`.
    pub(super) fn first_use_timeout(&self, lost: bool) -> Duration {
        if lost {
            return FIRST_USE_WHILE_LOST;
        }
        self.configured_connect_timeout.unwrap_or_default().max(FIRST_USE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(connect_timeout: Option<u64>) -> MeshSettings {
        MeshSettings { configured_connect_timeout: connect_timeout.map(Duration::from_secs), ..MeshSettings::default() }
    }

    #[test]
    fn defaults_leave_time_for_two_round_trips_between_continents_and_the_gateways_attempts() {
        let timeouts = settings(None).connect_timeouts(true);
        let slow = Duration::from_millis(300);
        let at_gateway = settings(None).gateway_connect_budget();
        assert!(timeouts.through_gateway > 4 * slow + at_gateway, "{timeouts:?}");
        assert_eq!(timeouts.direct, Duration::from_secs(1));
        assert_eq!(settings(None).connect_timeouts(false).direct, Duration::from_secs(10));
        assert_eq!(settings(None).first_use_timeout(false), Duration::from_secs(2));
    }

    #[test]
    fn a_configured_connect_timeout_applies_to_all_destinations_and_to_their_first_use() {
        let twenty = Duration::from_secs(20);
        for in_mesh in [true, false] {
            let expected = ConnectTimeouts { direct: twenty, through_gateway: twenty };
            assert_eq!(settings(Some(20)).connect_timeouts(in_mesh), expected);
        }
        assert_eq!(settings(Some(20)).first_use_timeout(false), twenty);
        assert_eq!(settings(Some(20)).gateway_connect_budget(), Duration::from_secs(12));
        assert_eq!(settings(Some(20)).first_use_timeout(true), FIRST_USE_WHILE_LOST);
        assert_eq!(settings(Some(1)).first_use_timeout(false), FIRST_USE, "a short one does not shorten it");
    }
}
