//! Where the next requests to a cluster will go, for display.

use std::sync::Arc;
use std::time::Instant;

use balance::{EndpointState, Health, Locality};

use super::{Refusal, UpstreamCluster};
use crate::failure::Failure;
use crate::upstream::Target;

/// Where the next requests to a cluster will go, as one worker sees it.
#[derive(Debug, Clone)]
pub struct ClusterForecast {
    /// Envoy's name of the cluster.
    pub name: Arc<str>,
    /// The endpoints.
    pub candidates: Vec<Candidate>,
    /// Too few endpoints are in use, so ejected ones are used as well.
    pub panic: bool,
    /// Why every request fails.
    pub failure: Option<Failure>,
}

/// An endpoint, and its share of the next requests.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The name of the endpoint.
    pub id: Arc<str>,
    /// Where it is, and who has to answer there.
    pub target: Arc<Target>,
    /// The locality.
    pub locality: Locality,
    /// The health that discovery reports.
    pub health: Health,
    /// The weight among the endpoints of its tier.
    pub weight: u32,
    /// The state in outlier detection.
    pub state: EndpointState,
    /// The number of requests in progress.
    pub in_flight: u32,
    /// The rank: endpoints of a lower rank are used first.
    pub rank: u32,
    /// The expected share of the next requests to the cluster, from 0 to 1.
    pub share: f64,
}

impl UpstreamCluster {
    /// Returns where the next requests will go. With the hash of a request, that of this request.
    pub fn forecast(&self, hash: Option<u64>, now: Instant) -> ClusterForecast {
        let mut balancer = self.balancer.borrow_mut();
        let forecast = balancer.forecast(now, hash);
        let candidates: Vec<Candidate> = forecast
            .endpoints
            .iter()
            .map(|of| Candidate {
                id: of.endpoint.id.clone(),
                target: of.endpoint.target.clone(),
                locality: of.endpoint.locality.clone(),
                health: of.endpoint.health,
                weight: of.endpoint.weight,
                state: of.state,
                in_flight: of.in_flight,
                rank: of.rank,
                share: of.share,
            })
            .collect();
        let destination = self.key.hostname.clone();
        let failure = match self.refuses {
            Some(Refusal::RegistryOnly) => Some(Failure::UnknownDestination(destination)),
            Some(Refusal::Unanswered) => Some(Failure::Unanswered(destination)),
            None if candidates.iter().all(|of| of.share == 0.0) => Some(Failure::NoEndpoint(destination)),
            None => None,
        };
        ClusterForecast { name: self.name.clone(), candidates, panic: forecast.panic, failure }
    }
}
