//! Tests of discovery over real streams: TLS and gRPC on loopback, with the client that proxies use.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use identity::{Authority, Constraints, Identity, SpiffeId, Trust};
use runtime::enrol::{Connector, Controller};
use telemetry::metrics::Registry;
use tokio::net::TcpListener;
use wire::Kind;
use wire::client::{Link, Outcome, Settings, Subscriber};
use wire::delta::{Body, Rejected, Rejection, Update};
use wire::discovery::Protocol;
use wire::name::Node;

use super::*;
use crate::clusters::queue::queues;
use crate::inventory::{Inventory, Settings as InventorySettings};
use crate::metrics::Metrics;
use crate::objects::event::{self, Event};
use crate::objects::{self, Kind as ObjectKind, Object};
use crate::pipeline;

mod streams;

const DAY: Duration = Duration::from_secs(86_400);
const TIMEOUT: Duration = Duration::from_secs(5);

/// A root with an intermediate for each cluster.
struct Mesh {
    root: Authority,
    west: Authority,
    east: Authority,
    trust: Trust,
}

fn mesh() -> &'static Mesh {
    static MESH: OnceLock<Mesh> = OnceLock::new();
    MESH.get_or_init(|| {
        let root = Authority::self_signed_root("mesh", DAY).unwrap();
        let constraints = Constraints::default();
        let west = root.intermediate_for("west", &constraints, DAY).unwrap();
        let east = root.intermediate_for("east", &constraints, DAY).unwrap();
        let issuers = [west.issuer_of("west"), east.issuer_of("east")];
        let trust = Trust::new("cluster.local", root.roots().to_vec(), issuers).unwrap();
        Mesh { root, west, east, trust }
    })
}

fn identity_of(authority: &Authority, namespace: &str, account: &str, dns: &[&str]) -> Identity {
    let id = SpiffeId::new("cluster.local", namespace, account).unwrap();
    Identity::new(authority.credential(&id, dns, DAY).unwrap(), mesh().trust.clone())
}

/// A controller without links to clusters. The tests send its events.
struct Bench {
    shared: Arc<Shared>,
    events: Queues,
    address: SocketAddr,
    serving: tokio::task::JoinHandle<()>,
}

const SERVER: &str = "isthmus-controller.isthmus-system.svc";

impl Bench {
    async fn start(limits: Limits) -> Bench {
        Bench::start_at("127.0.0.1:0".parse().unwrap(), limits).await
    }

    async fn start_at(address: SocketAddr, limits: Limits) -> Bench {
        let settings = InventorySettings {
            cluster: "west".into(),
            namespace: "isthmus-system".into(),
            root_namespace: "istio-system".into(),
            cluster_domain: "cluster.local".into(),
            trust_domain: "cluster.local".into(),
        };
        let metrics = Metrics::new(&Registry::new());
        let state = State::new(Inventory::new(settings), metrics.clone());
        let (events, receiver) = queues();
        let shared = Shared::new(state.clone(), events.clone(), limits);
        let listener = loop {
            // The previous controller may hold the port for a moment.
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let address = listener.local_addr().unwrap();
        let identity = identity_of(&mesh().west, "isthmus-system", "isthmus-controller", &[SERVER]);
        let routes = tonic::service::Routes::new(Discovery::service(shared.clone(), identity.clone()));
        let accept = identity::Accept { client: identity::ClientAuth::Optional, alpn: identity::alpn::DISCOVERY };
        let clients = crate::ca::serve::Clients::OfTheMesh(accept, shared.admission(identity.clone()));
        let connections = crate::ca::serve::connections(listener, identity, clients, metrics.registry());
        let stop = shared.state.stop.clone().cancelled_owned();
        let publishing = pipeline::run(state, receiver, None);
        let serving = tokio::spawn(async move {
            let serve = serve::serve(connections, routes, stop, Duration::from_millis(200));
            tokio::select! {
                served = serve => served.unwrap(),
                () = publishing => {}
            }
        });
        Bench { shared, events, address, serving }
    }

    async fn stop(self) {
        self.shared.state.stop.cancel();
        self.serving.await.unwrap();
    }

    async fn send(&self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            let source = match &event {
                Event::ClusterAdded(_) => Source::Controller,
                _ => Source::Objects("west".into()),
            };
            self.events.send(source, event).await.unwrap();
        }
    }

    async fn put(&self, object: Object) {
        self.send([Event::Upsert { cluster: "west".into(), object }]).await;
    }

    /// Adds the clusters `west` and `east`, with complete lists and these objects in `west`.
    async fn fill(&self, objects: Vec<Object>) {
        let add = |name: &str| {
            let network = format!("net-{name}").into();
            Event::ClusterAdded(event::Cluster {
                name: name.into(),
                own: name == "west",
                network,
                server: "".into(),
                joined: 0,
            })
        };
        self.send([add("west"), add("east")]).await;
        for kind in ObjectKind::ALL {
            self.send([
                Event::Listing { cluster: "east".into(), kind },
                Event::Listed { cluster: "east".into(), kind },
            ])
            .await;
            self.send([Event::Listing { cluster: "west".into(), kind }]).await;
        }
        for object in objects {
            self.put(object).await;
        }
        self.send(ObjectKind::ALL.map(|kind| Event::Listed { cluster: "west".into(), kind })).await;
    }

    fn connector(&self, identity: &Identity) -> Connector {
        let controller: Controller = self.address.to_string().parse().unwrap();
        Connector::with_identity(controller.named(SERVER).unwrap(), identity.clone())
    }

    fn proxy(&self, identity: &Identity, node: &str) -> Proxy {
        let node: Node = node.parse().unwrap();
        let store = ProxyStore::default();
        let connector = self.connector(identity);
        let settings = Settings { absent_ttl: Duration::from_secs(1), ..Settings::default() };
        let connect = move || std::future::ready(Ok::<_, std::convert::Infallible>(connector.channel()));
        let (subscriber, discovery) = wire::client::discovery(&node, store.clone(), connect, settings);
        tokio::spawn(discovery.run());
        Proxy { subscriber, store }
    }

    fn frontend(&self) -> Proxy {
        let identity = identity_of(&mesh().west, "default", "frontend", &[]);
        self.proxy(&identity, "sidecar~10.244.0.9~frontend-1.default~west")
    }
}

/// The store of a proxy: the resources that it receives.
#[derive(Clone, Default)]
struct ProxyStore {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    bodies: BTreeMap<(Kind, String), Body>,
    changes: usize,
    reject: bool,
}

impl wire::client::Store for ProxyStore {
    fn apply(&mut self, update: Update) -> Result<(), Rejected> {
        let mut inner = self.inner.lock().unwrap();
        for name in update.removed {
            inner.bodies.remove(&(update.kind, name));
        }
        let mut rejected = Vec::new();
        for changed in update.changed {
            inner.changes += 1;
            if inner.reject {
                rejected.push(Rejection { name: changed.name, reason: "rejected by the test".into() });
            } else {
                inner.bodies.insert((update.kind, changed.name), changed.body);
            }
        }
        if rejected.is_empty() { Ok(()) } else { Err(Rejected(rejected)) }
    }
}

struct Proxy {
    subscriber: Subscriber,
    store: ProxyStore,
}

impl Proxy {
    async fn demand(&self, kind: Kind, name: &str) -> Outcome {
        self.subscriber.demand(kind, name, TIMEOUT).await
    }

    fn count(&self, kind: Kind) -> usize {
        self.store.inner.lock().unwrap().bodies.keys().filter(|(of, _)| *of == kind).count()
    }

    fn changes(&self) -> usize {
        self.store.inner.lock().unwrap().changes
    }

    fn endpoint(&self, name: &str) -> Option<wire::discovery::Endpoint> {
        match self.store.inner.lock().unwrap().bodies.get(&(Kind::Endpoint, name.to_string()))? {
            Body::Endpoint(endpoint) => Some(endpoint.clone()),
            other => panic!("{other:?}"),
        }
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < TIMEOUT, "{what}: not within {TIMEOUT:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn host(index: usize) -> String {
    format!("s{index}.default.svc.cluster.local")
}

fn service(index: usize) -> Object {
    let [high, low] = u16::try_from(index + 1).unwrap().to_be_bytes();
    Object::Service(objects::Service {
        namespace: "default".into(),
        name: format!("s{index}").into(),
        cluster_ips: [[10, 96, high, low].into()].into(),
        ports: vec![objects::ServicePort {
            name: "http".into(),
            number: 80,
            protocol: Protocol::Http,
            ..Default::default()
        }],
        selects: true,
        ..Default::default()
    })
}

fn slice(index: usize, endpoints: usize, unready: usize) -> Object {
    let [high, low] = u16::try_from(index).unwrap().to_be_bytes();
    Object::Slice(objects::Slice {
        namespace: "default".into(),
        name: format!("s{index}-x").into(),
        service: format!("s{index}").into(),
        ports: [("http".into(), 8080)].into(),
        endpoints: (0..endpoints)
            .map(|i| objects::SliceEndpoint {
                ip: [10, 100 + high, low, u8::try_from(i).unwrap()].into(),
                ready: i >= unready,
                terminating: false,
                serving: true,
                pod: None,
                named: false,
                spot: objects::Spot { node: None, zone: Some("us-west-1a".into()), ..Default::default() }.into(),
            })
            .collect(),
        ..Default::default()
    })
}

fn frontend_pod() -> Object {
    Object::Pod(objects::Pod {
        name: "frontend-1".into(),
        template: Arc::new(objects::Template {
            namespace: "default".into(),
            service_account: "frontend".into(),
            labels: [("security.istio.io/tlsMode".into(), "istio".into())].into(),
            workload: "frontend".into(),
            topology: None,
        }),
        ..Default::default()
    })
}

fn mesh_of(services: usize, endpoints: usize) -> Vec<Object> {
    let services = (0..services).flat_map(|index| [service(index), slice(index, endpoints, 0)]);
    services.chain([frontend_pod()]).collect()
}
