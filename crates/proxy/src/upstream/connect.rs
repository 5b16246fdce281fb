//! TCP and mutual TLS to a target, and the race between several targets.
//!
//! A pod that is gone without a word answers no SYN. Waiting for it would hold a request for as long as the pod stays
//! listed, so after a moment the next endpoint is tried beside it, and whoever answers first is used. Nothing of a
//! request has been sent by then, so this is safe for any request.

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
use tokio_rustls::{TlsConnector, TlsStream};

use super::Target;
use crate::failure::{ConnectError, Failure};
use crate::io::{Io, Prefixed};

/// After this long without an answer the next endpoint is tried beside the first. A connection within a region takes
/// two round trips, some milliseconds; one to another continent takes longer than this, and then wins all the same
/// unless another endpoint is nearer.
const HEDGE: Duration = Duration::from_millis(250);
/// Endpoints tried for one attempt of a request.
const MOST: usize = 4;

/// Keep-alive on connections to endpoints: a peer that vanished while nothing was sent is noticed within 6 s.
const IDLE_PROBE: Duration = Duration::from_secs(3);
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const PROBES: u32 = 3;

/// What connecting needs besides a target.
#[derive(Debug, Clone)]
pub struct Dial {
    /// Who this proxy is.
    pub identity: Identity,
    /// The mark of its own connections; `None` where nothing is captured.
    pub mark: Option<u32>,
    /// For TCP and TLS of all endpoints tried together.
    pub timeout: Duration,
}

/// An open connection.
#[derive(Debug)]
pub struct Opened {
    /// Its bytes.
    pub io: Io,
    /// Our end.
    pub local: Option<SocketAddr>,
    /// Who is at the other end, by its certificate.
    pub peer: Option<Arc<Peer>>,
}

/// Connects to one target.
pub async fn open(target: &Target, alpn: Alpn, dial: &Dial) -> Result<Opened, ConnectError> {
    let options = net::Connect { mark: dial.mark, timeout: dial.timeout, ..net::Connect::default() };
    let tcp = net::connect(target.address, &options).await.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => ConnectError::Timeout,
        _ => ConnectError::Tcp(Arc::new(error)),
    })?;
    // Without it a vanished peer is noticed later, no more.
    let _ = net::socket::keep_alive(&tcp, IDLE_PROBE, PROBE_INTERVAL, PROBES);
    let local = tcp.local_addr().ok();
    let Some(tls) = &target.tls else { return Ok(Opened { io: tcp.into(), local, peer: None }) };
    let config = dial.identity.client_config_for(&tls.expected, alpn);
    let handshake = TlsConnector::from(config).connect(tls.sni.clone(), Prefixed::new(BytesMut::new(), tcp));
    let stream = match tokio::time::timeout(dial.timeout, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(ConnectError::Tls(Arc::new(error))),
        Err(_) => return Err(ConnectError::Timeout),
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = identity::peer_of(certificates, &dial.identity.trust()).map(Arc::new);
    Ok(Opened { io: Io::from(TlsStream::from(stream)), local, peer })
}

/// The protocols that are offered for what will be carried.
pub fn alpn_of(version: Option<super::Version>) -> Alpn {
    match version {
        Some(super::Version::Http1) => alpn::CLIENT_HTTP1,
        Some(super::Version::Http2) => alpn::CLIENT_HTTP2,
        None => alpn::CLIENT_TCP,
    }
}

/// An endpoint in the race.
struct Runner {
    pick: Rc<Pick<Arc<Target>>>,
    since: Instant,
}

impl Runner {
    /// It has answered others meanwhile: setting it aside would only put its load on those that are as busy.
    fn is_there(&self) -> bool {
        self.pick.has_succeeded_since(self.since)
    }
}

/// Connects to `first` or, where that fails or takes long, to others; all that were tried are added to `tried`. Says
/// which one it is. `failed` is told of every endpoint to which no connection came about.
pub async fn race(
    balancer: &RefCell<Balancer<Arc<Target>>>,
    first: Rc<Pick<Arc<Target>>>,
    tried: &mut Vec<Arc<str>>,
    alpn: Alpn,
    dial: &Dial,
    failed: impl Fn(&Pick<Arc<Target>>),
) -> Result<(Rc<Pick<Arc<Target>>>, Opened), Failure> {
    let mut running = FuturesUnordered::new();
    let mut runners: Vec<Runner> = Vec::new();
    let start = |pick: Rc<Pick<Arc<Target>>>, runners: &mut Vec<Runner>, tried: &mut Vec<Arc<str>>| {
        tried.push(pick.id.clone());
        runners.push(Runner { pick: pick.clone(), since: Instant::now() });
        async move { (open(&pick.target, alpn, dial).await, pick) }
    };
    running.push(start(first, &mut runners, tried));
    let deadline = tokio::time::sleep(dial.timeout);
    tokio::pin!(deadline);
    let mut exhausted = false;
    let mut started = 1;
    loop {
        tokio::select! {
            biased;
            Some((result, pick)) = running.next() => match result {
                Ok(opened) => {
                    // Who was given a longer time than the winner needed is as good as not there.
                    let slow = |r: &&Runner| !Rc::ptr_eq(&r.pick, &pick) && r.since.elapsed() > HEDGE && !r.is_there();
                    for slow in runners.iter().filter(slow) {
                        slow.pick.report(Outcome::ConnectFailure, Instant::now());
                        failed(&slow.pick);
                    }
                    return Ok((pick, opened));
                }
                Err(error) => {
                    pick.report(Outcome::ConnectFailure, Instant::now());
                    failed(&pick);
                    runners.retain(|runner| !Rc::ptr_eq(&runner.pick, &pick));
                    if running.is_empty() {
                        match (started < MOST).then(|| another(balancer, tried)).flatten() {
                            Some(next) => {
                                started += 1;
                                running.push(start(next, &mut runners, tried));
                            }
                            None => {
                                let endpoint = pick.target.address.to_string().into();
                                return Err(Failure::Connect { endpoint, error, retried: false });
                            }
                        }
                    }
                }
            },
            () = tokio::time::sleep(HEDGE), if !exhausted && started < MOST => match another(balancer, tried) {
                Some(next) => {
                    started += 1;
                    running.push(start(next, &mut runners, tried));
                }
                None => exhausted = true,
            },
            () = &mut deadline => {
                let mut endpoint: Arc<str> = Arc::default();
                for runner in &runners {
                    if !runner.is_there() {
                        runner.pick.report(Outcome::ConnectFailure, Instant::now());
                        failed(&runner.pick);
                    }
                    endpoint = runner.pick.target.address.to_string().into();
                }
                return Err(Failure::Connect { endpoint, error: ConnectError::Timeout, retried: false });
            }
        }
    }
}

/// An endpoint that was not tried yet.
fn another(balancer: &RefCell<Balancer<Arc<Target>>>, tried: &[Arc<str>]) -> Option<Rc<Pick<Arc<Target>>>> {
    let pick = balancer.borrow_mut().pick(Instant::now(), tried, rand::random())?;
    (!tried.contains(&pick.id)).then(|| Rc::new(pick))
}
