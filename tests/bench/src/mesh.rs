//! A scripted control plane in this process, so that the measured sidecars are the unmodified program: they enrol with a token,
//! open a discovery stream over TLS, and receive fixed resources.
//!
//! Certificates are real: a root, and an intermediate that signs for the one cluster. Peers have certificates of the same
//! authority, from [`Mesh::certificate`].

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use identity::{Accept, Authority, ClientAuth, Constraints, Identity, KeyAndRequest, PublicKey, SpiffeId, Trust, alpn};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use wire::ca::istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer};
use wire::ca::{IstioCertificateRequest, IstioCertificateResponse};
use wire::delta::{Item, Source};
use wire::envoy::aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer};
use wire::envoy::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use wire::prost::Message;
use wire::{Kind, discovery as d, name};

/// The trust domain, and the suffix of hostnames.
pub const DOMAIN: &str = "cluster.local";
/// The one cluster.
pub const CLUSTER: &str = "bench";
/// The network of the cluster.
pub const NETWORK: &str = "net-bench";
/// The namespace of all pods.
pub const NAMESPACE: &str = "default";

/// The DNS name in the control plane's certificate. The root signs it, because the intermediate may not sign DNS names.
const SERVER: &str = "localhost";
/// The validity of certificates, longer than any scenario.
const VALIDITY: Duration = Duration::from_secs(24 * 3600);

/// The control plane. It stops when dropped.
pub struct Mesh {
    address: SocketAddr,
    directory: PathBuf,
    state: Arc<MeshState>,
    _runtime: Runtime,
}

/// Files with a certificate of the mesh.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate chain without the root, in PEM.
    pub chain: PathBuf,
    /// The private key, in PEM.
    pub key: PathBuf,
    /// The root, in PEM.
    pub root: PathBuf,
}

struct MeshState {
    authority: Authority,
    /// The identity that each token enrols.
    tokens: Mutex<HashMap<String, SpiffeId>>,
    resources: Mutex<Resources>,
    changed: watch::Sender<u64>,
}

/// The gRPC services for discovery and certificates.
#[derive(Clone)]
struct ControlPlane(Arc<MeshState>);

#[derive(Default)]
struct Resources {
    items: BTreeMap<(Kind, Arc<str>), Item>,
    end: u64,
}

impl Mesh {
    /// Starts a control plane with its roots and default settings.
    pub fn start(directory: &Path) -> Result<Self> {
        let directory = directory.join("mesh");
        fs::create_dir_all(&directory)?;
        let root = Authority::self_signed_root("isthmus-bench", VALIDITY)?;
        let authority = root.intermediate_for(CLUSTER, &Constraints::default(), VALIDITY)?;
        fs::write(directory.join("root.pem"), root.roots_pem())?;
        let issuer = d::Issuer {
            cluster: CLUSTER.into(),
            public_key_sha256: authority.issuer_of(CLUSTER).public_key_sha256.to_vec().into(),
        };
        let trust = d::Trust {
            trust_domain: DOMAIN.into(),
            roots: root.roots().iter().map(|root| root.to_vec().into()).collect(),
            issuers: vec![issuer],
        };
        let settings =
            d::MeshConfig { mesh_id: "bench".into(), cluster_domain: DOMAIN.into(), ..d::MeshConfig::default() };
        let own = root.credential(&service_account("controller")?, &[SERVER], VALIDITY)?;
        let identity = Identity::new(own, Trust::new(DOMAIN, root.roots().to_vec(), [])?);

        let state = MeshState {
            authority,
            tokens: Mutex::default(),
            resources: Mutex::default(),
            changed: watch::channel(0).0,
        };
        let state = Arc::new(state);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        runtime.spawn(serve(listener, identity, ControlPlane(Arc::clone(&state))));
        let mesh = Self { address, directory, state, _runtime: runtime };
        mesh.publish(Kind::Trust, name::MESH, &trust, &[]);
        mesh.publish(Kind::MeshConfig, name::MESH, &settings, &[]);
        Ok(mesh)
    }

    /// The discovery address for proxies.
    pub fn discovery(&self) -> String {
        format!("{SERVER}:{}", self.address.port())
    }

    /// The file with the roots, as they are mounted into pods.
    pub fn root(&self) -> PathBuf {
        self.directory.join("root.pem")
    }

    /// Creates a file with a token that enrols a service account.
    pub fn token(&self, account: &str) -> Result<PathBuf> {
        let token = format!("token-of-{account}");
        let path = self.directory.join(&token);
        fs::write(&path, &token)?;
        locked(&self.state.tokens).insert(token, service_account(account)?);
        Ok(path)
    }

    /// Issues a certificate for a service account.
    pub fn certificate(&self, account: &str) -> Result<Certificate> {
        let made = KeyAndRequest::generate()?;
        let chain = self.state.authority.issue(&made.public_key()?, &service_account(account)?, VALIDITY)?;
        let [certificate, key] = ["pem", "key"].map(|kind| self.directory.join(format!("{account}.{kind}")));
        fs::write(&certificate, identity::certificates_to_pem(&chain))?;
        fs::write(&key, made.key.to_pem())?;
        Ok(Certificate { chain: certificate, key, root: self.root() })
    }

    /// Pushes a new or changed resource. `keys` are the addresses and collections that it belongs to.
    pub fn publish(&self, kind: Kind, name: &str, message: &impl Message, keys: &[&str]) {
        let body = message.encode_to_vec();
        let mut hasher = DefaultHasher::new();
        hasher.write(&body);
        let name: Arc<str> = name.into();
        let keys = keys.iter().map(|key| Arc::from(*key)).collect();
        let item = Item { name: Arc::clone(&name), version: hasher.finish().max(1), body: body.into(), keys };
        let mut resources = locked(&self.state.resources);
        resources.items.insert((kind, name), item);
        resources.end += 1;
        self.state.changed.send_replace(resources.end);
    }
}

/// The identity of a service account.
pub fn service_account(account: &str) -> Result<SpiffeId> {
    SpiffeId::new(DOMAIN, NAMESPACE, account).with_context(|| format!("service account {account:?}"))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves discovery and certificates on one port, as the real controller does.
async fn serve(listener: TcpListener, identity: Identity, plane: ControlPlane) {
    let (sender, connections) = mpsc::channel::<std::io::Result<TlsStream<tokio::net::TcpStream>>>(16);
    tokio::spawn(async move {
        let accept = Accept { client: ClientAuth::Optional, alpn: alpn::DISCOVERY };
        let acceptor = TlsAcceptor::from(identity.server_config(accept));
        while let Ok((socket, _)) = listener.accept().await {
            // A proxy whose handshake fails logs it.
            if let Ok(stream) = acceptor.accept(socket).await
                && sender.send(Ok(stream)).await.is_err()
            {
                return;
            }
        }
    });
    let server = Server::builder()
        .add_service(IstioCertificateServiceServer::new(plane.clone()))
        .add_service(AggregatedDiscoveryServiceServer::new(plane));
    if let Err(error) = server.serve_with_incoming(ReceiverStream::new(connections)).await {
        eprintln!("the control plane failed: {error}");
    }
}

#[tonic::async_trait]
impl IstioCertificateService for ControlPlane {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let bearer = request.metadata().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let id = locked(&self.0.tokens).get(bearer.trim_start_matches("Bearer ")).cloned();
        let id = id.ok_or_else(|| Status::unauthenticated("unknown token"))?;
        let key = PublicKey::from_request_pem(&request.get_ref().csr)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let chain = self.0.authority.issue(&key, &id, VALIDITY).map_err(|error| Status::internal(error.to_string()))?;
        let pem = identity::certificates_to_pem(&chain);
        Ok(Response::new(IstioCertificateResponse { cert_chain: vec![pem, self.0.authority.roots_pem()] }))
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for ControlPlane {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let mut requests = request.into_inner();
        let (send, receive) = mpsc::channel(16);
        let (state, mut changed) = (Arc::clone(&self.0), self.0.changed.subscribe());
        tokio::spawn(async move {
            let mut stream = wire::delta::Server::default();
            loop {
                loop {
                    let response = stream.next(&*locked(&state.resources), Instant::now());
                    let Some(response) = response else { break };
                    if send.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
                let refused = tokio::select! {
                    request = requests.message() => match request {
                        Ok(Some(request)) => stream.receive(request).err(),
                        Ok(None) | Err(_) => return,
                    },
                    _ = changed.changed() => None,
                };
                if let Some(refused) = refused {
                    // The proxy may have disconnected.
                    let _ = send.send(Err(Status::invalid_argument(refused.to_string()))).await;
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}

impl Source for Resources {
    type Found<'a> = &'a Item;

    fn get(&self, kind: Kind, name: &str) -> Option<&Item> {
        self.items.get(&(kind, name.into()))
    }

    fn members(&self, kind: Kind, name: &str) -> impl Iterator<Item = &Item> {
        let answers = move |item: &Item| &*item.name == name || item.keys.iter().any(|key| &**key == name);
        self.items.iter().filter(move |((of, _), item)| *of == kind && answers(item)).map(|(_, item)| item)
    }

    fn end(&self, _: Kind) -> u64 {
        self.end
    }

    /// There is no log of changes: after any change, all resources are compared.
    fn changed(&self, _: Kind, since: u64) -> Option<Vec<Arc<str>>> {
        (since == self.end).then(Vec::new)
    }
}
