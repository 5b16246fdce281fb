//! TCP and mutual TLS to a target, and the race between several targets.
//!
//! A pod that vanished answers no SYN. Waiting for it would hold a request for as long as the pod remains listed, so after a
//! short time the next endpoint is tried in parallel, and the first to answer is used. No part of a request has been sent by
//! then, so the race is safe for any request.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use balance::{Balancer, Outcome, Pick};
use bytes::BytesMut;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use identity::alpn::{self, Alpn};
use identity::{Identity, Peer};
use runtime::admission::Dialled;
use tokio_rustls::{TlsConnector, TlsStream};

use super::Target;
use crate::failure::{ConnectError, Failure};
use crate::http::Version;
use crate::io::{Io, Prefixed};

/// How long to wait for an endpoint before the next one is tried in parallel. A connection within a region takes two round
/// trips, some milliseconds; one to another continent takes longer than this, and still wins unless another endpoint is
/// nearer.
const HEDGE_DELAY: Duration = Duration::from_millis(250);
/// The maximum number of endpoints tried for one attempt of a request.
const MAX_ENDPOINTS: usize = 4;

/// TCP keep-alive to endpoints: a peer that vanished is detected within 6 s even if nothing is sent.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(3);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEP_ALIVE_PROBES: u32 = 3;

/// How to connect to a target.
#[derive(Debug, Clone)]
pub struct DialOptions {
    /// The identity of the proxy.
    pub identity: Identity,
    /// The firewall mark of the proxy's own connections; `None` without capture.
    pub mark: Option<u32>,
    /// The connect timeout: for TCP and TLS, and for all endpoints that are tried.
    pub timeout: Duration,
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
}

/// Connects to one target.
pub async fn open(target: &Target, alpn: Alpn, dial: &DialOptions) -> Result<OpenConnection, ConnectError> {
    let options = net::Connect { mark: dial.mark, timeout: dial.timeout, ..net::Connect::default() };
    let tcp = net::connect(target.address, &options).await.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => ConnectError::Timeout,
        _ => ConnectError::Tcp(Arc::new(error)),
    })?;
    // Without keep-alive a vanished peer is only detected later.
    let _ = net::socket::keep_alive(&tcp, KEEP_ALIVE_IDLE, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_PROBES);
    let local = tcp.local_addr().ok();
    let Some(tls) = &target.tls else { return Ok(OpenConnection { io: tcp.into(), local, peer: None, dialled: None }) };
    let config = dial.identity.client_config_for(&tls.expected, alpn);
    let handshake = TlsConnector::from(config).connect(tls.sni.clone(), Prefixed::new(BytesMut::new(), tcp));
    let stream = match tokio::time::timeout(dial.timeout, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(ConnectError::Tls(Arc::new(error))),
        Err(_) => return Err(ConnectError::Timeout),
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = identity::peer_of(certificates, &dial.identity.trust()).map(Arc::new);
    Ok(OpenConnection { io: Io::from(TlsStream::from(stream)), local, peer, dialled: None })
}

/// Returns the ALPN protocols to offer; `None` is for opaque bytes.
pub fn alpn_of(version: Option<Version>) -> Alpn {
    match version {
        Some(Version::Http1) => alpn::CLIENT_HTTP1,
        Some(Version::Http2) => alpn::CLIENT_HTTP2,
        None => alpn::CLIENT_TCP,
    }
}

/// An endpoint in the race.
struct Contender {
    pick: Rc<Pick<Arc<Target>>>,
    since: Instant,
}

impl Contender {
    /// Returns whether the endpoint has answered other attempts since. Ejecting it would only move its load to endpoints that
    /// are as busy.
    fn is_available(&self) -> bool {
        self.pick.has_succeeded_since(self.since)
    }
}

/// Connects to `first` or, if that fails or takes long, to others. Adds all endpoints that were tried to `tried`, and returns
/// the one that is connected. `failed` is called for each endpoint that accepted no connection.
pub async fn race(
    balancer: &RefCell<Balancer<Arc<Target>>>,
    first: Rc<Pick<Arc<Target>>>,
    tried: &mut Vec<Arc<str>>,
    alpn: Alpn,
    dial: &DialOptions,
    failed: impl Fn(&Pick<Arc<Target>>),
) -> Result<(Rc<Pick<Arc<Target>>>, OpenConnection), Failure> {
    let mut running = FuturesUnordered::new();
    let mut contenders: Vec<Contender> = Vec::new();
    let start = |pick: Rc<Pick<Arc<Target>>>, contenders: &mut Vec<Contender>, tried: &mut Vec<Arc<str>>| {
        tried.push(pick.id.clone());
        contenders.push(Contender { pick: pick.clone(), since: Instant::now() });
        async move { (open(&pick.target, alpn, dial).await, pick) }
    };
    running.push(start(first, &mut contenders, tried));
    let deadline = tokio::time::sleep(dial.timeout);
    tokio::pin!(deadline);
    let mut exhausted = false;
    let mut started = 1;
    loop {
        tokio::select! {
            biased;
            Some((result, pick)) = running.next() => match result {
                Ok(opened) => {
                    // An endpoint that had more time than the winner needed counts as unavailable.
                    let lost = |contender: &&Contender| {
                        !Rc::ptr_eq(&contender.pick, &pick)
                            && contender.since.elapsed() > HEDGE_DELAY
                            && !contender.is_available()
                    };
                    for slow in contenders.iter().filter(lost) {
                        slow.pick.report(Outcome::ConnectFailure, Instant::now());
                        failed(&slow.pick);
                    }
                    return Ok((pick, opened));
                }
                Err(error) => {
                    pick.report(Outcome::ConnectFailure, Instant::now());
                    failed(&pick);
                    contenders.retain(|contender| !Rc::ptr_eq(&contender.pick, &pick));
                    if running.is_empty() {
                        match (started < MAX_ENDPOINTS).then(|| another(balancer, tried)).flatten() {
                            Some(next) => {
                                started += 1;
                                running.push(start(next, &mut contenders, tried));
                            }
                            None => {
                                let endpoint = pick.target.address.to_string().into();
                                return Err(Failure::Connect { endpoint, error, retried: false });
                            }
                        }
                    }
                }
            },
            () = tokio::time::sleep(HEDGE_DELAY), if !exhausted && started < MAX_ENDPOINTS => match another(balancer, tried) {
                Some(next) => {
                    started += 1;
                    running.push(start(next, &mut contenders, tried));
                }
                None => exhausted = true,
            },
            () = &mut deadline => {
                let mut endpoint: Arc<str> = Arc::default();
                for contender in &contenders {
                    if !contender.is_available() {
                        contender.pick.report(Outcome::ConnectFailure, Instant::now());
                        failed(&contender.pick);
                    }
                    endpoint = contender.pick.target.address.to_string().into();
                }
                return Err(Failure::Connect { endpoint, error: ConnectError::Timeout, retried: false });
            }
        }
    }
}

/// Picks an endpoint that has not been tried.
fn another(balancer: &RefCell<Balancer<Arc<Target>>>, tried: &[Arc<str>]) -> Option<Rc<Pick<Arc<Target>>>> {
    let pick = balancer.borrow_mut().pick(Instant::now(), tried, rand::random())?;
    (!tried.contains(&pick.id)).then(|| Rc::new(pick))
}
