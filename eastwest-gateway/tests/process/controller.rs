//! A controller that signs certificates and tells one exported service, over the real protocol, and that service.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use identity::{Accept, Authority, ClientAuth, Identity, SpiffeId, Trust, alpn};
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use wire::Kind;
use wire::ca::istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer};
use wire::ca::{IstioCertificateRequest, IstioCertificateResponse};
use wire::delta::{Item, Server, Source};
use wire::discovery;
use wire::envoy::aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer};
use wire::envoy::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

pub(crate) const SNI: &str = "outbound_.9080_._.ratings.default.svc.cluster.local";
pub(crate) const GATEWAY_NETWORK: &str = "net-east";
const RATINGS: &str = "ratings.default.svc.cluster.local";

pub(crate) struct Controller {
    address: SocketAddr,
    roots: String,
    client: Identity,
    server: Identity,
    tasks: Vec<JoinHandle<()>>,
}

impl Controller {
    pub(crate) async fn start() -> Self {
        let root = Authority::self_signed_root("mesh", Duration::from_secs(600)).unwrap();
        let trust = Trust::new("cluster.local", root.roots().to_vec(), []).unwrap();
        let identity = |namespace: &str, account: &str, name: &str| {
            let id = SpiffeId::new("cluster.local", namespace, account).unwrap();
            Identity::new(root.credential(&id, &[name], Duration::from_secs(600)).unwrap(), trust.clone())
        };
        let (client, server) = (identity("default", "frontend", "a"), identity("default", "ratings", "b"));
        let own = identity("isthmus-system", "isthmus-controller", "localhost");
        let (roots, root_der) = (root.roots_pem(), root.roots()[0].to_vec());

        let pod = serve_echo(&server).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = TlsAcceptor::from(own.server_config(Accept { client: ClientAuth::Optional, alpn: alpn::DISCOVERY }));
        let (accepted, incoming) = tokio::sync::mpsc::channel(16);
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if let Ok(stream) = tls.accept(stream).await {
                    let _ = accepted.send(Ok::<_, std::io::Error>(stream)).await;
                }
            }
        });
        let serving = tokio::spawn(async move {
            let _ = tonic::transport::Server::builder()
                .add_service(IstioCertificateServiceServer::new(Signer(root)))
                .add_service(AggregatedDiscoveryServiceServer::new(Teller(Arc::new(Known::of(pod, root_der)))))
                .serve_with_incoming(ReceiverStream::new(incoming))
                .await;
        });
        Self { address, roots, client, server, tasks: vec![accepting, serving] }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn roots_pem(&self) -> &str {
        &self.roots
    }

    pub(crate) fn client(&self) -> &Identity {
        &self.client
    }

    pub(crate) fn server(&self) -> &Identity {
        &self.server
    }

    /// Ends the controller; the service goes on.
    pub(crate) fn stop(self) -> Self {
        self.tasks.iter().for_each(JoinHandle::abort);
        self
    }
}

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

struct Signer(Authority);

#[tonic::async_trait]
impl IstioCertificateService for Signer {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let bearer = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if bearer != Some("Bearer good") {
            return Err(Status::unauthenticated("the token is not known"));
        }
        let refused = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
        let key = identity::PublicKey::from_request_pem(&request.get_ref().csr).map_err(|error| refused(&error))?;
        let id = SpiffeId::new("cluster.local", "isthmus-system", "gateway").unwrap();
        let chain = self.0.issue(&key, &id, Duration::from_secs(600)).map_err(|error| refused(&error))?;
        Ok(Response::new(IstioCertificateResponse { cert_chain: vec![identity::certificates_to_pem(&chain)] }))
    }
}

/// What there is; it does not change.
struct Known(Vec<(Kind, Item)>);

impl Known {
    fn of(pod: SocketAddr, root: Vec<u8>) -> Self {
        let service = discovery::Service {
            hostname: RATINGS.into(),
            name: "ratings".into(),
            namespace: "default".into(),
            ports: vec![discovery::Port { number: 9080, ..Default::default() }],
            exports: vec![discovery::Export { cluster: "east".into(), network: GATEWAY_NETWORK.into() }],
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
        let item = |kind, name: &str, keys: &[String], message: Vec<u8>| {
            let keys = keys.iter().map(|key| Arc::from(key.as_str())).collect();
            (kind, Item { name: name.into(), version: 1, body: Bytes::from(message), keys })
        };
        let endpoints = wire::name::endpoints(RATINGS, GATEWAY_NETWORK);
        let endpoint_name = wire::name::endpoint(RATINGS, GATEWAY_NETWORK, "east", "ratings-1");
        Self(vec![
            item(Kind::Trust, "mesh", &[], trust.encode_to_vec()),
            item(Kind::MeshConfig, "mesh", &[], mesh.encode_to_vec()),
            item(Kind::Service, RATINGS, &[wire::name::exported(GATEWAY_NETWORK)], service.encode_to_vec()),
            item(Kind::Endpoint, &endpoint_name, &[endpoints], endpoint.encode_to_vec()),
        ])
    }
}

impl Source for Known {
    type Found<'a> = &'a Item;

    fn get(&self, kind: Kind, name: &str) -> Option<&Item> {
        self.0.iter().find(|(of, item)| *of == kind && &*item.name == name).map(|(_, item)| item)
    }

    fn members(&self, kind: Kind, name: &str) -> impl Iterator<Item = &Item> {
        let answers = move |item: &Item| &*item.name == name || item.keys.iter().any(|key| &**key == name);
        self.0.iter().filter(move |(of, item)| *of == kind && answers(item)).map(|(_, item)| item)
    }

    fn end(&self, _: Kind) -> u64 {
        0
    }

    fn changed(&self, _: Kind, _: u64) -> Option<Vec<Arc<str>>> {
        Some(Vec::new())
    }
}

struct Teller(Arc<Known>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Teller {
    type DeltaAggregatedResourcesStream = Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (known, mut requests) = (Arc::clone(&self.0), request.into_inner());
        let (send, responses) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            let mut server = Server::default();
            while let Some(Ok(request)) = requests.next().await {
                server.receive(request).unwrap();
                while let Some(response) = server.next(&*known, Instant::now()) {
                    // What is exported is known before where it is: a gateway must not say meanwhile that it is ready.
                    if response.type_url == Kind::Endpoint.url() {
                        tokio::time::sleep(Duration::from_millis(300)).await;
                    }
                    if send.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }
}
