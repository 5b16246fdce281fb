//! A fake controller with one exported service, and a server for that service.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fake_controller::{FakeController, Resources, Signer};
use identity::{Accept, Authority, ClientAuth, Identity, SpiffeId, Trust, alpn};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use wire::{Kind, discovery};

pub(crate) const SNI: &str = "outbound_.9080_._.ratings.default.svc.cluster.local";
pub(crate) const GATEWAY_NETWORK: &str = "net-east";
/// The token that the gateway enrols with.
pub(crate) const TOKEN: &str = "good";
const RATINGS: &str = "ratings.default.svc.cluster.local";
const VALIDITY: Duration = Duration::from_secs(600);

/// A fake controller that exports the service `ratings`.
pub(crate) struct Controller {
    controller: FakeController,
    roots_pem: String,
    client: Identity,
    server: Identity,
}

impl Controller {
    /// Starts the controller and the server.
    pub(crate) async fn start() -> Self {
        let root = Authority::self_signed_root("mesh", VALIDITY).unwrap();
        let trust = Trust::new("cluster.local", root.roots().to_vec(), []).unwrap();
        let identity = |namespace: &str, account: &str, name: &str| {
            let id = SpiffeId::new("cluster.local", namespace, account).unwrap();
            Identity::new(root.credential(&id, &[name], VALIDITY).unwrap(), trust.clone())
        };
        let (client, server) = (identity("default", "frontend", "a"), identity("default", "ratings", "b"));
        let controller_identity = identity("isthmus-system", "isthmus-controller", "localhost");
        let (roots_pem, root_der) = (root.roots_pem(), root.roots()[0].to_vec());
        let signer = Signer::new(Arc::new(root), VALIDITY);
        signer.accept(TOKEN, SpiffeId::new("cluster.local", "isthmus-system", "gateway").unwrap());
        let controller = FakeController::tls(Ipv4Addr::LOCALHOST.into(), controller_identity, signer).await.unwrap();
        push(controller.resources(), serve_echo(&server).await, root_der);
        Self { controller, roots_pem, client, server }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.controller.address()
    }

    pub(crate) fn roots_pem(&self) -> &str {
        &self.roots_pem
    }

    /// The identity of a client of the service.
    pub(crate) fn client(&self) -> &Identity {
        &self.client
    }

    /// The identity of the server.
    pub(crate) fn server(&self) -> &Identity {
        &self.server
    }

    /// Stops the controller. The server keeps running.
    pub(crate) fn stop(&self) {
        self.controller.stop();
    }
}

/// Pushes the service with one endpoint, at `pod`.
fn push(resources: &Resources, pod: SocketAddr, root: Vec<u8>) {
    let service = discovery::Service {
        hostname: RATINGS.into(),
        name: "ratings".into(),
        namespace: "default".into(),
        ports: vec![discovery::Port { number: 9080, ..Default::default() }],
        exports: vec![discovery::Export {
            cluster: "east".into(),
            network: GATEWAY_NETWORK.into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let endpoint = discovery::Endpoint {
        service: RATINGS.into(),
        cluster: "east".into(),
        network: GATEWAY_NETWORK.into(),
        weight: 1,
        kind: Some(discovery::endpoint::Kind::Direct(discovery::Direct {
            ip: wire::name::ip_to_bytes(pod.ip()),
            ports: [(9080, pod.port().into())].into(),
            mutual_tls: true,
            ..Default::default()
        })),
        ..Default::default()
    };
    let trust =
        discovery::Trust { trust_domain: "cluster.local".into(), roots: vec![root.into()], ..Default::default() };
    let mesh = discovery::MeshConfig { access_log_file: "/dev/stderr".into(), ..Default::default() };
    let endpoint_name = wire::name::endpoint(RATINGS, GATEWAY_NETWORK, "east", "ratings-1");
    resources.push(Kind::Trust, wire::name::MESH, &trust, &[]);
    resources.push(Kind::MeshConfig, wire::name::MESH, &mesh, &[]);
    resources.push(Kind::Service, RATINGS, &service, &[&wire::name::exported(GATEWAY_NETWORK)]);
    resources.push(Kind::Endpoint, &endpoint_name, &endpoint, &[&wire::name::endpoints(RATINGS, GATEWAY_NETWORK)]);
    // Services arrive before their endpoints; the gateway must not be ready in between.
    resources.delay(Kind::Endpoint, Duration::from_millis(300));
}

/// Starts an echo server with mutual TLS.
async fn serve_echo(identity: &Identity) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accept = Accept { client: ClientAuth::Required, alpn: alpn::SERVER };
    let acceptor = TlsAcceptor::from(identity.server_config(accept));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let (mut reads, mut writes) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut reads, &mut writes).await;
            });
        }
    });
    address
}
