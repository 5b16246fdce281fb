//! Choosing an endpoint of a service: locality tiers, failover, weights and failure ejection.
//!
//! Start at [`Balancer`]: it is given the endpoints that discovery told, is asked for a [`Pick`] per attempt, and learns
//! from what each pick reports. It knows no sockets, no clock and no source of randomness: time and random bits are
//! passed in, so every decision is tested with tables.
//!
//! What it does, in the order of a pick:
//!
//! 1. Endpoints stand in *tiers* by their distance from the caller: same subzone, same zone, same region, elsewhere
//!    ([`Locality::distance_from`]).
//! 2. The share of traffic of each tier follows Envoy's priority arithmetic with 140 % overprovisioning ([`loads`]), so
//!    a tier with half of its endpoints down spills 30 % into the next one.
//! 3. Within a tier two endpoints are drawn by weight, and the one with fewer requests under way for its weight is
//!    taken.
//! 4. An endpoint that fails again and again is *ejected* for a growing interval and comes back by a single probation
//!    request ([`Outcome`]). An endpoint that stands for another network's gateway belongs to one service's balancer,
//!    so its ejection is judged per service behind it and never for all of them at once.
//! 5. When every endpoint is ejected, all of them are used: a wrong guess then costs no more than refusing would.
//!
//! It does not connect, retry or know about protocols; and subsets and hashing are not here yet because nothing
//! configures them.

mod balancer;
mod ejection;
mod locality;
mod tiers;

pub use balancer::{Balancer, Endpoint, Health, Mode, Pick, TierView};
pub use ejection::{Outcome, Standing};
pub use locality::Locality;
pub use tiers::{OVERPROVISIONING, TierHealth, loads};
