//! The server: its listeners, TLS, and the end of it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
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
use crate::authn::User;
use crate::authn::tokens::{KeyError, TokenKey};
use crate::registry::Registry;
use crate::storage::{REMEMBERED_CHANGES, Store};
use crate::stream::NodeClient;
use crate::{bootstrap, handler, timestamp, upkeep};

/// How many connections are served at once. Each watch of a client without HTTP/2 takes one.
const MOST_CONNECTIONS: usize = 4096;

/// How long a client may take for the TLS handshake and for a request's head.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How many requests one HTTP/2 connection may have open, as in Kubernetes.
const MOST_STREAMS: u32 = 250;

/// How long open requests may take once the server is told to stop. Watches never end by themselves.
const DRAIN: Duration = Duration::from_millis(500);

/// What a server is started with.
#[derive(Debug)]
pub struct Options {
    /// Bound sockets on which it listens, of whatever network namespace.
    pub listeners: Vec<TcpListener>,
    /// Serving certificate with its chain, as PEM.
    pub certificate: String,
    /// Its private key, as PEM.
    pub key: String,
    /// The CA that signs clients' certificates, and by which clients trust the server (published as `kube-root-ca.crt`), as PEM.
    pub ca: String,
    /// The key that signs service accounts' tokens (P-256, PKCS#8), as PEM.
    pub service_account_key: String,
    /// The issuer of those tokens, and their usual audience.
    pub issuer: String,
    /// Unix socket of the node agent that serves exec and logs.
    pub node_socket: Option<PathBuf>,
    /// Network of Services' addresses.
    pub service_network: (Ipv4Addr, u8),
    /// Where pods reach the server: the endpoints of the Service `kubernetes`.
    pub advertise: Vec<SocketAddr>,
    /// How many changes per resource are remembered for watches; fewer make `410 Expired` come sooner.
    pub remembered_changes: usize,
}

impl Options {
    /// The default issuer of service accounts' tokens.
    pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

    /// The default network of Services' addresses.
    pub const SERVICE_NETWORK: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 96, 0, 0), 16);

    /// The default number of changes that are remembered per resource.
    pub const REMEMBERED_CHANGES: usize = REMEMBERED_CHANGES;

    /// A cluster with new keys of its own, for tests: what to start it with, and a kubeconfig of its administrator. The first
    /// listener's address is the one in the kubeconfig.
    ///
    /// # Errors
    /// If keys cannot be made, or there is no listener.
    pub fn for_tests(listeners: Vec<TcpListener>) -> Result<(Self, String), StartError> {
        use crate::certificates::{ClusterCa, in_cluster_names, kubeconfig, service_account_key};
        let ca = ClusterCa::generate("test")?;
        let serving = ca.serving(&in_cluster_names())?;
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
            service_network: Self::SERVICE_NETWORK,
            advertise: vec![address],
            remembered_changes: Self::REMEMBERED_CHANGES,
        };
        Ok((options, config))
    }
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is nothing to listen on.
    #[error("the API server has no listener: pass at least one address or inherited socket")]
    NoListener,
    /// A socket cannot be used.
    #[error("the API server cannot listen: {0}")]
    Listener(#[source] io::Error),
    /// A PEM text holds no certificate or key.
    #[error("the API server's {what} cannot be read: {source}")]
    Pem {
        /// Which of the texts.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// Certificates and keys do not fit together.
    #[error("the API server's TLS configuration is refused: {0}")]
    Tls(String),
    /// The token key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A certificate could not be made.
    #[error(transparent)]
    Certificate(#[from] crate::certificates::CertificateError),
}

/// An API server that is ready to run.
pub struct Server {
    api: Arc<Api>,
    listeners: Vec<tokio::net::TcpListener>,
    acceptor: TlsAcceptor,
}

impl Server {
    /// Prepares a server with an empty cluster. Must be called inside of a tokio runtime.
    ///
    /// # Errors
    /// If a socket, certificate or key cannot be used.
    pub fn new(options: Options) -> Result<Self, StartError> {
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
            // Later than any revision of a server that was here before: a million changes a second would be needed to catch up.
            store: Store::new(timestamp::unix_now() * 1_000_000, options.remembered_changes),
            registry: Registry::new(),
            token_key: TokenKey::from_pem(&options.service_account_key, &options.issuer)?,
            ca: options.ca,
            node: options.node_socket.map(NodeClient::new),
            crypto: provider,
            service_network: options.service_network,
            service_writes: tokio::sync::Mutex::new(()),
        };
        bootstrap::fill(&api, &options.advertise);
        Ok(Self { api: Arc::new(api), listeners, acceptor })
    }

    /// Serves until `stop` is cancelled, then lets open requests finish for a moment.
    pub async fn run(self, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let connections = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        tasks.spawn(upkeep::run(Arc::clone(&self.api), stop.clone()));
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
                    let Ok((stream, peer)) = accepted.inspect_err(|error| tracing::warn!(%error, "accept")) else {
                        // Out of descriptors, most likely: waiting is all that can be done.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    };
                    let (api, acceptor, stop) = (Arc::clone(&api), acceptor.clone(), stop.clone());
                    inner.spawn(async move {
                        if let Err(error) = serve(api, acceptor, stream, stop).await {
                            tracing::debug!(%peer, %error, "connection ended");
                        }
                        drop(permit);
                    });
                }
            });
        }
        stop.cancelled().await;
        tasks.close();
        if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
            tracing::debug!(open = tasks.len(), "requests were cut off");
        }
    }
}

type ConnectionError = Box<dyn std::error::Error + Send + Sync>;

/// Serves one connection until either side ends it.
async fn serve(
    api: Arc<Api>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    stop: CancellationToken,
) -> Result<(), ConnectionError> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await??;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let user = certificate.and_then(User::from_certificate).map(Arc::new);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (api, user) = (Arc::clone(&api), user.clone());
        async move { Ok::<_, std::convert::Infallible>(handler::handle(api, user, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MOST_STREAMS)
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
