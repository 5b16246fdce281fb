//! A controller with fixed resources that speaks the real protocol over real gRPC.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use hyper_util::rt::TokioIo;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Response, Status, Streaming};
use wire::Kind;
use wire::delta::{Item, Source};
use wire::envoy::aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer};
use wire::envoy::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use wire::prost::Message;

/// What is told, and to whom it listens.
#[derive(Clone)]
pub(crate) struct Controller {
    world: Arc<Mutex<World>>,
    changed: watch::Sender<u64>,
    pub(crate) address: SocketAddr,
}

#[derive(Default)]
struct World {
    items: BTreeMap<(Kind, Arc<str>), Item>,
    end: u64,
}

impl Controller {
    /// Starts one without resources.
    pub(crate) async fn start(ip: IpAddr) -> Self {
        let listener = tokio::net::TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let controller = Self { world: Arc::default(), changed: watch::channel(0).0, address };
        let service = AggregatedDiscoveryServiceServer::new(controller.clone());
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
        controller
    }

    /// A way to it; with connections that capture lets through where `mark` says so.
    pub(crate) fn channel(&self, mark: Option<u32>) -> Channel {
        let address = self.address;
        let connect = tower::service_fn(move |_: Uri| async move {
            let options = net::Connect { mark, ..net::Connect::default() };
            net::connect(address, &options).await.map(TokioIo::new)
        });
        Endpoint::from_shared(format!("http://{address}")).unwrap().connect_with_connector_lazy(connect)
    }

    /// Tells a resource, or tells it anew. `keys` are the addresses and collections that it answers to.
    pub(crate) fn tell(&self, kind: Kind, name: &str, message: &impl Message, keys: &[&str]) {
        let body = message.encode_to_vec();
        let mut hasher = std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default().build_hasher();
        hasher.write(&body);
        let name: Arc<str> = name.into();
        let keys = keys.iter().map(|key| Arc::from(*key)).collect();
        let item = Item { name: name.clone(), version: hasher.finish().max(1), body: body.into(), keys };
        self.change(|world| drop(world.items.insert((kind, name), item)));
    }

    /// Takes a resource back.
    pub(crate) fn remove(&self, kind: Kind, name: &str) {
        self.change(|world| drop(world.items.remove(&(kind, name.into()))));
    }

    /// Whether it was told.
    pub(crate) fn has(&self, kind: Kind, name: &str) -> bool {
        self.world.lock().unwrap().items.contains_key(&(kind, name.into()))
    }

    fn change(&self, change: impl FnOnce(&mut World)) {
        let mut world = self.world.lock().unwrap();
        change(&mut world);
        world.end += 1;
        self.changed.send_replace(world.end);
    }
}

impl Source for World {
    type Found<'a> = &'a Item;

    fn get(&self, kind: Kind, name: &str) -> Option<&Item> {
        self.items.get(&(kind, name.into()))
    }

    fn members(&self, kind: Kind, name: &str) -> impl Iterator<Item = &Item> {
        self.items
            .iter()
            .filter(move |((of, _), item)| {
                *of == kind && (&*item.name == name || item.keys.iter().any(|key| &**key == name))
            })
            .map(|(_, item)| item)
    }

    fn end(&self, _: Kind) -> u64 {
        self.end
    }

    fn changed(&self, _: Kind, since: u64) -> Option<Vec<Arc<str>>> {
        (since == self.end).then(Vec::new)
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Controller {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let mut requests = request.into_inner();
        let (send, receive) = mpsc::channel(16);
        let (world, mut changed) = (self.world.clone(), self.changed.subscribe());
        tokio::spawn(async move {
            let mut server = wire::delta::Server::default();
            loop {
                loop {
                    let response = server.next(&*world.lock().unwrap(), Instant::now());
                    let Some(response) = response else { break };
                    if send.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    request = requests.message() => match request {
                        Ok(Some(request)) => server.receive(request).unwrap(),
                        _ => return,
                    },
                    _ = changed.changed() => {}
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}
