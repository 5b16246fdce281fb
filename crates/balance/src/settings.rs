//! The settings of a balancer.

use crate::{Detector, LocalityPolicy, OutlierDetection, Warmup};

/// How an endpoint is chosen among those of a tier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// Of two endpoints drawn by weight, the one with fewer requests in progress for its weight.
    #[default]
    LeastRequest,
    /// In turn, by weight.
    RoundRobin,
    /// At random, by weight.
    Random,
    /// By the hash of the request, on a ring.
    RingHash {
        /// The least number of points on the ring. Bounded by [`crate::MAX_RING_SIZE`].
        minimum_size: u32,
    },
    /// By the hash of the request, with a Maglev table.
    Maglev {
        /// The size of the table. Rounded up to a prime, and bounded by [`crate::MAX_TABLE_SIZE`].
        table_size: u32,
    },
}

/// When endpoints are ejected.
#[derive(Debug, Clone, PartialEq)]
pub enum Detection {
    /// By each worker's own attempts, with probation.
    Default(OutlierDetection),
    /// As a DestinationRule says, by the attempts of all workers.
    Configured(Detector),
}

impl Default for Detection {
    fn default() -> Self {
        Self::Default(OutlierDetection::default())
    }
}

/// The settings of a balancer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// How an endpoint is chosen among those of a tier.
    pub algorithm: Algorithm,
    /// How the share of a new endpoint grows; `None`: it has its full share at once. For
    /// [`Algorithm::RoundRobin`] and [`Algorithm::LeastRequest`].
    pub warmup: Option<Warmup>,
    /// Which localities are used.
    pub locality: LocalityPolicy,
    /// When endpoints are ejected.
    pub detection: Detection,
}

impl Settings {
    pub(crate) fn warmup(&self) -> Option<Warmup> {
        self.warmup.filter(|_| matches!(self.algorithm, Algorithm::RoundRobin | Algorithm::LeastRequest))
    }
}
