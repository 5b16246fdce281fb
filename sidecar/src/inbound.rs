//! From the mesh to the application: captured connections on 15006.
//!
//! [`serve`] is a connection's whole walk: what is presented, whether that may be, who it is, whether they may, and then
//! requests ([`http`]) or opaque bytes to the application. The application is reached at the address that the client
//! asked for, from 127.0.0.6, so that it sees a local peer.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use identity::{Accept, ClientAuth, Peer, alpn};
use net::hello;
use policy::{Accepted, Decision, Facts, PeerAuthentication, PeerMode, Presented};
use telemetry::istio::{Reporter, Security};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsStream};

use proxy::detect::{self, Spoken};
use proxy::failure::{ConnectError, Failure};
use proxy::io::{Io, Prefixed};
use proxy::mesh::{Own, Protocol};
use proxy::opaque;
use proxy::report::{self, Route};
use proxy::upstream::{Version, application};
use proxy::worker::Worker;

pub mod http;

/// For the hello and the handshake together (Istio's transport socket connect timeout).
const HANDSHAKE: Duration = Duration::from_secs(15);
/// How long a client of a port declared as opaque may take to show that it is a proxy of the mesh; one that shows nothing
/// waits for the server to speak first. A proxy sends its hello together with the end of the TCP handshake.
const SERVER_FIRST: Duration = Duration::from_secs(1);
/// Keep-alive on connections of others: the clients' proxies watch them more closely than this.
const IDLE_PROBE: Duration = Duration::from_secs(60);
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// What is known of an accepted connection when it is carried.
pub struct Arrived {
    /// The other end.
    pub client: SocketAddr,
    /// Where it was going: the application's address.
    pub destination: SocketAddr,
    /// Who it is, if it proved that.
    pub peer: Option<Arc<Peer>>,
    /// The SHA-256 of its certificate in hex, for XFCC.
    pub certificate: Option<Arc<str>>,
    /// Of its hello.
    pub server_name: Option<Arc<str>>,
    /// For metrics.
    pub route: Rc<Route>,
}

/// Carries one connection to the application.
pub async fn serve(stream: TcpStream, worker: Rc<Worker>) {
    if let Err(failure) = carry(stream, &worker).await {
        worker.telemetry.failed("inbound", failure.reason());
        tracing::debug!(error = %failure, "inbound connection failed");
    }
}

async fn carry(stream: TcpStream, worker: &Rc<Worker>) -> Result<(), Failure> {
    let own = |error: std::io::Error| Failure::Client(error.to_string().into());
    let client = proxy::io::peer_of(&stream).map_err(own)?;
    let destination = (worker.destination)(&stream).map_err(own)?;
    // Without it a client whose machine is gone would be kept forever.
    let _ = net::socket::keep_alive(&stream, IDLE_PROBE, PROBE_INTERVAL, PROBES);
    if destination == stream.local_addr().map_err(own)? {
        return Err(Failure::Refused("a connection that was not captured would be sent to this proxy again".into()));
    }
    let snapshot = worker.view.snapshot();
    let declared = snapshot.own.as_ref().and_then(|own| own.port(destination.port())).map(|port| port.protocol);
    let declared = declared.unwrap_or_default();
    // As long as it was not told what to accept, only who proves an identity gets in.
    let strict = PeerAuthentication::new(PeerMode::Strict, []);
    let authentication = snapshot.authentication.as_deref().unwrap_or(&strict);
    let mode = authentication.mode_of(destination.port());
    let within = snapshot.settings.detection_timeout;

    let (stream, presented, server_name) = presented(stream, mode, declared, within).await?;
    let accepted = authentication.decide(destination.port(), presented);
    let security = if accepted == Accepted::MutualTls { Security::MutualTls } else { Security::None };
    let service = service_of(snapshot.own.as_deref(), destination.port());
    let route = worker.telemetry.route(Reporter::Destination, security, &worker.me(), service);
    let mut arrived = Arrived { client, destination, peer: None, certificate: None, server_name, route };
    let (mut io, spoken) = match accepted {
        Accepted::Refused => {
            let failure = Failure::Refused("plaintext, and the port takes mutual TLS only (STRICT)".into());
            opaque::refused(&arrived.route, &worker.telemetry, None, &failure);
            return Err(failure);
        }
        Accepted::MutualTls => {
            let (io, negotiated) = end_tls(stream, &mut arrived, worker).await?;
            (io, negotiated)
        }
        Accepted::Passthrough => (Io::from_prefixed(stream), Some(Spoken::Opaque)),
        Accepted::Plaintext => (Io::from_prefixed(stream), None),
    };
    drop(snapshot);
    let spoken = match (declared, spoken) {
        (_, Some(Spoken::Opaque)) if accepted == Accepted::Passthrough => Spoken::Opaque,
        (Protocol::Tcp, _) => Spoken::Opaque,
        (Protocol::Http | Protocol::Http2 | Protocol::Grpc, _) => {
            Spoken::Http(detect::version(&mut io).await.map_err(own)?)
        }
        (Protocol::Unknown, Some(negotiated)) => negotiated,
        (Protocol::Unknown, None) => detect::spoken(&mut io, within).await.map_err(own)?,
    };
    match spoken {
        Spoken::Http(version) => http::serve(io, version, arrived, worker).await,
        Spoken::Opaque => relay(io, arrived, worker).await,
    }
}

/// Reads as much as is needed to see what the client presents. A hello is read whole, since what it offers decides.
async fn presented(
    mut stream: TcpStream,
    mode: PeerMode,
    declared: Protocol,
    within: Option<Duration>,
) -> Result<(Prefixed<TcpStream>, Presented, Option<Arc<str>>), Failure> {
    let plaintext = |stream| Ok((Prefixed::new(BytesMut::new(), stream), Presented::Plaintext, None));
    if mode == PeerMode::Disable {
        return plaintext(stream);
    }
    let mut first = [0];
    let peeked = stream.peek(&mut first);
    let peeked = match (mode, declared) {
        (PeerMode::Permissive, Protocol::Tcp) => tokio::time::timeout(SERVER_FIRST, peeked).await,
        (PeerMode::Permissive, Protocol::Unknown) if let Some(within) = within => {
            tokio::time::timeout(within.max(SERVER_FIRST), peeked).await
        }
        _ => Ok(peeked.await),
    };
    // Nothing came: the client waits for the server.
    let Ok(peeked) = peeked else { return plaintext(stream) };
    match peeked {
        Ok(0) => return Err(Failure::Client("closed before its first byte".into())),
        Ok(_) if first == [TLS_HANDSHAKE] => {}
        Ok(_) => return plaintext(stream),
        Err(error) => return Err(Failure::Client(error.to_string().into())),
    }
    match hello::read(&mut stream, hello::Limits { deadline: HANDSHAKE, ..hello::Limits::default() }).await {
        Ok(hello) => {
            let mesh = alpn::offered_by_mesh(hello.alpn.iter().map(|name| &**name));
            let presented = if mesh { Presented::MeshTls } else { Presented::OtherTls };
            let server_name = hello.server_name.map(Arc::from);
            Ok((Prefixed::new(hello.bytes, stream), presented, server_name))
        }
        Err(error) => Err(Failure::Refused(error.to_string().into())),
    }
}

/// The content type of a TLS handshake record (RFC 8446 §5.1). No text protocol begins with it.
const TLS_HANDSHAKE: u8 = 0x16;

/// Ends the mesh's mutual TLS, and says what was agreed to be spoken inside, if that is known.
async fn end_tls(
    stream: Prefixed<TcpStream>,
    arrived: &mut Arrived,
    worker: &Worker,
) -> Result<(Io, Option<Spoken>), Failure> {
    let accept = Accept { client: ClientAuth::Required, alpn: alpn::SERVER };
    let acceptor = TlsAcceptor::from(worker.identity.server_config(accept));
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(Failure::Refused(format!("TLS handshake: {error}").into())),
        Err(_) => return Err(Failure::Refused("TLS handshake: too slow".into())),
    };
    let connection = stream.get_ref().1;
    let certificates = connection.peer_certificates().unwrap_or_default();
    let Some(peer) = identity::peer_of(certificates, &worker.identity.trust()) else {
        return Err(Failure::Refused("the client proved no identity".into()));
    };
    arrived.peer = Some(Arc::new(peer));
    arrived.certificate = certificates.first().map(|leaf| http::fingerprint(leaf).into());
    let spoken = match connection.alpn_protocol() {
        Some(b"h2" | b"istio-h2") => Spoken::Http(Version::Http2),
        Some(b"http/1.1" | b"http/1.0" | b"istio-http/1.1" | b"istio-http/1.0") => Spoken::Http(Version::Http1),
        _ => Spoken::Opaque,
    };
    Ok((Io::from(TlsStream::from(stream)), Some(spoken)))
}

/// Carries opaque bytes to the application, if the policies let it.
async fn relay(mut io: Io, arrived: Arrived, worker: &Rc<Worker>) -> Result<(), Failure> {
    let snapshot = worker.view.snapshot();
    let mut seen = worker.telemetry.log.begin(&snapshot.settings.log);
    if let Some(seen) = &mut seen {
        arrived.remember(seen);
    }
    let decision = snapshot.authorize(&arrived.facts());
    drop(snapshot);
    let opened = match decision {
        Decision::Allowed => {
            application::connect(arrived.destination, worker.mark).await.map_err(|error| arrived.unreachable(error))
        }
        Decision::Denied { policy, .. } => Err(Failure::Denied(policy)),
        Decision::NotAllowed => Err(Failure::Denied("none".into())),
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(failure) => {
            opaque::refused(&arrived.route, &worker.telemetry, seen, &failure);
            return Err(failure);
        }
    };
    if let Some(seen) = &mut seen {
        seen.upstream_local = opened.local;
    }
    let party = worker.telemetry.intern(report::party_from(None, arrived.peer.as_deref()));
    let mut app = opened.io;
    opaque::carry(&mut io, &mut app, arrived.route.tcp(&party), seen).await;
    Ok(())
}

/// The service that a port of the application serves, for metrics.
fn service_of(own: Option<&Own>, port: u16) -> telemetry::istio::Service {
    let host = own.and_then(|own| own.port(port)).map(|port| port.service.clone()).unwrap_or_default();
    if host.is_empty() {
        return telemetry::istio::Service { name: "InboundPassthroughCluster".into(), ..Default::default() };
    }
    let mut parts = host.split('.');
    let (name, namespace) = (parts.next().unwrap_or_default().into(), parts.next().unwrap_or_default().into());
    telemetry::istio::Service { host, name, namespace }
}

impl Arrived {
    /// What policies may ask about the connection.
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            principal: self.peer.as_ref().map(|peer| &peer.id),
            cluster: self.peer.as_ref().and_then(|peer| peer.cluster.as_deref()),
            source: self.client.ip(),
            port: self.destination.port(),
            request: None,
        }
    }

    fn remember(&self, seen: &mut report::Seen) {
        seen.cluster = format!("inbound|{}||", self.destination.port()).into();
        seen.destination = Some(self.destination);
        seen.client = Some(self.client);
        seen.upstream_host = Some(self.destination);
        seen.server_name.clone_from(&self.server_name);
        seen.principal = self.peer.as_ref().map(|peer| peer.id.as_str().into());
    }

    fn unreachable(&self, error: ConnectError) -> Failure {
        Failure::Connect { endpoint: self.destination.to_string().into(), error, retried: false }
    }
}
