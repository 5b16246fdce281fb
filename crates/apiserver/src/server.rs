//! The server: listeners, TLS, connections and shutdown.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use ipnet::IpNet;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::Api;
use crate::authn::UserInfo;
use crate::authn::tokens::{KeyError, TokenKey};
use crate::registry::ResourceRegistry;
use crate::storage::{ObjectStore, REMEMBERED_CHANGES, SavedObjects};
use crate::stream::NodeClient;
use crate::{bootstrap, controllers, crd, handler, timestamp};

/// Most connections at a time. Each watch of a client without HTTP/2 takes one.
const MAX_CONNECTIONS: usize = 4096;

/// Timeout of the TLS handshake and of a request's head.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Most open requests of an HTTP/2 connection, as in Kubernetes.
const MAX_STREAMS: u32 = 250;

/// How long open requests may take after the server is stopped. Watches never end by themselves.
const DRAIN: Duration = Duration::from_millis(500);

/// Options of a server.
#[derive(Debug)]
pub struct Options {
    /// Bound sockets to listen on, of any network namespace.
    pub listeners: Vec<TcpListener>,
    /// Serving certificate with its chain, in PEM.
    pub certificate: String,
    /// Private key of the serving certificate, in PEM.
    pub key: String,
    /// The CA of client certificates, published as `kube-root-ca.crt` for the verification of the server, in PEM.
    pub ca: String,
    /// The key that signs service account tokens (P-256, PKCS#8), in PEM.
    pub service_account_key: String,
    /// The issuer of service account tokens, and their default audience.
    pub issuer: String,
    /// Unix socket of the node agent, which serves exec, logs and port forwarding.
    pub node_socket: Option<PathBuf>,
    /// Networks of cluster IPs, one of each IP family of the cluster. The first family is that of Services that request
    /// none.
    pub service_networks: Vec<IpNet>,
    /// Addresses at which pods reach the server: the endpoints of the Service `kubernetes`.
    pub advertise: Vec<SocketAddr>,
    /// Number of changes per resource that the server remembers for watches. Older revisions are answered with `410
    /// Expired`.
    pub remembered_changes: usize,
}

impl Options {
    /// The default issuer of service account tokens.
    pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

    /// The default number of remembered changes per resource.
    pub const REMEMBERED_CHANGES: usize = REMEMBERED_CHANGES;

    /// Options with new keys for a test's cluster, and a kubeconfig of its administrator. The kubeconfig has the
    /// address of the first listener.
    ///
    /// # Errors
    /// Returns an error if there is no listener or a key cannot be created.
    pub fn for_tests(listeners: Vec<TcpListener>) -> Result<(Self, String), StartError> {
        use crate::certificates::{ClusterCa, in_cluster_names, kubeconfig, service_account_key};
        let ca = ClusterCa::generate("test")?;
        let serving = ca.serving(&in_cluster_names(&[IpAddr::from([10, 96, 0, 1])]))?;
        let address = listeners.first().ok_or(StartError::NoListener)?.local_addr().map_err(StartError::Listener)?;
        let config = kubeconfig("test", &format!("https://{address}"), ca.certificate(), &ca.admin()?);
        let options = Self {
            listeners,
            certificate: serving.certificate,
            key: serving.key,
            ca: ca.certificate().to_owned(),
            service_account_key: service_account_key()?,
            issuer: Self::ISSUER.to_owned(),
            node_socket: None,
            service_networks: vec![IpNet::new_assert(IpAddr::from([10, 96, 0, 0]), 16)],
            advertise: vec![address],
            remembered_changes: Self::REMEMBERED_CHANGES,
        };
        Ok((options, config))
    }
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no listener.
    #[error("the API server has no listener: pass at least one address or inherited socket")]
    NoListener,
    /// A socket cannot be used.
    #[error("the API server cannot listen: {0}")]
    Listener(#[source] io::Error),
    /// A PEM text has no certificate or key.
    #[error("the API server's {what} cannot be read: {source}")]
    Pem {
        /// Which PEM text.
        what: &'static str,
        /// The error of the parser.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// Certificate and key do not match, or are not supported.
    #[error("the API server's TLS configuration is invalid: {0}")]
    Tls(String),
    /// The signing key of tokens cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A certificate could not be created.
    #[error(transparent)]
    Certificate(#[from] crate::certificates::CertificateError),
}

/// An API server that is ready to run.
pub struct Server {
    api: Arc<Api>,
    listeners: Vec<tokio::net::TcpListener>,
    acceptor: TlsAcceptor,
}

/// The objects of a running server, for a process that is about to end.
#[derive(Clone)]
pub struct ServerObjects(Arc<Api>);

impl ServerObjects {
    /// Returns all objects, and blocks every later request for good. The caller ends the process.
    #[must_use]
    pub fn freeze(&self) -> SavedObjects {
        self.0.store.freeze()
    }
}

impl Server {
    /// Creates a server with a new cluster. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// Returns an error if a socket, certificate or key cannot be used.
    pub fn new(options: Options) -> Result<Self, StartError> {
        // Higher than the revisions of an earlier server, unless that one counted more than a million changes a second.
        let store = ObjectStore::new(timestamp::unix_now() * 1_000_000, options.remembered_changes);
        let endpoints = options.advertise.clone();
        let server = Self::with(options, store)?;
        bootstrap::fill(&server.api, &endpoints);
        Ok(server)
    }

    /// Creates a server with the objects of an earlier one. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// Returns an error if a socket, certificate or key cannot be used.
    pub fn restored(options: Options, objects: SavedObjects) -> Result<Self, StartError> {
        let store = ObjectStore::restored(objects, options.remembered_changes);
        let server = Self::with(options, store)?;
        server.api.registry.replace_custom(|| crd::served(&server.api.store));
        Ok(server)
    }

    /// Returns the server's objects, to save them when the process has to end.
    #[must_use]
    pub fn objects(&self) -> ServerObjects {
        ServerObjects(Arc::clone(&self.api))
    }

    fn with(options: Options, store: ObjectStore) -> Result<Self, StartError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let acceptor = acceptor(&options, &provider)?;
        if options.listeners.is_empty() {
            return Err(StartError::NoListener);
        }
        let listeners = options.listeners.into_iter().map(|listener| {
            listener.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(listener)
        });
        let listeners = listeners.collect::<io::Result<Vec<_>>>().map_err(StartError::Listener)?;
        let api = Api {
            store,
            registry: ResourceRegistry::new(),
            token_key: TokenKey::from_pem(&options.service_account_key, &options.issuer)?,
            ca: options.ca,
            node: options.node_socket.map(NodeClient::new),
            crypto: provider,
            service_networks: options.service_networks,
            service_writes: tokio::sync::Mutex::new(()),
        };
        Ok(Self { api: Arc::new(api), listeners, acceptor })
    }

    /// Serves until `stop` is cancelled, then waits briefly for open requests.
    pub async fn run(self, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        tasks.spawn(controllers::run(Arc::clone(&self.api), stop.clone()));
        for listener in self.listeners {
            let (api, acceptor) = (Arc::clone(&self.api), self.acceptor.clone());
            let (connections, stop, inner) = (Arc::clone(&connections), stop.clone(), tasks.clone());
            tasks.spawn(async move {
                loop {
                    let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
                    let accepted = tokio::select! {
                        accepted = listener.accept() => accepted,
                        () = stop.cancelled() => return,
                    };
                    let Ok((stream, peer)) =
                        accepted.inspect_err(|error| tracing::warn!(%error, "cannot accept a connection"))
                    else {
                        // The process is probably out of file descriptors, and has to wait.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    };
                    let (api, acceptor, stop) = (Arc::clone(&api), acceptor.clone(), stop.clone());
                    inner.spawn(async move {
                        if let Err(error) = serve(api, acceptor, stream, stop).await {
                            tracing::debug!(%peer, %error, "connection failed");
                        }
                        drop(permit);
                    });
                }
            });
        }
        stop.cancelled().await;
        tasks.close();
        if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
            tracing::debug!(open = tasks.len(), "open requests aborted");
        }
    }
}

type ConnectionError = Box<dyn std::error::Error + Send + Sync>;

/// Serves one connection until it closes.
async fn serve(
    api: Arc<Api>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    stop: CancellationToken,
) -> Result<(), ConnectionError> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await??;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let user = certificate.and_then(UserInfo::from_certificate).map(Arc::new);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (api, user) = (Arc::clone(&api), user.clone());
        async move { Ok::<_, std::convert::Infallible>(handler::handle(api, user, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(Duration::from_secs(30));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    tokio::time::timeout(DRAIN, connection).await.unwrap_or(Ok(()))
}

fn acceptor(options: &Options, provider: &Arc<rustls::crypto::CryptoProvider>) -> Result<TlsAcceptor, StartError> {
    let pem = |what: &'static str| move |source| StartError::Pem { what, source };
    let refused = |error: &dyn std::fmt::Display| StartError::Tls(error.to_string());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(options.certificate.as_bytes()).collect();
    let chain = chain.map_err(pem("serving certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(options.key.as_bytes()).map_err(pem("serving key"))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(options.ca.as_bytes()) {
        roots.add(certificate.map_err(pem("client CA"))?).map_err(|error| refused(&error))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .allow_unauthenticated()
        .build();
    let verifier = verifier.map_err(|error| refused(&error))?;
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::clone(provider)).with_safe_default_protocol_versions();
    let config =
        config.map_err(|error| refused(&error))?.with_client_cert_verifier(verifier).with_single_cert(chain, key);
    let mut config = config.map_err(|error| refused(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
