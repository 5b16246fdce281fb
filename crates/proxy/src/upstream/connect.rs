//! TCP and mutual TLS to a target, and the race between several targets.
//!
//! A pod that vanished answers no SYN. Waiting for it would hold a request for as long as the pod remains listed, so after a
//! short time the next endpoint is tried in parallel, and the first to answer is used. No part of a request has been sent by
//! then, so the race is safe for any request.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use balance::{Balancer, Outcome, Pick};
use bytes::BytesMut;
use identity::alpn::{self, Alpn};
use identity::{Identity, Peer};
use runtime::admission::Dialled;
use tokio::io::AsyncWriteExt;
use tokio_rustls::{TlsConnector, TlsStream};

use super::{Target, preamble};
use crate::failure::{ConnectError, Failure};
use crate::http::Version;
use crate::io::{Io, Prefixed};
use crate::mesh::{ConnectTimeouts, Connection, HEDGE_DELAY, Keepalive, SharedCluster, TrafficPolicy};

/// The maximum number of endpoints tried for one attempt of a request.
const MAX_ENDPOINTS: usize = 4;

/// TCP keep-alive to endpoints: a peer that vanished is detected within 6 s even if nothing is sent.
const KEEP_ALIVE: Keepalive =
    Keepalive { time: Some(Duration::from_secs(3)), interval: Some(Duration::from_secs(1)), probes: Some(3) };

/// How to connect to a target.
#[derive(Debug, Clone)]
pub struct DialOptions {
    /// The policy of the cluster.
    pub policy: Rc<TrafficPolicy>,
    /// The limits on connections, if the cluster has any.
    pub limits: Option<DialLimits>,
    /// The client, and the address that it connected to, for the PROXY protocol.
    pub client: Option<(SocketAddr, SocketAddr)>,
    /// The identity of the proxy.
    pub identity: Identity,
    /// The firewall mark of the proxy's own connections; `None` without capture.
    pub mark: Option<u32>,
    /// The connect timeouts, for TCP and TLS together.
    pub timeouts: ConnectTimeouts,
}

/// The places of connections that may be opened.
#[derive(Debug, Clone)]
pub struct DialLimits {
    cluster: Arc<SharedCluster>,
    /// A place that was acquired before.
    acquired: Rc<RefCell<Option<Connection>>>,
}

impl DialLimits {
    /// Returns the limits of a cluster, with a place for the first connection.
    pub(super) fn new(cluster: Arc<SharedCluster>, first: Option<Connection>) -> Self {
        Self { cluster, acquired: Rc::new(RefCell::new(first)) }
    }

    /// Returns the place for a connection, if there is one.
    fn place(&self) -> Option<Connection> {
        let acquired = self.acquired.take();
        acquired.or_else(|| self.cluster.connection())
    }
}

impl DialOptions {
    /// Returns the options for a connection of a client to `destination`.
    pub fn for_client(mut self, client: SocketAddr, destination: SocketAddr) -> Self {
        self.client = Some((client, destination));
        self
    }

    fn timeout(&self, target: &Target) -> Duration {
        let usual = if target.remote { self.timeouts.through_gateway } else { self.timeouts.direct };
        self.policy.pool.connect_timeout.unwrap_or(usual)
    }
}

/// A new connection.
#[derive(Debug)]
pub struct OpenConnection {
    /// The byte stream.
    pub io: Io,
    /// The local address.
    pub local: Option<SocketAddr>,
    /// The peer, by its certificate.
    pub peer: Option<Arc<Peer>>,
    /// The place among the connections that are opened on behalf of admitted ones.
    pub dialled: Option<Dialled>,
    /// The place among the connections of the cluster.
    pub place: Option<Connection>,
}

/// Connects to one target.
pub async fn open(target: &Target, alpn: Alpn, dial: &DialOptions) -> Result<OpenConnection, ConnectError> {
    let timeout = dial.timeout(target);
    let deadline = tokio::time::Instant::now() + timeout;
    let options = net::Connect { mark: dial.mark, timeout, ..net::Connect::default() };
    let mut tcp = net::connect(target.address, &options).await.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => ConnectError::Timeout,
        _ => ConnectError::Tcp(Arc::new(error)),
    })?;
    // Without keep-alive a vanished peer is only detected later.
    let keepalive = dial.policy.pool.keepalive.unwrap_or(KEEP_ALIVE);
    let (time, interval, probes) = keepalive.or_system_default();
    let _ = net::socket::keep_alive(&tcp, time, interval, probes);
    let local = tcp.local_addr().ok();
    if let Some(version) = dial.policy.proxy_protocol {
        let header = preamble::proxy_header(version, dial.client);
        // The header fits into the buffer of a new socket.
        tcp.write_all(&header).await.map_err(|error| ConnectError::Tcp(Arc::new(error)))?;
    }
    if let Some(origination) = &target.origination {
        let handshake = origination.connect(Prefixed::new(BytesMut::new(), tcp), alpn_outside(alpn));
        let stream = tokio::time::timeout_at(deadline, handshake).await.map_err(|_| ConnectError::Timeout)?;
        let io = Io::from(TlsStream::from(stream.map_err(|error| ConnectError::Tls(Arc::new(error)))?));
        return Ok(OpenConnection { io, local, peer: None, dialled: None, place: None });
    }
    let Some(tls) = &target.tls else {
        return Ok(OpenConnection { io: tcp.into(), local, peer: None, dialled: None, place: None });
    };
    let config = dial.identity.client_config_for(&tls.expected, alpn);
    let handshake = TlsConnector::from(config).connect(tls.sni.clone(), Prefixed::new(BytesMut::new(), tcp));
    let stream = match tokio::time::timeout_at(deadline, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(ConnectError::Tls(Arc::new(error))),
        Err(_) => return Err(ConnectError::Timeout),
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = identity::peer_of(certificates, &dial.identity.trust()).map(Arc::new);
    Ok(OpenConnection { io: Io::from(TlsStream::from(stream)), local, peer, dialled: None, place: None })
}

/// Returns the ALPN protocols to offer to a server outside the mesh.
fn alpn_outside(alpn: Alpn) -> Alpn {
    match alpn {
        alpn::CLIENT_HTTP1 => &[b"http/1.1"],
        alpn::CLIENT_HTTP2 => &[b"h2"],
        _ => &[],
    }
}

/// Returns the ALPN protocols to offer; `None` is for opaque bytes.
pub fn alpn_of(version: Option<Version>) -> Alpn {
    match version {
        Some(Version::Http1) => alpn::CLIENT_HTTP1,
        Some(Version::Http2) => alpn::CLIENT_HTTP2,
        None => alpn::CLIENT_TCP,
    }
}

/// An attempt to connect to one endpoint.
pub struct Dialing {
    /// The endpoint.
    pub pick: Rc<Pick<Arc<Target>>>,
    /// When it began.
    pub since: Instant,
    opening: Pin<Box<dyn Future<Output = Result<OpenConnection, ConnectError>>>>,
}

impl Dialing {
    fn begin(pick: Rc<Pick<Arc<Target>>>, alpn: Alpn, dial: &DialOptions, place: Option<Connection>) -> Self {
        let (target, dial) = (pick.target.clone(), dial.clone());
        let opening = Box::pin(async move {
            let opened = open(&target, alpn, &dial).await?;
            let io = match &dial.policy.tunnel {
                Some(tunnel) if alpn == alpn::CLIENT_TCP => {
                    let tunnelled = preamble::tunnel(opened.io, tunnel);
                    let tunnelled = tokio::time::timeout(dial.timeout(&target), tunnelled).await;
                    let tunnelled = tunnelled.map_err(|_| ConnectError::Timeout)?;
                    tunnelled.map_err(|error| ConnectError::Http(Arc::new(error)))?
                }
                _ => opened.io,
            };
            Ok(OpenConnection { io, place, ..opened })
        });
        Self { pick, since: Instant::now(), opening }
    }

    /// Reports to the balancer that the attempt failed, unless the endpoint has answered other attempts since: ejecting it
    /// would only move its load to endpoints that are as busy. Returns whether it was reported.
    pub fn report_failure(&self) -> bool {
        let failed = !self.pick.has_succeeded_since(self.since);
        if failed {
            let now = Instant::now();
            self.pick.report(Outcome::ConnectFailure, now);
            self.pick.target.failed(now);
        }
        failed
    }
}

impl Future for Dialing {
    type Output = Result<OpenConnection, ConnectError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.opening.as_mut().poll(cx)
    }
}

/// The end of a race.
pub struct Won {
    /// The endpoint that is connected.
    pub pick: Rc<Pick<Arc<Target>>>,
    /// The connection to it.
    pub opened: OpenConnection,
    /// The attempts that have not ended. Whether these endpoints are available is not known yet: one on another continent
    /// takes longer than one nearby.
    pub late: Vec<Dialing>,
}

/// Connects to `first` or, if that fails or takes long, to others as well. Adds all endpoints that were tried to `tried`.
/// `is_late` returns whether an earlier attempt to an endpoint is late: then the next one is tried at once. `failed` is called
/// for each endpoint that accepted no connection.
pub async fn race(
    balancer: &RefCell<Balancer<Arc<Target>>>,
    first: Rc<Pick<Arc<Target>>>,
    tried: &mut Vec<Arc<str>>,
    alpn: Alpn,
    dial: &DialOptions,
    is_late: impl Fn(&Pick<Arc<Target>>) -> bool,
    failed: impl Fn(&Pick<Arc<Target>>),
) -> Result<Won, Failure> {
    let mut running: Vec<Dialing> = Vec::with_capacity(1);
    let (mut next, mut started) = (Some(first), 0);
    let (mut delay, mut more) = (HEDGE_DELAY, true);
    loop {
        if let Some(pick) = next.take() {
            let place = dial.limits.as_ref().map(DialLimits::place);
            match place {
                // No further connection may be opened.
                Some(None) if running.is_empty() => return Err(Failure::Overflow("the number of connections".into())),
                Some(None) => more = false,
                place => {
                    tried.push(pick.id.clone());
                    started += 1;
                    more = started < MAX_ENDPOINTS;
                    delay = if is_late(&pick) { Duration::ZERO } else { HEDGE_DELAY };
                    running.push(Dialing::begin(pick, alpn, dial, place.flatten()));
                }
            }
        }
        let ended = poll_fn(|cx| poll_any(&mut running, cx));
        let ended = if more { tokio::time::timeout(delay, ended).await.ok() } else { Some(ended.await) };
        match ended {
            Some((dialing, Ok(opened))) => return Ok(Won { pick: dialing.pick, opened, late: running }),
            Some((dialing, Err(error))) => {
                if dialing.report_failure() {
                    failed(&dialing.pick);
                }
                if running.is_empty() {
                    next = if more { another(balancer, tried) } else { None };
                    if next.is_none() {
                        let endpoint = dialing.pick.target.address.to_string().into();
                        return Err(Failure::Connect { endpoint, error, retried: false });
                    }
                }
            }
            None => {
                next = another(balancer, tried);
                more = next.is_some();
            }
        }
    }
}

/// Polls all attempts; removes and returns one that has ended. There are at most [`MAX_ENDPOINTS`].
fn poll_any(running: &mut Vec<Dialing>, cx: &mut Context<'_>) -> Poll<(Dialing, Result<OpenConnection, ConnectError>)> {
    for at in 0..running.len() {
        if let Poll::Ready(result) = Pin::new(&mut running[at]).poll(cx) {
            return Poll::Ready((running.swap_remove(at), result));
        }
    }
    Poll::Pending
}

/// Picks an endpoint that has not been tried.
fn another(balancer: &RefCell<Balancer<Arc<Target>>>, tried: &[Arc<str>]) -> Option<Rc<Pick<Arc<Target>>>> {
    let pick = balancer.borrow_mut().pick(Instant::now(), tried, rand::random())?;
    (!tried.contains(&pick.id)).then(|| Rc::new(pick))
}
