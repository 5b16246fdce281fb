//! A mesh inside this process: real sidecars with real certificates on loopback, without capture.
//!
//! The whole of 127.0.0.0/8 belongs to this machine, which takes capture's place: an application connects to
//! `127.9.<n>.1` at the port of its sidecar's outbound side, and that address stands for the service's virtual one. A
//! pod's inbound side listens where its endpoint says that it is, and its application at another port.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake_controller::{FakeController, Resources};
use identity::{Authority, Constraints, Identity, SpiffeId, Trust};
use runtime::drain::{self, Drained, Signal};
use telemetry::metrics::{Family, Registry};
use wire::discovery as d;
use wire::name::{Node, Role};
use wire::{Kind, name};

use isthmus_sidecar::workers::{self, Listeners, SidecarSetup};

use crate::app::{App, speaks_first};
use crate::gate::Gate;

pub(crate) const DOMAIN: &str = "cluster.local";

/// Everything that the mesh has.
pub(crate) struct World {
    controller: FakeController,
    /// Stands before the controller, and can cut it off.
    pub(crate) link: Gate,
    root: Authority,
    clusters: Mutex<HashMap<String, Arc<Authority>>>,
}

/// A pod's sidecar.
pub(crate) struct Sidecar {
    /// The port of its outbound side.
    pub(crate) outbound: u16,
    pub(crate) registry: Registry,
    pub(crate) signal: Signal,
    drained: Option<Drained>,
    destinations: Arc<Mutex<HashMap<SocketAddr, SocketAddr>>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

/// A pod with an application.
pub(crate) struct Pod {
    pub(crate) sidecar: Sidecar,
    pub(crate) app: App,
    /// Stands before the inbound side, and can cut it off.
    pub(crate) gate: Gate,
    /// The inbound side itself.
    pub(crate) inbound: SocketAddr,
    pub(crate) identity: SpiffeId,
    pub(crate) name: String,
    pub(crate) cluster: String,
    pub(crate) zone: String,
}

impl World {
    pub(crate) async fn new() -> Arc<Self> {
        let root = Authority::self_signed_root("test", Duration::from_secs(3600)).unwrap();
        let controller = FakeController::plaintext(Ipv4Addr::LOCALHOST.into()).await.unwrap();
        let link = Gate::start(controller.address()).await;
        let world = Self { controller, link, root, clusters: Mutex::default() };
        world.settings(|_| {});
        Arc::new(world)
    }

    /// The resources that the controller pushes.
    pub(crate) fn resources(&self) -> &Resources {
        self.controller.resources()
    }

    /// Changes the mesh's settings.
    pub(crate) fn settings(&self, change: impl FnOnce(&mut d::MeshConfig)) {
        let mut settings = d::MeshConfig {
            mesh_id: "test".into(),
            cluster_domain: DOMAIN.into(),
            locality_load_balancing: true,
            protocol_detection_timeout_ms: 500,
            ..d::MeshConfig::default()
        };
        change(&mut settings);
        self.resources().push(Kind::MeshConfig, name::MESH, &settings, &[]);
    }

    /// The intermediate of a cluster; the trust bundle then names it.
    fn authority(&self, cluster: &str) -> Arc<Authority> {
        let mut clusters = self.clusters.lock().unwrap();
        let authority = clusters.entry(cluster.to_owned()).or_insert_with(|| {
            let made = self.root.intermediate_for(cluster, &Constraints::default(), Duration::from_secs(3600));
            Arc::new(made.unwrap())
        });
        let authority = authority.clone();
        let issuers = clusters.iter().map(|(cluster, authority)| d::Issuer {
            cluster: cluster.clone(),
            public_key_sha256: authority.issuer_of(cluster).public_key_sha256.to_vec().into(),
        });
        let trust = d::Trust {
            trust_domain: DOMAIN.into(),
            roots: self.root.roots().iter().map(|root| root.to_vec().into()).collect(),
            issuers: issuers.collect(),
        };
        self.resources().push(Kind::Trust, name::MESH, &trust, &[]);
        authority
    }

    /// Starts a sidecar. `listening` is its inbound side's listener, whose connections go to `app`.
    pub(crate) fn sidecar(
        self: &Arc<Self>,
        cluster: &str,
        pod: &str,
        account: &str,
        inbound: Vec<TcpListener>,
        app: SocketAddr,
    ) -> Sidecar {
        let id = SpiffeId::new(DOMAIN, "default", account).unwrap();
        let credential = self.authority(cluster).credential(&id, &[], Duration::from_secs(600)).unwrap();
        let trust = Trust::new(DOMAIN, self.root.roots().to_vec(), []).unwrap();
        let identity = Identity::new(credential, trust);
        let outbound = TcpListener::bind("0.0.0.0:0").unwrap();
        outbound.set_nonblocking(true).unwrap();
        let outbound_port = outbound.local_addr().unwrap().port();
        let destinations: Arc<Mutex<HashMap<SocketAddr, SocketAddr>>> = Arc::default();
        let known = destinations.clone();
        let registry = Registry::new();
        let (signal, watch, drained) = drain::channel();
        let setup = SidecarSetup {
            node: Node {
                role: Role::Sidecar,
                ip: Ipv4Addr::LOCALHOST.into(),
                pod: pod.to_owned(),
                namespace: "default".to_owned(),
                cluster: cluster.to_owned(),
            },
            network: format!("net-{cluster}").into(),
            identity,
            listeners: vec![Listeners { outbound: vec![outbound], inbound }],
            connections: Default::default(),
            original_destination: Arc::new(move |stream| {
                let local = stream.local_addr()?;
                if local.port() != outbound_port {
                    return Ok(app);
                }
                Ok(known.lock().unwrap().get(&local).copied().unwrap_or(local))
            }),
            mark: None,
            registry: registry.clone(),
            drain: watch,
        };
        let controller = self.link.address;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, started) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            runtime::control::run(tokio::task::LocalSet::new().run_until(async move {
                let mut running = workers::start(setup, move || fake_controller::channel(controller, None)).unwrap();
                running.opened().await;
                ready.send(()).unwrap();
                let _ = stopped.await;
                drop(running);
            }))
            .unwrap();
        });
        let me = name::workload(cluster, "default", pod);
        if !self.has(Kind::Workload, &me) {
            self.introduce(cluster, pod, "us-west-1a", vec![]);
            self.let_in(cluster, pod);
        }
        started.recv_timeout(Duration::from_secs(10)).expect("a sidecar that knows itself");
        let (drained, stop) = (Some(drained), Some(stop));
        Sidecar { outbound: outbound_port, registry, signal, drained, destinations, stop }
    }

    fn has(&self, kind: Kind, name: &str) -> bool {
        self.resources().has(kind, name)
    }

    /// A pod that only calls others.
    pub(crate) async fn client(self: &Arc<Self>, account: &str) -> Sidecar {
        let (world, account) = (self.clone(), account.to_owned());
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        tokio::task::spawn_blocking(move || {
            let inbound = TcpListener::bind("127.0.0.1:0").unwrap();
            inbound.set_nonblocking(true).unwrap();
            world.sidecar("west", &format!("{account}-pod"), &account, vec![inbound], nowhere)
        })
        .await
        .unwrap()
    }

    /// A pod that serves HTTP. Its endpoint is not told yet: see [`World::serve`].
    pub(crate) async fn pod(
        self: &Arc<Self>,
        cluster: &str,
        zone: &str,
        name: &str,
        account: &str,
        protocol: d::Protocol,
    ) -> Pod {
        self.pod_of(cluster, zone, name, account, protocol, App::start(name).await).await
    }

    /// A pod whose application is not HTTP.
    pub(crate) async fn tcp_pod(self: &Arc<Self>, cluster: &str, zone: &str, name: &str, account: &str) -> Pod {
        self.pod_of(cluster, zone, name, account, d::Protocol::Tcp, App::at(speaks_first().await)).await
    }

    pub(crate) async fn pod_of(
        self: &Arc<Self>,
        cluster: &str,
        zone: &str,
        name: &str,
        account: &str,
        protocol: d::Protocol,
        app: App,
    ) -> Pod {
        // Two, as with two workers.
        let inbound = net::socket::listen_shared(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), 2, 1024).unwrap();
        let address = inbound[0].local_addr().unwrap();
        let gate = Gate::start(address).await;
        let port = d::InboundPort {
            number: app.address.port().into(),
            protocol: protocol.into(),
            service: format!("{account}.default.svc.{DOMAIN}"),
            service_port: 9080,
            limits: None,
        };
        self.introduce(cluster, name, zone, vec![port]);
        self.let_in(cluster, name);
        let (world, served) = (self.clone(), app.address);
        let (cluster_name, pod_name, account_name) = (cluster.to_owned(), name.to_owned(), account.to_owned());
        let sidecar = tokio::task::spawn_blocking(move || {
            world.sidecar(&cluster_name, &pod_name, &account_name, inbound, served)
        });
        Pod {
            sidecar: sidecar.await.unwrap(),
            app,
            gate,
            inbound: address,
            identity: SpiffeId::new(DOMAIN, "default", account).unwrap(),
            name: name.to_owned(),
            cluster: cluster.to_owned(),
            zone: zone.to_owned(),
        }
    }

    /// Tells a pod's sidecar what it serves and whether it takes plaintext: all of its inbound side but who may.
    pub(crate) fn introduce(&self, cluster: &str, pod: &str, zone: &str, ports: Vec<d::InboundPort>) {
        let me = wire::name::workload(cluster, "default", pod);
        let workload = workload(cluster, pod, zone, ports);
        self.resources().push(Kind::Workload, &me, &workload, &[]);
        let name = &workload.peer_authentication;
        self.resources().push(Kind::PeerAuthentication, name, &d::PeerAuthentication::default(), &[]);
    }

    /// Pushes the pod's only authorization policy, which allows everything.
    pub(crate) fn let_in(&self, cluster: &str, pod: &str) {
        let allow_all = d::AuthorizationPolicy {
            name: "default/allow-all".into(),
            rules: vec![d::AuthorizationRule::default()],
            ..d::AuthorizationPolicy::default()
        };
        self.resources().push(Kind::AuthorizationPolicy, &policy_of(cluster, pod), &allow_all, &[]);
    }

    /// Limits what a pod's sidecar carries to its application. Returns when the limits are pushed.
    pub(crate) fn limit(&self, pod: &Pod, limits: d::InboundLimits) {
        let port = d::InboundPort {
            number: pod.app.address.port().into(),
            protocol: d::Protocol::Http.into(),
            limits: Some(limits),
            ..d::InboundPort::default()
        };
        self.introduce(&pod.cluster, &pod.name, &pod.zone, vec![port]);
    }

    /// Sets what a pod's inbound side accepts.
    pub(crate) fn accept(&self, pod: &Pod, mode: d::PeerMode) {
        let authentication = d::PeerAuthentication { mode: mode.into(), ports: Default::default() };
        self.resources().push(Kind::PeerAuthentication, &policy_of(&pod.cluster, &pod.name), &authentication, &[]);
    }

    /// Tells a service with port 9080 at the virtual address 240.240.0.`n`.
    pub(crate) fn service(&self, service: &str, n: u8, protocol: d::Protocol, remote: &[&str]) {
        self.service_with(service, n, 9080, protocol, remote);
    }

    /// The same with another port.
    pub(crate) fn service_at_port(&self, service: &str, n: u8, port: u16, protocol: d::Protocol) {
        self.service_with(service, n, port, protocol, &[]);
    }

    fn service_with(&self, service: &str, n: u8, port: u16, protocol: d::Protocol, remote: &[&str]) {
        let hostname = format!("{service}.default.svc.{DOMAIN}");
        let port = d::Port { number: port.into(), name: "p".into(), protocol: protocol.into(), server_names: vec![] };
        let message = d::Service {
            hostname: hostname.clone(),
            name: service.to_owned(),
            namespace: "default".into(),
            ports: vec![port],
            addresses: vec![d::VirtualAddress { cluster: String::new(), ip: vec![240, 240, 0, n].into() }],
            exports: remote
                .iter()
                .map(|cluster| d::Export { cluster: (*cluster).into(), network: format!("net-{cluster}") })
                .collect(),
            ..d::Service::default()
        };
        let aliases = ["west", "east"].map(|cluster| name::address(cluster, virtual_address(n)));
        self.resources().push(Kind::Service, &hostname, &message, &[&aliases[0], &aliases[1]]);
    }

    /// Tells a service without an address, whose pods (all at 127.0.0.1 here) are asked for at their own.
    pub(crate) fn headless(&self, service: &str, protocol: d::Protocol) {
        let hostname = format!("{service}.default.svc.{DOMAIN}");
        let port = d::Port { number: 9080, name: "p".into(), protocol: protocol.into(), server_names: vec![] };
        let message = d::Service {
            hostname: hostname.clone(),
            name: service.to_owned(),
            namespace: "default".into(),
            ports: vec![port],
            headless: true,
            ..d::Service::default()
        };
        let alias = name::address("west", Ipv4Addr::LOCALHOST.into());
        self.resources().push(Kind::Service, &hostname, &message, &[&alias]);
    }

    /// Tells that a pod serves a service. `change` may alter what is told.
    pub(crate) fn serve(&self, service: &str, pod: &Pod, change: impl FnOnce(&mut d::Endpoint)) {
        let hostname = format!("{service}.default.svc.{DOMAIN}");
        let network = format!("net-{}", pod.cluster);
        let IpAddr::V4(ip) = pod.gate.address.ip() else { unreachable!() };
        let direct = d::Direct {
            ip: ip.octets().to_vec().into(),
            ports: From::from([(9080, pod.gate.address.port().into())]),
            identity: pod.identity.to_string(),
            mutual_tls: true,
            pod: pod.name.clone(),
            workload: Some(labels(&pod.name)),
            ..d::Direct::default()
        };
        let mut endpoint = d::Endpoint {
            service: hostname.clone(),
            cluster: pod.cluster.clone(),
            network: network.clone(),
            locality: Some(locality(&pod.zone)),
            weight: 1,
            kind: Some(d::endpoint::Kind::Direct(direct)),
            ..d::Endpoint::default()
        };
        change(&mut endpoint);
        let name = wire::name::endpoint(&hostname, &network, &pod.cluster, &pod.name);
        // All clusters of these tests see each other's pods directly.
        let collections = ["west", "east"].map(|cluster| wire::name::endpoints(&hostname, &format!("net-{cluster}")));
        self.resources().push(Kind::Endpoint, &name, &endpoint, &[&collections[0], &collections[1]]);
    }

    /// Takes that back.
    pub(crate) fn unserve(&self, service: &str, pod: &Pod) {
        let hostname = format!("{service}.default.svc.{DOMAIN}");
        let network = format!("net-{}", pod.cluster);
        self.resources().remove(Kind::Endpoint, &wire::name::endpoint(&hostname, &network, &pod.cluster, &pod.name));
    }
}

pub(crate) fn virtual_address(n: u8) -> IpAddr {
    Ipv4Addr::new(240, 240, 0, n).into()
}

fn locality(zone: &str) -> d::Locality {
    let region = zone.rsplit_once('-').map_or(zone, |(region, _)| region);
    d::Locality { region: region.to_owned(), zone: zone.to_owned(), subzone: String::new() }
}

fn labels(pod: &str) -> d::WorkloadLabels {
    d::WorkloadLabels {
        workload: format!("{pod}-deploy"),
        namespace: "default".into(),
        app: pod.into(),
        ..Default::default()
    }
}

fn workload(cluster: &str, pod: &str, zone: &str, ports: Vec<d::InboundPort>) -> d::Workload {
    d::Workload {
        cluster: cluster.to_owned(),
        network: format!("net-{cluster}"),
        namespace: "default".to_owned(),
        pod: pod.to_owned(),
        locality: Some(locality(zone)),
        labels: Some(labels(pod)),
        ports,
        peer_authentication: policy_of(cluster, pod),
        authorization_policies: vec![policy_of(cluster, pod)],
        ..d::Workload::default()
    }
}

/// The name of a pod's policies: each pod has its own, so that a test changes one alone.
pub(crate) fn policy_of(cluster: &str, pod: &str) -> String {
    format!("{cluster}/default/{pod}")
}

impl Sidecar {
    /// Where an application of this pod connects to in order to reach `destination`.
    pub(crate) fn way_to(&self, destination: SocketAddr) -> SocketAddr {
        let mut destinations = self.destinations.lock().unwrap();
        let here = SocketAddr::from((Ipv4Addr::new(127, 9, destinations.len() as u8, 1), self.outbound));
        if let Some((known, _)) = destinations.iter().find(|(_, to)| **to == destination) {
            return *known;
        }
        destinations.insert(here, destination);
        here
    }

    /// Where it connects to in order to reach port 9080 of the service with the virtual address `n`.
    pub(crate) fn service(&self, n: u8) -> SocketAddr {
        self.way_to(SocketAddr::new(virtual_address(n), 9080))
    }

    /// The sum of a counter over the series that have these labels.
    pub(crate) fn counted(&self, family: &Family, labels: &[(&str, &str)]) -> u64 {
        self.registry.total(family, |series| labels.iter().all(|label| series.contains(label)))
    }

    /// Drains; says whether all connections ended in time.
    pub(crate) async fn drain(&mut self, within: Duration) -> bool {
        self.signal.begin();
        self.drained.take().expect("drained once").within(within).await
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.signal.begin();
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}
