//! Requests of the application: each to an endpoint of its service, and to another one where that is safe.
//!
//! What may be sent again, and when:
//!
//! | what happened | again? |
//! | --- | --- |
//! | no connection came about | always: nothing was sent. Several endpoints are tried at once ([`proxy::upstream::connect`]) |
//! | a kept connection turned out to be closed before the request was on it | always, at once |
//! | refused stream, or GOAWAY before the request | always: the peer says that it was not looked at |
//! | the called sidecar says that its application was not reached | always: the request ended there |
//! | the connection ended before a response, or the peer acknowledges nothing | where the method is idempotent |
//!
//! and in every case only while all of the body that was sent is still here (up to 64 KiB).

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use balance::Outcome;
use http::{HeaderValue, Method, Request, Response, Version as HttpVersion, request};

use super::Captured;
use proxy::failure::Failure;
use proxy::http::{Handler, Incoming, AttemptBody, ResponseBody, RequestBody, headers, local_reply, upgrade};
use proxy::io::Io;
use proxy::mesh::Protocol;
use proxy::report::{self, RequestReport, ServiceMetrics};
use proxy::upstream::{UpstreamCluster, LeasedConnection, ConnectionInfo, OverdueRequests, SendErrorCause, SendError, Version};
use proxy::worker::Worker;

/// Attempts after the first (Istio's default).
const RETRIES: u32 = 2;
/// Kept connections that may turn out to be closed, for one request, before that counts as an attempt.
const STALE: u32 = 4;
/// The longest wait before the first retry, and it doubles for the next (Envoy's default base interval). The wait is
/// drawn from below that, so that requests that failed together do not return together.
const BACKOFF: Duration = Duration::from_millis(25);
/// Retransmissions without an answer after which a request that may be repeated is sent elsewhere. By the first of them
/// the data was lost twice or more, which on a network that works is rarer than a pod that is gone.
const UNHEARD_REPEATABLE: u8 = 1;
/// The same for a request that may not be repeated: some 12 s.
const UNHEARD: u8 = 6;

/// Serves a connection of the application.
pub async fn serve(io: Io, version: Version, captured: Captured, worker: &Rc<Worker>) -> Result<(), Failure> {
    let handler = Rc::new(Requests { captured, worker: worker.clone(), named: RefCell::default() });
    let served = proxy::http::serve(io, version, handler, &worker.drain).await;
    served.map_err(|error| Failure::Client(error.to_string().into()))
}

/// The requests of one connection.
struct Requests {
    captured: Captured,
    worker: Rc<Worker>,
    named: RefCell<Option<Named>>,
}

/// Where a request goes, and what it counts for.
#[derive(Clone)]
struct Way {
    cluster: Rc<UpstreamCluster>,
    route: Rc<ServiceMetrics>,
}

/// What the last `Host` on this connection came to. Asking the controller's thread for each request would double its
/// cost, and a name that does not exist now may do so in a moment.
struct Named {
    host: String,
    since: Instant,
    way: Way,
}

impl Named {
    fn is_for(&self, host: &str) -> bool {
        const KEPT: Duration = Duration::from_secs(5);
        self.host == host && self.since.elapsed() < KEPT
    }
}

/// A response and the connection that it comes over.
struct Answered {
    response: Response<Incoming>,
    leased: LeasedConnection,
}

/// An attempt without a response that could be used.
struct Attempt {
    failure: Failure,
    again: Again,
    /// The response that says that the request was not processed, if there is one.
    answered: Option<Box<Answered>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Again {
    /// Whatever the request is, without counting.
    AtOnce,
    /// Whatever the request is.
    Safe,
    /// If the method says that it does no harm.
    IfIdempotent,
    No,
}

impl Handler for Requests {
    async fn handle(self: Rc<Self>, mut request: Request<Incoming>) -> Response<ResponseBody> {
        let Way { cluster, route } = self.way(&request).await;
        // Before it is logged, so that both sides' logs have the same one.
        headers::identify(request.headers_mut());
        let mut report = self.begin(&request, &cluster, &route);
        let upgrade = upgrade::asked(&mut request);
        let version = self.upstream_version(&request, upgrade.is_some());
        let (head, uploaded) = self.outgoing(request, upgrade.as_ref(), version, cluster.service().is_some());
        report.uploaded.clone_from(&uploaded);
        match self.send(&cluster, &head, uploaded.as_ref(), version, &mut report).await {
            Ok(answered) => self.reply(answered, &head, uploaded, upgrade, report),
            Err(failure) => {
                tracing::debug!(error = %failure, cluster = %cluster.name, "request failed");
                let answer = failure.answer();
                report.failed(&answer);
                local_reply(&answer, report.is_grpc(), Some(Box::new(report)))
            }
        }
    }
}

impl Requests {
    /// The service's port that a request is for: that of the address, else that which `Host` names.
    async fn way(&self, request: &Request<Incoming>) -> Way {
        let captured = &self.captured;
        let direct = || Way { cluster: captured.cluster.clone(), route: captured.route.clone() };
        if captured.cluster.service().is_some() {
            self.worker.clusters.refresh(&captured.cluster, &self.worker.view);
            return direct();
        }
        let Some(host) = headers::host(request) else { return direct() };
        if let Some(named) = self.named.borrow().as_ref().filter(|named| named.is_for(host)) {
            self.worker.clusters.refresh(&named.way.cluster, &self.worker.view);
            return named.way.clone();
        }
        let way = Box::pin(self.by_name(host)).await.unwrap_or_else(direct);
        *self.named.borrow_mut() = Some(Named { host: host.to_owned(), since: Instant::now(), way: way.clone() });
        way
    }

    async fn by_name(&self, host: &str) -> Option<Way> {
        let worker = &self.worker;
        let domain = worker.view.snapshot().settings.cluster_domain.clone();
        let hostname = hostname_of(host, &worker.view.place().namespace, &domain)?;
        let port = self.captured.destination.port();
        let service = worker.view.by_name(&hostname).await.filter(|service| !service.headless)?;
        service.port(port)?;
        let cluster = worker.clusters.of(&service, port, None, &worker.view);
        Some(Way { cluster, route: super::route_to(&service, worker) })
    }

    fn begin(&self, request: &Request<Incoming>, cluster: &UpstreamCluster, route: &Rc<ServiceMetrics>) -> RequestReport {
        let worker = &self.worker;
        let mut seen = worker.telemetry.log.begin(&worker.view.snapshot().settings.log);
        if let Some(seen) = &mut seen {
            seen.request(request);
            seen.cluster = cluster.name.clone();
            seen.client = Some(self.captured.client);
            seen.destination = Some(self.captured.destination);
        }
        RequestReport::begin(&worker.telemetry, route, headers::is_grpc(request.headers()), seen)
    }

    /// HTTP/2 where the port is declared so or the request came so; an upgrade needs HTTP/1.1.
    fn upstream_version(&self, request: &Request<Incoming>, upgrade: bool) -> Version {
        let declared = matches!(self.captured.protocol, Protocol::Http2 | Protocol::Grpc);
        let http2 = declared || request.version() == HttpVersion::HTTP_2;
        if http2 && !upgrade { Version::Http2 } else { Version::Http1 }
    }

    /// The head as it is sent, and the body.
    fn outgoing(
        &self,
        request: Request<Incoming>,
        upgrade: Option<&upgrade::Asked>,
        version: Version,
        to_mesh: bool,
    ) -> (request::Parts, Option<Rc<RequestBody>>) {
        let (parts, body) = request.into_parts();
        let mut request = Request::from_parts(parts, ());
        let fields = request.headers_mut();
        headers::end_here(fields);
        // An application cannot speak for a sidecar.
        fields.remove(headers::CLIENT_CERT);
        fields.entry(headers::FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
        if to_mesh {
            fields.insert(headers::PEER, self.worker.me().header.clone());
        }
        if let Some(upgrade) = upgrade {
            upgrade.ask(fields);
        }
        headers::retarget(
            &mut request,
            match version {
                Version::Http1 => HttpVersion::HTTP_11,
                Version::Http2 => HttpVersion::HTTP_2,
            },
        );
        (request.into_parts().0, RequestBody::new(body))
    }

    /// Sends a request until there is a response, or no attempt left.
    async fn send(
        &self,
        cluster: &Rc<UpstreamCluster>,
        head: &request::Parts,
        uploaded: Option<&Rc<RequestBody>>,
        version: Version,
        report: &mut RequestReport,
    ) -> Result<Answered, Failure> {
        let mut tried = Vec::new();
        let (mut retries, mut stale) = (0, 0);
        let mut now = report.started();
        loop {
            if let Some(seen) = &mut report.seen {
                seen.attempts += 1;
            }
            let attempt = match self.attempt(cluster, head, uploaded, version, retries, now, &mut tried).await {
                Ok(answered) => return Ok(answered),
                Err(attempt) => attempt,
            };
            let wanted = match attempt.again {
                Again::AtOnce | Again::Safe => true,
                Again::IfIdempotent => is_idempotent(&head.method),
                Again::No => false,
            };
            let possible = wanted && uploaded.is_none_or(|uploaded| uploaded.can_repeat());
            if possible && attempt.again == Again::AtOnce && stale < STALE {
                stale += 1;
                now = Instant::now();
                continue;
            }
            if !possible || retries == RETRIES {
                return match attempt.answered {
                    Some(answered) => Ok(*answered),
                    None if retries > 0 => Err(attempt.failure.after_retries()),
                    None => Err(attempt.failure),
                };
            }
            tokio::time::sleep((BACKOFF * (1 << retries)).mul_f64(rand::random::<f64>())).await;
            retries += 1;
            now = Instant::now();
        }
    }

    /// Sends a request once.
    #[expect(clippy::too_many_arguments, reason = "what an attempt needs of its request, once")]
    async fn attempt(
        &self,
        cluster: &Rc<UpstreamCluster>,
        head: &request::Parts,
        uploaded: Option<&Rc<RequestBody>>,
        version: Version,
        retries: u32,
        now: Instant,
        tried: &mut Vec<Arc<str>>,
    ) -> Result<Answered, Attempt> {
        let leasing = cluster.lease(version, tried, now, || self.worker.dial(cluster));
        let leased = RequestBody::meanwhile(uploaded, pin!(leasing)).await;
        let mut leased = leased.map_err(|failure| Attempt { failure, again: Again::Safe, answered: None })?;
        let id = leased.pick.id.clone();
        let mut request = Request::from_parts(
            head.clone(),
            match uploaded {
                Some(uploaded) => uploaded.attempt(),
                None => AttemptBody::empty(),
            },
        );
        request.headers_mut().insert(headers::ATTEMPTS, headers::number(u64::from(retries) + 1));
        let repeatable = is_idempotent(&head.method) && uploaded.is_none_or(|uploaded| uploaded.can_repeat());
        let retransmits = if repeatable { UNHEARD_REPEATABLE } else { UNHEARD };
        let line = leased.lease.line.clone();
        let sent = heard(pin!(leased.lease.send(request)), &line, retransmits, &self.worker.overdue).await;
        let attempt = match sent {
            Ok(response) => self.judge(response, leased),
            Err(unsent) => Err(lost(&leased, &unsent)),
        };
        attempt.inspect_err(|_| tried.push(id))
    }

    /// Learns from a response, and says whether another attempt may get a better one.
    fn judge(&self, response: Response<Incoming>, leased: LeasedConnection) -> Result<Answered, Attempt> {
        let now = Instant::now();
        // Said by a sidecar that proved who it is; an application's own header of that name does not get past it.
        let unprocessed = leased.pick.target.tls.is_some() && response.headers().contains_key(headers::UNPROCESSED);
        let unavailable = matches!(response.status().as_u16(), 502..=504)
            || (headers::is_grpc(response.headers()) && headers::grpc_status(response.headers()) == Some(14));
        leased.pick.report(
            match (unprocessed, unavailable) {
                // Behind a gateway it is one pod of many that is gone.
                (true, _) if !leased.pick.target.remote => Outcome::ConnectFailure,
                (true, _) | (false, true) => Outcome::GatewayError,
                (false, false) => Outcome::Success,
            },
            now,
        );
        if unprocessed {
            // A kept connection through a gateway leads to the same pod each time; a new one may lead to another.
            leased.pool.clear();
        }
        let answered = Answered { response, leased };
        if !unprocessed {
            return Ok(answered);
        }
        let endpoint = answered.leased.pick.target.address.to_string().into();
        let failure = Failure::Reset { endpoint, error: "its application was not reached".into(), retried: false };
        Err(Attempt { failure, again: Again::Safe, answered: Some(Box::new(answered)) })
    }

    /// Turns an upstream's response into the client's.
    fn reply(
        &self,
        answered: Answered,
        head: &request::Parts,
        uploaded: Option<Rc<RequestBody>>,
        upgrade: Option<upgrade::Asked>,
        mut report: RequestReport,
    ) -> Response<ResponseBody> {
        let Answered { mut response, leased } = answered;
        if let Some(uploaded) = &uploaded {
            uploaded.forget();
        }
        report.party = Some(self.party(&leased, &response));
        report.answered(response.status().as_u16(), headers::grpc_status(response.headers()));
        let kept = upgrade.as_ref().map(|_| upgrade::kept(response.headers())).unwrap_or_default();
        let fields = response.headers_mut();
        headers::end_here(fields);
        fields.insert(headers::SERVICE_TIME, headers::number(report.started().elapsed().as_millis() as u64));
        if let Some(seen) = &mut report.seen {
            seen.response(fields);
            seen.upstream_host = Some(leased.pick.target.address);
            seen.upstream_local = leased.lease.line.local;
        }
        *response.version_mut() = HttpVersion::HTTP_11;
        if let Some(upgrade) = upgrade.filter(|upgrade| upgrade.agreed(&response, &head.method)) {
            let keep = (self.worker.drain.guard(), self.worker.clone());
            upgrade.carry(leased.lease, Box::new(report), keep);
            response.headers_mut().extend(kept);
            return response.map(|_| ResponseBody::local("", None));
        }
        let LeasedConnection { lease, pick, .. } = leased;
        let ending = Box::new(Counted { report, _under_way: pick });
        response.map(|incoming| ResponseBody::upstream(incoming, Some(lease), uploaded, ending))
    }

    /// Who answered. What discovery told of an endpoint comes first; behind a gateway only the other sidecar knows. It is
    /// the same for all responses of a connection.
    fn party(&self, leased: &LeasedConnection, response: &Response<Incoming>) -> Rc<telemetry::istio::Party> {
        let line = &leased.lease.line;
        line.party(|| {
            let target = &leased.pick.target;
            let mut party = if target.labels.workload.is_empty() {
                let said = response.headers().get(headers::PEER).filter(|_| target.tls.is_some());
                report::party_from(said, line.peer.as_deref())
            } else {
                report::party_of(&target.labels, &target.cluster)
            };
            if let Some(peer) = &line.peer {
                party.principal = peer.id.as_str().into();
            }
            if party.cluster.is_empty() {
                party.cluster = target.cluster.clone();
            }
            self.worker.telemetry.intern(party)
        })
    }
}

/// Keeps the endpoint's count of requests under way until the response is gone.
struct Counted {
    report: RequestReport,
    _under_way: Rc<balance::Pick<Arc<proxy::upstream::Target>>>,
}

impl proxy::http::Ending for Counted {
    fn complete(&mut self, bytes: u64, grpc_status: Option<u16>) {
        self.report.complete(bytes, grpc_status);
    }

    fn broken(&mut self, bytes: u64) {
        self.report.broken(bytes);
    }

    fn abandoned(&mut self, bytes: u64) {
        self.report.abandoned(bytes);
    }
}

/// What a lost connection means for the endpoint, for its other connections, and for the request.
fn lost(leased: &LeasedConnection, SendError { unprocessed, error }: &SendError) -> Attempt {
    let (pick, now, unprocessed) = (&leased.pick, Instant::now(), *unprocessed);
    // The other connections most likely lead to the same end; each would cost another request an attempt.
    leased.pool.clear();
    let stale = leased.lease.reused && unprocessed;
    match error {
        SendErrorCause::Unheard => pick.report(Outcome::ConnectFailure, now),
        // A kept connection that the peer closed says nothing of the peer.
        _ if stale => {}
        _ => pick.report(Outcome::GatewayError, now),
    }
    let endpoint: Arc<str> = pick.target.address.to_string().into();
    let failure = match error {
        SendErrorCause::Connection(error) if error.is_parse() => {
            Failure::UpstreamProtocol { endpoint, error: error.to_string().into() }
        }
        error => Failure::Reset { endpoint, error: error.to_string().into(), retried: false },
    };
    let again = match failure {
        Failure::UpstreamProtocol { .. } => Again::No,
        _ if stale => Again::AtOnce,
        _ if unprocessed => Again::Safe,
        _ => Again::IfIdempotent,
    };
    Attempt { failure, again, answered: None }
}

/// What comes of sending a request, which is given up where the peer does not acknowledge it for too long.
async fn heard<T>(
    mut sending: Pin<&mut impl Future<Output = Result<T, SendError>>>,
    line: &ConnectionInfo,
    retransmits: u8,
    overdue: &OverdueRequests,
) -> Result<T, SendError> {
    let mut waiting = overdue.wait();
    poll_fn(|cx| {
        if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
            return Poll::Ready(sent);
        }
        while waiting.poll_turn(cx).is_ready() {
            if line.unheard(retransmits) {
                return Poll::Ready(Err(SendError { unprocessed: false, error: SendErrorCause::Unheard }));
            }
        }
        Poll::Pending
    })
    .await
}

/// RFC 9110 §9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}

/// The full name of the service that `host` means to a workload of `namespace`: `reviews`, `reviews.default`,
/// `reviews.default.svc`, or all of it. `None` for what cannot be a service.
fn hostname_of(host: &str, namespace: &str, domain: &str) -> Option<String> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_end_matches('.').to_ascii_lowercase();
    if name.is_empty() || name.parse::<std::net::IpAddr>().is_ok() || name.starts_with('[') {
        return None;
    }
    let suffix = format!(".svc.{domain}");
    let short = name.strip_suffix(&suffix).or_else(|| name.strip_suffix(".svc")).unwrap_or(&name);
    match short.split('.').collect::<Vec<_>>()[..] {
        [service] if short.len() == name.len() => Some(format!("{service}.{namespace}{suffix}")),
        [service, namespace] => Some(format!("{service}.{namespace}{suffix}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_name_services() {
        let full = Some("reviews.default.svc.cluster.local".to_owned());
        for host in [
            "reviews",
            "reviews:9080",
            "Reviews.default",
            "reviews.default.svc:80",
            "reviews.default.svc.cluster.local",
            "reviews.default.svc.cluster.local.",
        ] {
            assert_eq!(hostname_of(host, "default", "cluster.local"), full, "{host}");
        }
        for host in ["", "10.0.0.1:80", "[::1]:80", "www.example.com", "a.b.c.svc.cluster.local"] {
            assert_eq!(hostname_of(host, "default", "cluster.local"), None, "{host}");
        }
    }

    /// A task of this size is made for each HTTP/2 request.
    #[test]
    fn streams_are_small() {
        let size = proxy::http::stream_size::<Requests>();
        assert!((1024..3584).contains(&size), "{size} bytes");
    }

    #[test]
    fn methods_that_may_be_repeated() {
        assert!(is_idempotent(&Method::GET) && is_idempotent(&Method::PUT));
        assert!(!is_idempotent(&Method::POST) && !is_idempotent(&Method::PATCH));
        assert!(!is_idempotent(&Method::CONNECT));
    }
}
