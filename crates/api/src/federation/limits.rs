//! The limits of a peer: how much of one cluster is accepted.

use super::Check;
use crate::networking::json::message;

message! {
    /// Limits, each instead of its default.
    LimitsSpec {
        /// The number of services that the cluster may export.
        services: Option<u32> = "services",
        /// The number of endpoints of all of them.
        endpoints: Option<u32> = "endpoints",
        /// The number of endpoints of one service.
        endpoints_per_service: Option<u32> = "endpointsPerService",
        /// The number of ports of one service.
        ports_per_service: Option<u32> = "portsPerService",
        /// The size of one service with its endpoints, as the controller keeps them, in bytes.
        bytes_per_service: Option<u32> = "bytesPerService",
    }
}

/// The limits of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerLimits {
    /// The number of services that the cluster may export.
    pub services: usize,
    /// The number of endpoints of all of them.
    pub endpoints: usize,
    /// The number of endpoints of one service.
    pub endpoints_per_service: usize,
    /// The number of ports of one service.
    pub ports_per_service: usize,
    /// The size of one service with its endpoints, in bytes.
    pub bytes_per_service: usize,
}

impl Default for PeerLimits {
    /// The limits of a peer about which no policy says anything else. A mesh of the size that the controller is built for, 50
    /// clusters with 5,000 services and 50,000 endpoints together, is far below them in one cluster.
    fn default() -> Self {
        PeerLimits {
            services: 10_000,
            endpoints: 250_000,
            endpoints_per_service: 25_000,
            ports_per_service: 100,
            bytes_per_service: 32 << 20,
        }
    }
}

impl PeerLimits {
    /// Returns the limits of entries about one cluster: of each, the smallest one that they state, else the default.
    pub fn of<'a>(entries: impl Iterator<Item = &'a LimitsSpec>) -> PeerLimits {
        let mut smallest: [Option<u32>; 5] = [None; 5];
        for entry in entries {
            let stated = [
                entry.services,
                entry.endpoints,
                entry.endpoints_per_service,
                entry.ports_per_service,
                entry.bytes_per_service,
            ];
            for (known, stated) in smallest.iter_mut().zip(stated) {
                *known = [*known, stated].into_iter().flatten().min();
            }
        }
        let default = PeerLimits::default();
        let or = |stated: Option<u32>, default: usize| stated.map_or(default, |of| of as usize);
        PeerLimits {
            services: or(smallest[0], default.services),
            endpoints: or(smallest[1], default.endpoints),
            endpoints_per_service: or(smallest[2], default.endpoints_per_service),
            ports_per_service: or(smallest[3], default.ports_per_service),
            bytes_per_service: or(smallest[4], default.bytes_per_service),
        }
    }
}

impl LimitsSpec {
    pub(super) fn check(&self, check: &mut Check) {
        if *self == LimitsSpec::default() {
            check.error("is empty; write a limit, or remove it");
        }
    }
}
