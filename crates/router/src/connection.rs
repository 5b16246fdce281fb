//! The path of a connection: origin → server by its name → TLS → requests, or opaque bytes to an endpoint.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use identity::{Accept, ClientAuth, alpn};
use net::hello;
use proxy::detect;
use proxy::exchange::Downstream;
use proxy::exchange::authorize::authorize_connection;
use proxy::exchange::gateway::{self, ClientCertificate, Edge, GatewayConnection, VirtualHost, VirtualHosts};
use proxy::exchange::outbound::connections;
use proxy::failure::Failure;
use proxy::http::Version;
use proxy::io::{Io, Prefixed};
use proxy::worker::Worker;
use route::Table;
use runtime::admission::{Admission, Admitted};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::config::{Hosts, Listener, Published, Servers, Terminate, TlsServer};
use crate::proxy_protocol;

/// The timeout of the PROXY protocol header, of the ClientHello, and of the handshake (Istio's transport socket connect timeout).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// TCP keep-alive to clients: the connection of a client whose network is gone would stay open.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_PROBES: u32 = 6;

/// What the connections of one worker share.
pub(crate) struct RouterWorker {
    /// The worker's state.
    pub(crate) worker: Rc<Worker>,
    /// The configuration.
    pub(crate) published: Arc<Published>,
    /// The admission of connections.
    pub(crate) admission: Admission,
}

/// Carries a connection to the listener at an address.
pub(crate) async fn serve(
    stream: TcpStream,
    client: SocketAddr,
    admitted: Admitted,
    at: SocketAddr,
    router: Rc<RouterWorker>,
) {
    if let Err(failure) = carry(stream, client, admitted, at, &router).await {
        router.worker.telemetry.failed("gateway", failure.reason());
        tracing::debug!(error = %failure, "connection failed");
    }
}

async fn carry(
    mut stream: TcpStream,
    client: SocketAddr,
    admitted: Admitted,
    at: SocketAddr,
    router: &Rc<RouterWorker>,
) -> Result<(), Failure> {
    let _ = net::socket::keep_alive(&stream, KEEP_ALIVE_IDLE, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_PROBES);
    let destination = stream.local_addr().map_err(Failure::downstream)?;
    let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
    let mut downstream = Downstream::plaintext(client, destination, admitted);
    let config = router.published.newest();
    if config.proxy_protocol {
        let read = proxy_protocol::read(&mut stream, HANDSHAKE_TIMEOUT).await.map_err(Failure::downstream)?;
        if let Some((client, _)) = read {
            downstream.client = SocketAddr::new(client.ip().to_canonical(), client.port());
        }
    }
    let Some(listener) = config.listeners.get(&at).cloned() else {
        return Err(Failure::Refused("the listener has been removed".into()));
    };
    drop(config);
    let (worker, server_port) = (&router.worker, listener.server_port);
    match &listener.servers {
        Servers::Requests(_) => {
            let mut io = Io::from(stream);
            let version = detect::version(&mut io).await.map_err(Failure::downstream)?;
            let hosts = CurrentHosts { at, server: None, published: router.published.clone() };
            let connection = GatewayConnection { downstream, server_port, tls: false, client_certificate: None, hosts };
            gateway::serve(io, version, connection, worker).await
        }
        Servers::Bytes(tables) => relay(Io::from(stream), downstream, &listener, tables, false, worker).await,
        Servers::Tls(names) => {
            let limits = hello::Limits { deadline: HANDSHAKE_TIMEOUT, ..hello::Limits::default() };
            let hello = hello::read(&mut stream, limits).await;
            let hello = hello.map_err(|error| Failure::Refused(error.to_string().into()))?;
            let name: Arc<str> = hello.server_name.unwrap_or_default().to_ascii_lowercase().into();
            let Some(server) = names.find(&name).cloned().flatten() else {
                return Err(Failure::NoRoute(name));
            };
            downstream.server_name = Some(name).filter(|name| !name.is_empty());
            let stream = Prefixed::new(hello.bytes, stream);
            secured(stream, downstream, (at, &listener), &server, router).await
        }
    }
}

/// Carries a connection with TLS to a server.
async fn secured(
    stream: Prefixed<TcpStream>,
    mut downstream: Downstream,
    (at, listener): (SocketAddr, &Listener),
    server: &Arc<TlsServer>,
    router: &Rc<RouterWorker>,
) -> Result<(), Failure> {
    let worker = &router.worker;
    let (io, version, certificate) = match &server.terminate {
        Terminate::Passthrough => {
            downstream.admitted.prove();
            let io = Io::from_prefixed(stream);
            return relay(io, downstream, listener, &server.tables, true, worker).await;
        }
        Terminate::Refuse(why) => {
            let server = format!("server {} of Gateway {}", server.name, server.gateway);
            return Err(Failure::Refused(format!("{server}: {why}").into()));
        }
        Terminate::Mesh => {
            let accept = Accept { client: ClientAuth::Required, alpn: alpn::SERVER };
            let stream = accept_tls(stream, worker.identity.server_config(accept)).await?;
            let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let Some(peer) = identity::peer_of(certificates, &worker.identity.trust()) else {
                return Err(Failure::Refused("the client proved no identity".into()));
            };
            downstream.peer = Some(Arc::new(peer));
            downstream.certificate = certificates.first().map(|leaf| identity::fingerprint(leaf).into());
            accepted(stream)
        }
        Terminate::Own(config) => accepted(accept_tls(stream, config.clone()).await?),
    };
    if !server.requests {
        downstream.admitted.prove();
        return relay(io, downstream, listener, &server.tables, false, worker).await;
    }
    let mut io = io;
    let version = match version {
        Some(version) => version,
        None => detect::version(&mut io).await.map_err(Failure::downstream)?,
    };
    let hosts = CurrentHosts {
        at,
        server: downstream.server_name.clone().or_else(|| Some("".into())),
        published: router.published.clone(),
    };
    let connection = GatewayConnection {
        downstream,
        server_port: listener.server_port,
        tls: true,
        client_certificate: certificate.map(|text| ClientCertificate(text.into())),
        hosts,
    };
    gateway::serve(io, version, connection, worker).await
}

type ServerStream = tokio_rustls::server::TlsStream<Prefixed<TcpStream>>;

async fn accept_tls(stream: Prefixed<TcpStream>, config: Arc<rustls::ServerConfig>) -> Result<ServerStream, Failure> {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(Failure::Refused(format!("TLS handshake failed: {error}").into())),
        Err(_) => Err(Failure::Refused("TLS handshake timed out".into())),
    }
}

/// Returns a stream after the handshake, the version of HTTP that was negotiated, and the client's certificate as applications
/// see it.
fn accepted(stream: ServerStream) -> (Io, Option<Version>, Option<String>) {
    let connection = stream.get_ref().1;
    let version = match connection.alpn_protocol() {
        Some(b"h2" | b"istio-h2") => Some(Version::Http2),
        Some(b"http/1.1" | b"http/1.0" | b"istio-http/1.1" | b"istio-http/1.0") => Some(Version::Http1),
        _ => None,
    };
    let leaf = connection.peer_certificates().and_then(<[_]>::first);
    let certificate = leaf.and_then(identity::forwarded_client_cert);
    (Io::from(TlsStream::from(stream)), version, certificate)
}

/// Carries opaque bytes to an endpoint, if the policies allow it.
async fn relay(
    io: Io,
    downstream: Downstream,
    listener: &Listener,
    tables: &[Arc<Table>],
    passes_tls: bool,
    worker: &Rc<Worker>,
) -> Result<(), Failure> {
    authorize_connection(&downstream, worker).await?;
    let destination =
        connections::route_at_gateway(tables, &downstream, listener.server_port, passes_tls, worker).await?;
    connections::relay(io, &downstream, destination, worker).await
}

/// The hosts of a connection's server, in the newest configuration.
struct CurrentHosts {
    /// The address of the listener.
    at: SocketAddr,
    /// The server name of a connection with TLS, which its server has; empty: the client sent none.
    server: Option<Arc<str>>,
    published: Arc<Published>,
}

impl CurrentHosts {
    fn find_in(&self, hosts: &Hosts, name: &str) -> Option<Arc<VirtualHost>> {
        hosts.find(name).cloned()
    }
}

impl VirtualHosts for CurrentHosts {
    fn find(&self, name: &str) -> Option<Arc<VirtualHost>> {
        let config = self.published.newest();
        match (&config.listeners.get(&self.at)?.servers, &self.server) {
            (Servers::Requests(hosts), None) => self.find_in(hosts, name),
            (Servers::Tls(servers), Some(server)) => self.find_in(&servers.find(server)?.as_ref()?.hosts, name),
            // What the connection was accepted for is not there any longer.
            _ => None,
        }
    }

    fn edge(&self) -> Edge {
        self.published.newest().edge
    }
}
