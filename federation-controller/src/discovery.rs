//! Serves what the index computes to proxies, and keeps it current.
//!
//! [`Shared`] is the state that all of it works on. [`publish::run`] is the one writer: it takes events, compiles, and puts
//! the results into the store. Each proxy has a [`stream`] of its own that reads from there; [`serve`] is the gRPC server
//! on port 15012, where the caller's identity is established.
//!
//! ```text
//! clusters ─► publish (index ─► store) ─► change number ─► streams ─► proxies
//! ```

use std::pin::Pin;
use std::sync::Arc;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use identity::Identity;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use wire::envoy::aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer};
use wire::envoy::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

pub mod proxies;
pub mod serve;
mod stream;
#[cfg(test)]
mod tests;

use crate::inventory::{Group, Index, Key};
use crate::metrics::Metrics;
use crate::publish::{Compiled, Store, Viewer};
use proxies::Proxies;
use serve::Caller;

/// How long a stream may take over what is expected of it; the defaults are for production.
#[derive(Clone, Debug)]
pub struct Limits {
    /// From the opening of a stream to its first request.
    pub first_request: Duration,
    /// A response may wait this long to be taken off us, and then to be acknowledged. A proxy that takes longer is stuck:
    /// its stream is ended, so that it comes back or is replaced.
    pub response: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { first_request: Duration::from_secs(10), response: Duration::from_secs(30) }
    }
}

/// What the parts of the controller share.
#[derive(Debug)]
pub struct Shared {
    index: RwLock<Index>,
    store: RwLock<Store>,
    pub(crate) changes: watch::Sender<u64>,
    /// Streams that are open.
    pub proxies: Proxies,
    /// What is counted.
    pub metrics: Metrics,
    limits: Limits,
    /// Cancelled when the controller stops: streams end, and say so.
    pub stop: CancellationToken,
}

impl Shared {
    /// State around an index that has taken no events yet, or only a remembered view.
    pub fn new(index: Index, metrics: Metrics, limits: Limits) -> Arc<Self> {
        Arc::new(Shared {
            index: RwLock::new(index),
            store: RwLock::new(Store::default()),
            changes: watch::Sender::new(0),
            proxies: Proxies::default(),
            metrics,
            limits,
            stop: CancellationToken::new(),
        })
    }

    /// The index, to look at.
    pub fn index(&self) -> RwLockReadGuard<'_, Index> {
        // A panic while writing would leave a view that is at worst behind; serving it beats serving nothing.
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store, to look at.
    pub fn store(&self) -> RwLockReadGuard<'_, Store> {
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a view to serve.
    pub fn ready(&self) -> bool {
        self.store().ready()
    }

    /// Has a connected proxy's own inbound side computed, at once.
    fn connect(&self, viewer: &Viewer, pod: &Key) {
        // The index stays locked until the store has it, so that an older result never replaces a newer one.
        let mut index = self.index_mut();
        if let Some((group, resources)) = index.connect(&viewer.cluster, pod) {
            self.replace(vec![(group, resources)]);
        }
    }

    /// Forgets what only this proxy's stream needed.
    fn disconnect(&self, viewer: &Viewer, pod: &Key) {
        let mut index = self.index_mut();
        if let Some(group) = index.disconnect(&viewer.cluster, pod) {
            self.replace(vec![(group, Compiled::default())]);
        }
    }

    /// Puts compiled groups into the store and wakes the streams if anything differs. Called with the index locked.
    pub(crate) fn replace(&self, compiled: Vec<(Group, Compiled)>) -> usize {
        let mut store = self.store_mut();
        let changed = compiled.into_iter().map(|(group, resources)| store.replace(group, resources)).sum();
        if self.changes.receiver_count() == 0 {
            store.forget_changes();
        }
        let changes = store.changes();
        drop(store);
        if changed > 0 {
            self.changes.send_replace(changes);
        }
        changed
    }

    pub(crate) fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn store_mut(&self) -> RwLockWriteGuard<'_, Store> {
        self.store.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The discovery service.
#[derive(Clone)]
pub struct Discovery {
    shared: Arc<Shared>,
    identity: Identity,
}

impl Discovery {
    /// As a service of tonic's. Callers are known by the trust of `identity`.
    pub fn service(shared: Arc<Shared>, identity: Identity) -> AggregatedDiscoveryServiceServer<Self> {
        // A first request carries all versions that a proxy holds: for the largest, a gateway, some megabytes.
        AggregatedDiscoveryServiceServer::new(Discovery { shared, identity }).max_decoding_message_size(16 << 20)
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
            self.shared.metrics.refused("no certificate");
            return Err(Status::unauthenticated("discovery needs a client certificate of the mesh"));
        };
        // One response in the pipe beside the one being written: what changes meanwhile goes into the next.
        let (responses, outbox) = mpsc::channel(1);
        let shared = self.shared.clone();
        tokio::spawn(stream::serve(shared, caller, request.into_inner(), responses));
        Ok(Response::new(Box::pin(ReceiverStream::new(outbox))))
    }
}
