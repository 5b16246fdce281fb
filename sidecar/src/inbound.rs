//! Inbound connections: from the mesh to the application, captured on 15006.
//!
//! [`serve`] is the path of a connection: what the client presents → whether that is accepted → the client's identity →
//! requests ([`proxy::exchange::inbound`]) or opaque bytes to the application. The application is reached at the address that
//! the client connected to, from 127.0.0.6, so that its peer is local.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use identity::{Accept, ClientAuth, alpn};
use net::hello;
use policy::{Accepted, PeerAuthentication, PeerMode, Presented};
use proxy::detect::{self, Detected};
use proxy::exchange::Downstream;
use proxy::exchange::authorize::{accepted_connection, authorize_connection, check_caller};
use proxy::exchange::inbound;
use proxy::failure::Failure;
use proxy::http::Version;
use proxy::io::{Io, Prefixed};
use proxy::mesh::{OwnWorkload, Protocol};
use proxy::report::ServiceMetrics;
use proxy::tcp::{self, CarryLimits};
use proxy::upstream::application;
use proxy::worker::Worker;
use runtime::admission::Admitted;
use telemetry::istio::{Reporter, Security};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::captured::Captured;

/// The timeout of the ClientHello and of the handshake (Istio's transport socket connect timeout).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the client of a port that is declared as opaque may take to begin a TLS handshake; a client that sends nothing
/// waits for the server to send first. A proxy sends its ClientHello with the end of the TCP handshake.
const SERVER_FIRST: Duration = Duration::from_secs(1);
/// TCP keep-alive to clients. Their own proxies detect a dead peer sooner.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_PROBES: u32 = 3;
/// The content type of a TLS handshake record (RFC 8446 §5.1). No text protocol begins with it.
pub(crate) const TLS_HANDSHAKE: u8 = 0x16;

/// Carries a connection to the application.
pub async fn serve(stream: TcpStream, client: SocketAddr, admitted: Admitted, captured: Rc<Captured>) {
    if let Err(failure) = carry(stream, client, admitted, &captured).await {
        captured.worker.telemetry.failed("inbound", failure.reason());
        tracing::debug!(error = %failure, "inbound connection failed");
    }
}

async fn carry(stream: TcpStream, client: SocketAddr, admitted: Admitted, captured: &Captured) -> Result<(), Failure> {
    let worker = &captured.worker;
    let mut downstream = Downstream::plaintext(client, captured.destination(&stream)?, admitted);
    // Without keep-alive, the connection of a client whose machine is gone would stay open.
    let _ = net::socket::keep_alive(&stream, KEEP_ALIVE_IDLE, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_PROBES);
    let snapshot = worker.view.snapshot();
    let port = downstream.destination.port();
    let own_port = snapshot.own.as_ref().and_then(|own| own.port(port));
    let _port_permit = match own_port.and_then(|port| port.limits.as_ref()) {
        Some(limits) => {
            let permit = limits.connections.acquire();
            Some(permit.ok_or_else(|| Failure::Overflow(format!("port {port} of the application").into()))?)
        }
        None => None,
    };
    let declared = own_port.map_or_else(|| detect::undeclared(port), |port| port.protocol);
    // Until the peer authentication arrives, only mutual TLS is accepted.
    let strict = PeerAuthentication::new(PeerMode::Strict, []);
    let authentication = snapshot.authentication.as_deref().unwrap_or(&strict);
    let within = snapshot.settings.detection_timeout;

    let (stream, presented, silent) =
        presented(stream, authentication.mode_of(port), declared, within, &mut downstream).await?;
    let accepted = authentication.decide(port, presented);
    let security = if accepted == Accepted::MutualTls { Security::MutualTls } else { Security::None };
    let service = service_labels(snapshot.own.as_deref(), port);
    let metrics = worker.telemetry.service(Reporter::Destination, security, &worker.own_party(), service);
    drop(snapshot);
    let (mut io, negotiated) = match accepted {
        Accepted::Refused => {
            let failure = Failure::Refused("plaintext, but the port accepts mutual TLS only (STRICT)".into());
            worker.telemetry.refused_plaintext();
            tcp::refused(&metrics, &worker.telemetry, None, &failure);
            return Err(failure);
        }
        Accepted::MutualTls => terminate_tls(stream, &mut downstream, worker).await?,
        Accepted::Passthrough => (Io::from_prefixed(stream), Some(Detected::Opaque)),
        Accepted::Plaintext => (Io::from_prefixed(stream), silent.then_some(Detected::Opaque)),
    };
    let detected = match (declared, negotiated) {
        (_, Some(Detected::Opaque)) if accepted == Accepted::Passthrough => Detected::Opaque,
        (Protocol::Tcp, _) => Detected::Opaque,
        (Protocol::Http | Protocol::Http2 | Protocol::Grpc, _) => {
            Detected::Http(detect::version(&mut io).await.map_err(Failure::downstream)?)
        }
        (Protocol::Unknown, Some(negotiated)) => negotiated,
        (Protocol::Unknown, None) => detect::protocol(&mut io, within).await.map_err(Failure::downstream)?,
    };
    match detected {
        Detected::Http(version) => inbound::serve(io, version, downstream, metrics, worker).await,
        Detected::Opaque => relay(io, downstream, metrics, worker).await,
    }
}

/// Reads as much as is needed to see what the client presents: a ClientHello is read in full. Returns also whether the client
/// was silent for as long as it may be, and so waits for the server.
async fn presented(
    mut stream: TcpStream,
    mode: PeerMode,
    declared: Protocol,
    within: Duration,
    downstream: &mut Downstream,
) -> Result<(Prefixed<TcpStream>, Presented, bool), Failure> {
    let plaintext = |stream| Ok((Prefixed::new(BytesMut::new(), stream), Presented::Plaintext, false));
    if mode == PeerMode::Disable {
        return plaintext(stream);
    }
    let mut first = [0];
    let peek = stream.peek(&mut first);
    let peeked = match (mode, declared) {
        (PeerMode::Permissive, Protocol::Tcp) => tokio::time::timeout(SERVER_FIRST, peek).await,
        (PeerMode::Permissive, Protocol::Unknown) => tokio::time::timeout(within.max(SERVER_FIRST), peek).await,
        _ => Ok(peek.await),
    };
    // The client waits for the server to send first.
    let Ok(peeked) = peeked else { return Ok((Prefixed::new(BytesMut::new(), stream), Presented::Plaintext, true)) };
    match peeked {
        Ok(0) => return Err(Failure::Downstream("closed before its first byte".into())),
        Ok(_) if first == [TLS_HANDSHAKE] => {}
        Ok(_) => return plaintext(stream),
        Err(error) => return Err(Failure::downstream(error)),
    }
    let limits = hello::Limits { deadline: HANDSHAKE_TIMEOUT, ..hello::Limits::default() };
    match hello::read(&mut stream, limits).await {
        Ok(hello) => {
            let mesh = alpn::offered_by_mesh(hello.alpn.iter().map(|name| &**name));
            let presented = if mesh { Presented::MeshTls } else { Presented::OtherTls };
            downstream.server_name = hello.server_name.map(Arc::from);
            Ok((Prefixed::new(hello.bytes, stream), presented, false))
        }
        Err(error) => Err(Failure::Refused(error.to_string().into())),
    }
}

/// Terminates mutual TLS. Returns the protocol that ALPN negotiated.
async fn terminate_tls(
    stream: Prefixed<TcpStream>,
    downstream: &mut Downstream,
    worker: &Worker,
) -> Result<(Io, Option<Detected>), Failure> {
    let accept = Accept { client: ClientAuth::Required, alpn: alpn::SERVER };
    let acceptor = TlsAcceptor::from(worker.identity.server_config(accept));
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(Failure::Refused(format!("TLS handshake failed: {error}").into())),
        Err(_) => return Err(Failure::Refused("TLS handshake timed out".into())),
    };
    let connection = stream.get_ref().1;
    let certificates = connection.peer_certificates().unwrap_or_default();
    let Some(peer) = identity::peer_of(certificates, &worker.identity.trust()) else {
        return Err(Failure::Refused("the client proved no identity".into()));
    };
    downstream.admitted.prove();
    downstream.peer = Some(Arc::new(peer));
    downstream.certificate = certificates.first().map(|leaf| identity::fingerprint(leaf).into());
    let negotiated = match connection.alpn_protocol() {
        Some(b"h2" | b"istio-h2") => Detected::Http(Version::Http2),
        Some(b"http/1.1" | b"http/1.0" | b"istio-http/1.1" | b"istio-http/1.0") => Detected::Http(Version::Http1),
        _ => Detected::Opaque,
    };
    Ok((Io::from(TlsStream::from(stream)), Some(negotiated)))
}

/// Carries opaque bytes to the application, if the authorization policies allow it.
async fn relay(
    mut io: Io,
    downstream: Downstream,
    metrics: Rc<ServiceMetrics>,
    worker: &Rc<Worker>,
) -> Result<(), Failure> {
    let socket = worker.view.snapshot().application(downstream.destination);
    let mut log = worker.telemetry.log.begin(&worker.view.snapshot().settings.log);
    if let Some(log) = &mut log {
        downstream.log_inbound(log);
        log.upstream_host = socket.address();
    }
    let permitted = check_caller(&downstream, &worker.view.snapshot(), &worker.telemetry);
    let authorized = match permitted {
        Ok(()) => authorize_connection(&downstream, worker).await,
        Err(refused) => Err(refused),
    };
    let opened = match authorized {
        Ok(()) => application::connect(&socket, &downstream.admitted, worker.mark).await,
        Err(denied) => Err(denied),
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(failure) => {
            tcp::refused(&metrics, &worker.telemetry, log, &failure);
            return Err(failure);
        }
    };
    if let Some(log) = &mut log {
        log.upstream_local = opened.local;
    }
    accepted_connection(&downstream, &worker.telemetry);
    let party = worker.telemetry.peer(None, downstream.peer.as_deref());
    let (mut application, _dialled) = (opened.io, opened.dialled);
    let (limits, metrics) = (CarryLimits::default(), metrics.tcp(&party));
    tcp::carry(&mut io, &mut application, &downstream.admitted, limits, metrics, log).await;
    Ok(())
}

/// Returns the labels of the service that a port of the application serves.
fn service_labels(own: Option<&OwnWorkload>, port: u16) -> telemetry::istio::Service {
    let host = own.and_then(|own| own.port(port)).map(|port| port.service.clone()).unwrap_or_default();
    if host.is_empty() {
        return telemetry::istio::Service { name: "InboundPassthroughCluster".into(), ..Default::default() };
    }
    let mut labels = host.split('.');
    let (name, namespace) = (labels.next().unwrap_or_default().into(), labels.next().unwrap_or_default().into());
    telemetry::istio::Service { host, name, namespace }
}
