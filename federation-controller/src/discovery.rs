//! Discovery: the streams by which proxies receive resources.
//!
//! Each proxy has a [`stream`] of its own that reads the published resources ([`crate::publish`]). The coming and going of
//! streams are events, because only the workloads of connected proxies are compiled. [`serve`] is the gRPC server on port
//! 15012, which establishes the identity of callers.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use identity::Identity;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wire::envoy::aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer};
use wire::envoy::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use wire::name::Role;

pub mod budget;
pub mod proxies;
pub mod refusals;
pub mod serve;
mod stream;
#[cfg(test)]
mod tests;

use crate::ca::serve::{Admission, Held};
use crate::clusters::queue::{Queues, Source};
use crate::compile::resource::Viewer;
use crate::objects::Key;
use crate::objects::event::Event;
use crate::pipeline::State;
use budget::{Budgets, Owner};
use proxies::Proxies;
use serve::Caller;

/// The maximum size of a request, in bytes. A first request has the versions of all resources that a proxy holds: for the
/// largest gateways, with 100,000 endpoints, 8 MB.
const MAX_REQUEST: usize = 10 << 20;

/// Time limits of a stream.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The time from the opening of a stream to its first request.
    pub first_request: Duration,
    /// The time for a response to be read, and then to be acknowledged. A slower proxy is stuck: its stream ends, so that it
    /// reconnects or is replaced.
    pub response: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { first_request: Duration::from_secs(10), response: Duration::from_secs(30) }
    }
}

/// The state that all streams share.
#[derive(Debug)]
pub struct Shared {
    /// The published resources, and the inventory.
    pub state: Arc<State>,
    /// The open streams.
    pub proxies: Proxies,
    /// Notified when a proxy that is to be registered comes, goes or reports.
    pub(crate) members_changed: Notify,
    streams: Budgets,
    connections: Budgets,
    events: Queues,
    limits: Limits,
}

impl Shared {
    /// Creates the state of a server without streams. The coming and going of streams is sent to `events`.
    pub fn new(state: Arc<State>, events: Queues, limits: Limits) -> Arc<Self> {
        let (streams, connections) = (Budgets::of_streams(), Budgets::of_connections());
        let (proxies, members_changed) = (Proxies::default(), Notify::new());
        Arc::new(Shared { state, proxies, members_changed, streams, connections, events, limits })
    }

    /// Returns how many connections each client of the discovery port may have. The trust of `identity` verifies clients.
    pub fn admission(self: &Arc<Self>, identity: Identity) -> Admission {
        let shared = Arc::clone(self);
        Admission(Arc::new(move |certificates| {
            let peer = identity::peer_of(certificates, &identity.trust())?;
            let account = shared.connections.open(Owner::of(&peer), |owner| shared.pods(owner));
            account.ok().map(|account| Box::new(account) as Held)
        }))
    }

    /// Returns the number of pods of an identity.
    fn pods(&self, owner: &Owner) -> usize {
        owner.pods(&self.state.inventory())
    }

    /// Waits until the proxy's own workload is published.
    async fn connect(&self, viewer: &Viewer, pod: &Key, role: Role) {
        let (published, done) = oneshot::channel();
        let event = Event::ProxyConnected { cluster: viewer.cluster.clone(), pod: pod.clone(), role, published };
        // If the pipeline is gone, the controller stops and the stream ends.
        if self.events.send(Source::Proxies(viewer.cluster.clone()), event).await.is_ok() {
            let _ = done.await;
        }
    }

    async fn disconnect(&self, viewer: &Viewer, pod: &Key) {
        let event = Event::ProxyDisconnected { cluster: viewer.cluster.clone(), pod: pod.clone() };
        let _ = self.events.send(Source::Proxies(viewer.cluster.clone()), event).await;
    }
}

/// The discovery service.
#[derive(Clone)]
pub struct Discovery {
    shared: Arc<Shared>,
    identity: Identity,
}

impl Discovery {
    /// Creates the gRPC service. The trust of `identity` verifies callers.
    pub fn service(shared: Arc<Shared>, identity: Identity) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(Discovery { shared, identity }).max_decoding_message_size(MAX_REQUEST)
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type DeltaAggregatedResourcesStream =
        Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send + 'static>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let Some(caller) = Caller::of(&request, &self.identity) else {
            self.shared.state.metrics.refused("no certificate");
            return Err(Status::unauthenticated("discovery needs a client certificate of the mesh that is valid now"));
        };
        let pods = |owner: &Owner| self.shared.pods(owner);
        let account = match self.shared.streams.open(Owner::of(&caller.peer), pods) {
            Ok(account) => account,
            Err(exceeded) => {
                tracing::warn!(address = %caller.address, reason = %exceeded, "discovery stream refused");
                self.shared.state.metrics.refused(exceeded.word());
                return Err(Status::resource_exhausted(exceeded.to_string()));
            }
        };
        // One response waits while another is written. Later changes go into the next response.
        let (responses, outbox) = mpsc::channel(1);
        let shared = self.shared.clone();
        tokio::spawn(stream::serve(shared, caller, account, request.into_inner(), responses));
        Ok(Response::new(Box::pin(ReceiverStream::new(outbox))))
    }
}
