//! A router with a fake controller, services, and certificates of an authority outside the mesh.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use fake_controller::{FakeController, Resources};
use identity::{Authority, Constraints, Identity, SpiffeId, Trust};
use isthmus_router::workers::{self, RouterSetup};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use runtime::admission::{Admission, Limits};
use runtime::drain::{self, Drained, Signal};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use telemetry::metrics::Registry;
use wire::name::{Node, Role};
use wire::{Kind, discovery as d, name};

const DOMAIN: &str = "cluster.local";
const WORKLOAD: &str = "west/istio-system/ingress-1";
/// The namespace of the router's Secrets.
pub(crate) const SECRETS: &str = "west/istio-system/";

/// A router and its controller.
pub(crate) struct Gateway {
    controller: FakeController,
    root: Authority,
    intermediate: Authority,
    /// Begins the drain.
    pub(crate) signal: Signal,
    pub(crate) drained: Option<Drained>,
    setup: Option<RouterSetup>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

/// Returns a port that nothing listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Returns the address of a listener.
pub(crate) fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl Gateway {
    /// Prepares a router that allows every request. [`Gateway::start`] starts it.
    pub(crate) async fn new() -> Self {
        let root = Authority::self_signed_root("test", Duration::from_secs(3600)).unwrap();
        let intermediate = root.intermediate_for("west", &Constraints::default(), Duration::from_secs(3600)).unwrap();
        let controller = FakeController::plaintext(Ipv4Addr::LOCALHOST.into()).await.unwrap();
        let id = SpiffeId::new(DOMAIN, "istio-system", "ingress").unwrap();
        let credential = intermediate.credential(&id, &[], Duration::from_secs(600)).unwrap();
        let identity = Identity::new(credential, Trust::new(DOMAIN, root.roots().to_vec(), []).unwrap());
        let (signal, watch, drained) = drain::channel();
        let setup = RouterSetup {
            node: Node {
                role: Role::Router,
                ip: Ipv4Addr::LOCALHOST.into(),
                pod: "ingress-1".to_owned(),
                namespace: "istio-system".to_owned(),
                cluster: "west".to_owned(),
            },
            network: "net-west".into(),
            identity,
            workers: 2,
            admission: Admission::new(Limits::default()),
            registry: Registry::new(),
            drain: watch,
        };
        let gateway =
            Self { controller, root, intermediate, signal, drained: Some(drained), setup: Some(setup), stop: None };
        let settings = d::MeshConfig { cluster_domain: DOMAIN.into(), entries: true, ..Default::default() };
        gateway.resources().push(Kind::MeshConfig, name::MESH, &settings, &[]);
        let trust = d::Trust {
            trust_domain: DOMAIN.into(),
            roots: gateway.root.roots().iter().map(|root| root.to_vec().into()).collect(),
            issuers: vec![],
        };
        gateway.resources().push(Kind::Trust, name::MESH, &trust, &[]);
        gateway.push_workload(|_| {});
        gateway.resources().push(Kind::PeerAuthentication, "default", &d::PeerAuthentication::default(), &[]);
        gateway
    }

    /// Pushes the router's workload, as altered by `change`.
    pub(crate) fn push_workload(&self, change: impl FnOnce(&mut d::Workload)) {
        let mut workload = d::Workload {
            cluster: "west".into(),
            network: "net-west".into(),
            namespace: "istio-system".into(),
            pod: "ingress-1".into(),
            peer_authentication: "default".into(),
            ..Default::default()
        };
        change(&mut workload);
        self.resources().push(Kind::Workload, WORKLOAD, &workload, &[]);
    }

    /// The resources that the controller pushes.
    pub(crate) fn resources(&self) -> &Resources {
        self.controller.resources()
    }

    /// Pushes listeners.
    pub(crate) fn push_listeners(&self, listeners: Vec<d::Listener>) {
        self.push(d::Listeners { listeners, ..Default::default() });
    }

    /// Pushes all listeners and what they have in common.
    pub(crate) fn push(&self, listeners: d::Listeners) {
        self.resources().push(Kind::Listeners, WORKLOAD, &listeners, &[]);
    }

    /// Pushes the routes of a host in a collection.
    pub(crate) fn push_routes(&self, collection: &str, host: &str, table: &d::RouteTable) {
        self.resources().push(Kind::RouteTable, &format!("{collection}|{host}"), table, &[collection]);
    }

    /// Pushes routes that send all requests for a host to a service.
    pub(crate) fn route(&self, collection: &str, host: &str, service: &str) {
        self.push_routes(collection, host, &table(vec![http_route(vec![], service)]));
    }

    /// Pushes a service with port 80 whose only endpoint is in plaintext.
    pub(crate) fn push_service(&self, service: &str, endpoint: SocketAddr, protocol: d::Protocol) {
        let hostname = hostname(service);
        let port = d::Port { number: 80, name: "p".into(), protocol: protocol.into(), server_names: vec![] };
        let message = d::Service {
            hostname: hostname.clone(),
            name: service.to_owned(),
            namespace: "default".into(),
            ports: vec![port],
            ..Default::default()
        };
        self.resources().push(Kind::Service, &hostname, &message, &[]);
        let direct = d::Direct {
            ip: Ipv4Addr::LOCALHOST.octets().to_vec().into(),
            ports: From::from([(80, endpoint.port().into())]),
            pod: format!("{service}-1"),
            ..Default::default()
        };
        let message = d::Endpoint {
            service: hostname.clone(),
            cluster: "west".into(),
            network: "net-west".into(),
            weight: 1,
            kind: Some(d::endpoint::Kind::Direct(direct)),
            ..Default::default()
        };
        let name = name::endpoint(&hostname, "net-west", "west", &format!("{service}-1"));
        self.resources().push(Kind::Endpoint, &name, &message, &[&name::endpoints(&hostname, "net-west")]);
    }

    /// Returns an identity of the mesh.
    pub(crate) fn identity(&self, account: &str) -> Identity {
        let id = SpiffeId::new(DOMAIN, "default", account).unwrap();
        let credential = self.intermediate.credential(&id, &[], Duration::from_secs(600)).unwrap();
        Identity::new(credential, Trust::new(DOMAIN, self.root.roots().to_vec(), []).unwrap())
    }

    /// Starts the router, and waits until its listeners are open.
    pub(crate) async fn start(&mut self) {
        let (setup, controller) = (self.setup.take().unwrap(), self.controller.address());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, started) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            runtime::control::run(tokio::task::LocalSet::new().run_until(async move {
                let mut running = workers::start(setup, move || fake_controller::channel(controller, None)).unwrap();
                running.opened().await;
                let _ = ready.send(());
                let _ = stopped.await;
                drop(running);
            }))
            .unwrap();
        });
        self.stop = Some(stop);
        let started = tokio::time::timeout(Duration::from_secs(10), started).await;
        started.expect("the router has opened its listeners").expect("the router runs");
    }
}

/// Returns the hostname of a service.
pub(crate) fn hostname(service: &str) -> String {
    format!("{service}.default.svc.{DOMAIN}")
}

/// Returns a listener of servers whose port is also the one that routes see.
pub(crate) fn listener(port: u16, servers: Vec<d::GatewayServer>) -> d::Listener {
    d::Listener { port: port.into(), server_port: port.into(), servers, ..Default::default() }
}

/// Returns a server without TLS that carries requests.
pub(crate) fn http_server(routes: &str, hosts: &[&str]) -> d::GatewayServer {
    d::GatewayServer {
        gateway: "default/gateway".into(),
        name: routes.into(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        routes: routes.into(),
        ..Default::default()
    }
}

/// Returns a server with TLS that carries requests, with the certificate of a Secret.
pub(crate) fn https_server(routes: &str, hosts: &[&str], mode: d::ServerTlsMode, secret: &str) -> d::GatewayServer {
    let tls = d::ServerTls { mode: mode.into(), credentials: vec![format!("{SECRETS}{secret}")], ..Default::default() };
    d::GatewayServer { tls: Some(tls), ..http_server(routes, hosts) }
}

/// Returns routes of requests.
pub(crate) fn table(http: Vec<d::HttpRoute>) -> d::RouteTable {
    d::RouteTable { source: "default/routes".into(), http, ..Default::default() }
}

/// Returns a route to a service.
pub(crate) fn http_route(matches: Vec<d::HttpMatch>, service: &str) -> d::HttpRoute {
    let forward = d::Forward { destinations: vec![destination(service)], ..Default::default() };
    d::HttpRoute { matches, action: Some(d::http_route::Action::Forward(forward)), ..Default::default() }
}

/// Returns a destination: port 80 of a service.
pub(crate) fn destination(service: &str) -> d::RouteDestination {
    d::RouteDestination { host: hostname(service), port: 80, weight: 1, ..Default::default() }
}

/// An authority outside the mesh.
pub(crate) struct PublicAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl PublicAuthority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Self { issuer: Issuer::new(params, key), certificate: der, pem }
    }

    pub(crate) fn roots(&self) -> &[CertificateDer<'static>] {
        std::slice::from_ref(&self.certificate)
    }

    /// Returns a certificate for names and its key, as PEM.
    fn issue(&self, names: &[&str]) -> (rcgen::Certificate, KeyPair) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params.distinguished_name.push(DnType::CommonName, names[0].clone());
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// Returns a Secret's content for a server with these names, with `clients` as the authority of its clients.
    pub(crate) fn credential(&self, names: &[&str], clients: Option<&PublicAuthority>) -> d::Credential {
        let (certificate, key) = self.issue(names);
        d::Credential {
            certificate_chain: certificate.pem().into(),
            private_key: key.serialize_pem().into(),
            ca_certificates: clients.map(|clients| clients.pem.clone()).unwrap_or_default().into(),
            crl: Default::default(),
        }
    }

    /// Returns the certificate of a client and its key.
    pub(crate) fn client(&self, name: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let (certificate, key) = self.issue(&[name]);
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }
}

/// Waits until `condition` holds. Panics with `what` after 10 seconds.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let holds = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), holds).await.is_ok(), "timed out waiting until {what}");
}

/// Runs an application for the rest of a test.
pub(crate) async fn app(name: &str) -> Arc<crate::app::App> {
    Arc::new(crate::app::App::start(name).await)
}
