//! Pods: network namespaces on one bridge, each with an application and a sidecar.

use std::future::Future;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake_controller::FakeController;
use identity::{Authority, Constraints, Identity, SpiffeId, Trust};
use isthmus_sidecar::dns;
use isthmus_sidecar::workers::{self, Listeners, SidecarSetup};
use net::link::{Links, Route, Via};
use net::namespace::NetNamespace;
use runtime::admission::{Admission, Limits};
use runtime::drain;
use telemetry::metrics::Registry;
use tokio::runtime::Runtime;
use wire::discovery as d;
use wire::name::{self, Node, Role};
use wire::{Kind, discovery};

use crate::DNS_SERVER;
use crate::app::App;

const DOMAIN: &str = "cluster.local";
const CONTROLLER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);

type Error = Box<dyn std::error::Error>;

/// A bridge in a network namespace of its own, with a controller.
pub(crate) struct Net {
    bridge: NetNamespace,
    controller: FakeController,
    runtime: Arc<Runtime>,
    root: Authority,
    cluster: Authority,
    resolv_conf: tempfile::TempPath,
}

/// A pod.
pub(crate) struct Pod {
    name: String,
    account: String,
    zone: String,
    namespace: NetNamespace,
    ip: Ipv4Addr,
}

impl Net {
    /// Creates the bridge and starts the controller.
    pub(crate) fn new() -> Result<Self, Error> {
        let bridge = NetNamespace::create()?;
        let mut links = Links::open_in(&bridge)?;
        links.add_bridge("br0")?;
        links.add_address("br0", format!("{CONTROLLER}/24").parse()?)?;
        links.up("br0")?;
        let runtime = Arc::new(runtime_in(&bridge)?);
        let controller =
            runtime.block_on(async { tokio::spawn(FakeController::plaintext(CONTROLLER.into())).await })??;
        let root = Authority::self_signed_root("test", Duration::from_secs(3600))?;
        let cluster = root.intermediate_for("west", &Constraints::default(), Duration::from_secs(3600))?;
        let issuer = cluster.issuer_of("west").public_key_sha256.to_vec().into();
        let trust = d::Trust {
            trust_domain: DOMAIN.into(),
            roots: root.roots().iter().map(|root| root.to_vec().into()).collect(),
            issuers: vec![d::Issuer { cluster: "west".into(), public_key_sha256: issuer }],
        };
        controller.resources().push(Kind::Trust, name::MESH, &trust, &[]);
        let settings =
            d::MeshConfig { cluster_domain: DOMAIN.into(), locality_load_balancing: true, ..d::MeshConfig::default() };
        controller.resources().push(Kind::MeshConfig, name::MESH, &settings, &[]);
        let mut file = tempfile::NamedTempFile::new()?;
        writeln!(file, "nameserver {}", DNS_SERVER.0)?;
        let resolv_conf = file.into_temp_path();
        Ok(Self { bridge, controller, runtime, root, cluster, resolv_conf })
    }

    /// Starts a pod with an application at port 9080 and a sidecar, at 10.0.0.`last`.
    pub(crate) fn pod(&self, name: &str, account: &str, zone: &str, last: u8) -> Pod {
        let ip = Ipv4Addr::new(10, 0, 0, last);
        let namespace = NetNamespace::create().unwrap();
        let outer = format!("veth{last}");
        let mut links = Links::open_in(&self.bridge).unwrap();
        links.add_veth(&outer, "eth0", Some(&namespace)).unwrap();
        links.attach(&outer, "br0").unwrap();
        links.up(&outer).unwrap();
        let mut links = Links::open_in(&namespace).unwrap();
        links.add_address("eth0", format!("{ip}/24").parse().unwrap()).unwrap();
        links.up("eth0").unwrap();
        let everywhere = "0.0.0.0/0".parse().unwrap();
        let via = Via::Gateway(CONTROLLER.into(), "eth0");
        links.add_route(Route { to: everywhere, via, source: None }).unwrap();
        let capture = net::firewall::Capture { dns_servers: dns::servers(&self.resolv_conf), ..Default::default() };
        namespace.run_in(|| net::firewall::install_capture(&capture)).unwrap().unwrap();

        let pod = Pod { name: name.into(), account: account.into(), zone: zone.into(), namespace, ip };
        self.push_workload(&pod);
        self.start_sidecar(&pod);
        let (app_name, address) = (pod.name.clone(), SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9080)));
        let (started, listening) = std::sync::mpsc::channel();
        let run = move || {
            single_threaded().block_on(async move {
                let _app = App::listen(&app_name, address).await;
                started.send(()).unwrap();
                std::future::pending::<()>().await;
            });
        };
        pod.namespace.spawn_in("app", run).unwrap();
        listening.recv_timeout(Duration::from_secs(10)).expect("the application listens");
        pod
    }

    fn push_workload(&self, pod: &Pod) {
        let name = name::workload("west", "default", &pod.name);
        let workload = d::Workload {
            cluster: "west".into(),
            network: "net-west".into(),
            namespace: "default".into(),
            pod: pod.name.clone(),
            locality: Some(pod.locality()),
            ports: vec![d::InboundPort { number: 9080, protocol: d::Protocol::Http.into(), ..Default::default() }],
            peer_authentication: name::MESH.into(),
            ..d::Workload::default()
        };
        self.controller.resources().push(Kind::Workload, &name, &workload, &[]);
        self.controller.resources().push(Kind::PeerAuthentication, name::MESH, &d::PeerAuthentication::default(), &[]);
    }

    fn start_sidecar(&self, pod: &Pod) {
        let id = SpiffeId::new(DOMAIN, "default", &pod.account).unwrap();
        let credential = self.cluster.credential(&id, &[], Duration::from_secs(600)).unwrap();
        let identity = Identity::new(credential, Trust::new(DOMAIN, self.root.roots().to_vec(), []).unwrap());
        let (controller, name, ip) = (self.controller.address(), pod.name.clone(), pod.ip);
        let forwarding = dns::Forwarding { resolv_conf: self.resolv_conf.to_path_buf(), mark: Some(net::PROXY_MARK) };
        let (ready, started) = std::sync::mpsc::channel();
        let run = move || {
            let listen = |port| -> Vec<TcpListener> {
                let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
                net::socket::listen_shared(any, 2, 128).unwrap()
            };
            let (_signal, watch, _drained) = drain::channel();
            let setup = SidecarSetup {
                node: Node {
                    role: Role::Sidecar,
                    ip: ip.into(),
                    pod: name,
                    namespace: "default".into(),
                    cluster: "west".into(),
                },
                network: "net-west".into(),
                identity,
                listeners: std::iter::zip(listen(15001), listen(15006))
                    .map(|(outbound, inbound)| Listeners { outbound: vec![outbound], inbound: vec![inbound] })
                    .collect(),
                original_destination: Arc::new(net::original_destination),
                mark: Some(net::PROXY_MARK),
                outbound: Admission::new(Limits::default()),
                inbound: Admission::new(Limits::default()),
                registry: Registry::new(),
                drain: watch,
            };
            runtime::control::run(tokio::task::LocalSet::new().run_until(async move {
                let mut running =
                    workers::start(setup, move || fake_controller::channel(controller, Some(net::PROXY_MARK))).unwrap();
                let names = dns::Names::new(
                    "west".into(),
                    "net-west".into(),
                    running.published.clone(),
                    running.subscriber.clone(),
                );
                dns::serve(names, 15053, forwarding).await.unwrap();
                running.opened().await;
                ready.send(()).unwrap();
                std::future::pending::<()>().await;
            }))
            .unwrap();
        };
        pod.namespace.spawn_in("sidecar", run).unwrap();
        started.recv_timeout(Duration::from_secs(10)).expect("the sidecar has received its workload");
    }

    /// Pushes a service and its endpoints.
    pub(crate) fn push_service(
        &self,
        service: &str,
        at: (Ipv4Addr, u16),
        protocol: discovery::Protocol,
        pods: &[&Pod],
    ) {
        let hostname = format!("{service}.default.svc.{DOMAIN}");
        let port = d::Port { number: at.1.into(), name: "p".into(), protocol: protocol.into(), server_names: vec![] };
        let message = d::Service {
            hostname: hostname.clone(),
            name: service.into(),
            namespace: "default".into(),
            ports: vec![port],
            addresses: vec![d::VirtualAddress { cluster: String::new(), ip: at.0.octets().to_vec().into() }],
            ..d::Service::default()
        };
        let alias = name::address("west", IpAddr::V4(at.0));
        self.controller.resources().push(Kind::Service, &hostname, &message, &[&alias]);
        for pod in pods {
            let direct = d::Direct {
                ip: pod.ip.octets().to_vec().into(),
                ports: From::from([(at.1.into(), 9080)]),
                identity: format!("spiffe://{DOMAIN}/ns/default/sa/{}", pod.account),
                mutual_tls: true,
                pod: pod.name.clone(),
                ..d::Direct::default()
            };
            let endpoint = d::Endpoint {
                service: hostname.clone(),
                cluster: "west".into(),
                network: "net-west".into(),
                locality: Some(pod.locality()),
                weight: 1,
                kind: Some(d::endpoint::Kind::Direct(direct)),
                ..d::Endpoint::default()
            };
            let name = name::endpoint(&hostname, "net-west", "west", &pod.name);
            let collection = name::endpoints(&hostname, "net-west");
            self.controller.resources().push(Kind::Endpoint, &name, &endpoint, &[&collection]);
        }
    }

    /// Runs a future in the namespace of the bridge, outside of every pod.
    pub(crate) fn run_outside<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let runtime = self.runtime.clone();
        runtime.block_on(async move { tokio::spawn(work).await.unwrap() })
    }
}

impl Pod {
    fn locality(&self) -> d::Locality {
        d::Locality { region: "us-west".into(), zone: self.zone.clone(), subzone: String::new() }
    }

    pub(crate) fn address(&self, port: u16) -> SocketAddr {
        (self.ip, port).into()
    }

    /// Runs a future in the pod, as its application would.
    pub(crate) fn run<T, F>(&self, work: impl FnOnce() -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let run = move || single_threaded().block_on(work());
        self.namespace.spawn_in("client", run).unwrap().join().expect("the future does not panic").unwrap()
    }

    /// Returns a function that disconnects the pod silently: other pods still know its hardware address, and it drops
    /// all packets.
    pub(crate) fn disconnection(&self) -> impl FnOnce() + Send + 'static {
        let links = Mutex::new(Links::open_in(&self.namespace).unwrap());
        let address = format!("{}/24", self.ip).parse().unwrap();
        move || links.lock().unwrap().delete_address("eth0", address).unwrap()
    }
}

fn single_threaded() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Returns a runtime whose threads are in `namespace`.
fn runtime_in(namespace: &NetNamespace) -> Result<Runtime, Error> {
    let entered = namespace.try_clone()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .on_thread_start(move || entered.enter().expect("the bridge's namespace"))
        .build()?;
    Ok(runtime)
}
