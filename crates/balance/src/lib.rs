//! Load balancing: choosing an endpoint of a service by locality tiers, failover, weights and outlier detection.
//!
//! Start at [`Balancer`]: it receives the endpoints that discovery pushed, returns a [`Pick`] for each attempt, and
//! learns from the outcomes that picks report. It has no sockets, no clock and no source of randomness: time and random
//! bits are arguments, so every decision is tested with tables.
//!
//! The steps of a pick:
//!
//! 1. Endpoints are in *tiers* by their distance from the caller: same subzone, same zone, same region, elsewhere
//!    ([`Locality::distance_from`]).
//! 2. Each tier's share of traffic follows Envoy's priority arithmetic with 140 % overprovisioning ([`loads`]): a tier
//!    with half of its endpoints unavailable spills 30 % into the next one.
//! 3. Within a tier, two endpoints are drawn by weight, and the one with fewer requests in progress for its weight is
//!    picked.
//! 4. An endpoint that keeps failing is *ejected* for a growing time, and returns after a successful probation request
//!    ([`OutlierDetection`]). An endpoint that stands for another network's gateway belongs to one service's balancer,
//!    so it is ejected for that service alone.
//! 5. If every endpoint is ejected, all of them are used: a wrong guess costs no more than failing the request.
//!
//! That is what happens by default. [`Settings`] change it, as a DestinationRule asks: other algorithms, consistent
//! hashing, warm-up, shares and order of localities, and outlier detection with Envoy's semantics ([`Detector`]).
//!
//! Subsets are the caller's: each subset has a balancer of its own. So are hashes of requests, and `PASSTHROUGH`, which
//! chooses nothing.

mod balancer;
mod hashing;
mod locality;
mod outlier;
mod settings;
mod tiers;
mod warmup;

pub use balancer::{Balancer, Endpoint, EndpointForecast, Forecast, Health, Mode, Pick, TierView};
pub use hashing::{MAX_RING_SIZE, MAX_TABLE_SIZE, stable_hash};
pub use locality::{Distribution, FailoverPriority, Locality, LocalityPattern, LocalityPolicy, Preference};
pub use outlier::{Cause, Detector, EjectionCounts, EndpointState, Outcome, OutlierDetection, OutlierPolicy};
pub use settings::{Algorithm, Detection, Settings};
pub use tiers::{OVERPROVISIONING, TierHealth, loads};
pub use warmup::Warmup;
