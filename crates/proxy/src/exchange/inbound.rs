//! Requests to the application: authenticate → ask → verify tokens → authorize → count against limits on rates → limit →
//! application.
//!
//! A request is sent again only if an idle connection turned out to be closed before the request was sent on it; anything
//! else is up to the caller, which may have other endpoints. If the application was not reached, the response reports it
//! ([`headers::UNPROCESSED`]), so that the caller's sidecar may send even a POST to another endpoint.

use std::cell::OnceCell;
use std::fmt::{self, Display};
use std::pin::pin;
use std::rc::Rc;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version as HttpVersion};
use policy::PeerMode;
use policy::authorization::Matched;
use ratelimit::{RateLimits, Side};
use runtime::limits::Permit;
use telemetry::istio::Party;

use super::authorize::{asked_about, authorize_request, check_caller, refused_cluster};
use super::external::{OnAllow, check_request};
use super::rate_limits::{ConnectionBuckets, Counted, Counting, Exceeded, OnWithin};
use super::{Downstream, Exchange, connection_failure, is_idempotent, tokens};
use crate::failure::Failure;
use crate::http::{Incoming, RequestBody, Version, headers, settle};
use crate::io::Io;
use crate::mesh::{ApplicationSocket, MeshSnapshot};
use crate::report::{LogEntry, RequestReport, ServiceMetrics};
use crate::server::{Ending, Handler, ResponseBody, serve as serve_http};
use crate::upstream::Lease;
use crate::worker::Worker;

/// The maximum number of attempts on idle connections that turn out to be closed.
const MAX_STALE: u32 = 8;

/// Serves the requests of a connection to the application.
pub async fn serve(
    io: Io,
    version: Version,
    downstream: Downstream,
    metrics: Rc<ServiceMetrics>,
    worker: &Rc<Worker>,
) -> Result<(), Failure> {
    let (xfcc, admitted) = (forwarded_client_cert(&downstream, worker), downstream.admitted.clone());
    let (party, caller, buckets) = Default::default();
    let handler =
        Rc::new(InboundRequests { downstream, metrics, xfcc, party, caller, buckets, worker: worker.clone() });
    let served = serve_http(io, version, handler.clone(), admitted, &worker.drain).await;
    served.map_err(|error| connection_failure(&error, worker, |log| handler.downstream.log_inbound(log)))
}

impl Downstream {
    /// Adds a connection to the application to an access log entry.
    pub fn log_inbound(&self, log: &mut LogEntry) {
        self.log_to(log);
        log.cluster = InboundCluster(self.destination.port()).to_string().into();
        log.upstream_host = Some(self.destination);
    }
}

/// The name of the upstream cluster of a port of the application, as Istio has it.
struct InboundCluster(u16);

impl Display for InboundCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inbound|{}||", self.0)
    }
}

/// The requests of one connection.
struct InboundRequests {
    downstream: Downstream,
    metrics: Rc<ServiceMetrics>,
    /// The peer's identity, for the application.
    xfcc: Option<HeaderValue>,
    /// The caller. All requests of a connection between sidecars have the same.
    party: OnceCell<Rc<Party>>,
    /// The caller and port in the record of what was accepted.
    caller: OnceCell<u64>,
    /// For limits on rates of which each connection has its own.
    buckets: ConnectionBuckets,
    worker: Rc<Worker>,
}

/// A request that the application did not answer.
struct Unanswered {
    failure: Failure,
    /// No part of the request reached the application.
    unprocessed: bool,
}

impl Handler for InboundRequests {
    async fn handle(self: Rc<Self>, mut request: Request<Incoming>) -> Response<ResponseBody> {
        // The current settings and policies, not those of when the connection was opened: it may be days old.
        let mut snapshot = self.worker.view.snapshot();
        let settled = settle(&mut request, self.downstream.destination, snapshot.settings.path_normalization);
        let (mut exchange, caller) = self.authenticate(request, settled.unwrap_or_default());
        if let Err(invalid) = settled {
            return exchange.refuse(invalid);
        }
        if let Some(matched) = self.asked(&exchange, &snapshot) {
            drop(snapshot);
            // Boxed: the future of requests that no policy asks about stays small.
            exchange = match Box::pin(self.ask(exchange, matched)).await {
                Ok(exchange) => exchange,
                Err(response) => return response,
            };
            snapshot = self.worker.view.snapshot();
        }
        if let Err(failure) = self.admit(&mut exchange, &snapshot) {
            return tokens::refuse(exchange, &failure);
        }
        if let Some(limits) = snapshot.rate_limits.clone() {
            match self.counting(&self.cluster()).count(&mut exchange, &limits) {
                Counted::Within => {}
                Counted::Exceeded(exceeded) => return exceeded.answer(exchange),
                Counted::Asks(rule) => {
                    drop(snapshot);
                    // Boxed: the future of requests that no service counts stays small.
                    if let Some(exceeded) = Box::pin(self.ask_limits(&mut exchange, &limits, rule)).await {
                        return exceeded.answer(exchange);
                    }
                    snapshot = self.worker.view.snapshot();
                }
            }
        }
        let permit = match self.limit(&snapshot) {
            Ok(permit) => permit,
            Err(failure) => return exchange.fail(&failure),
        };
        let socket = snapshot.application(self.downstream.destination);
        drop(snapshot);
        match self.send_to_application(&mut exchange, &socket).await {
            Ok((response, lease)) => {
                self.record(&exchange, response.status());
                self.answer(exchange, response, lease, caller, permit)
            }
            Err(Unanswered { failure, unprocessed }) => {
                tracing::debug!(error = %failure, "request to the application failed");
                let mut response = exchange.fail(&failure);
                if unprocessed && caller == Caller::Sidecar {
                    response.headers_mut().insert(headers::UNPROCESSED, HeaderValue::from_static("1"));
                }
                response
            }
        }
    }
}

/// The kind of caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    /// A sidecar of the mesh, which proved its identity.
    Sidecar,
    /// Any other client.
    Other,
}

impl InboundRequests {
    /// Begins the exchange with the caller that the connection's handshake proved.
    fn authenticate(&self, request: Request<Incoming>, upgrade: bool) -> (Exchange, Caller) {
        let peer = self.downstream.peer.as_deref();
        let header = peer.and_then(|_| request.headers().get(headers::PEER));
        let caller = if header.is_some() { Caller::Sidecar } else { Caller::Other };
        let party = self.party.get_or_init(|| self.worker.telemetry.peer(header, peer)).clone();
        let mut exchange = Exchange::begin(request, upgrade, &self.worker, &self.metrics, &self.downstream, |log| {
            self.downstream.log_inbound(log);
        });
        exchange.report.party = Some(party);
        let headers = &mut exchange.head.headers;
        if let Some(xfcc) = &self.xfcc {
            headers.insert(headers::CLIENT_CERT, xfcc.clone());
        }
        let scheme = if peer.is_some() { "https" } else { "http" };
        headers.entry(headers::FORWARDED_PROTO).or_insert(HeaderValue::from_static(scheme));
        (exchange, caller)
    }

    /// Returns the policy by which another server is asked about the request, if there is one.
    fn asked(&self, exchange: &Exchange, snapshot: &MeshSnapshot) -> Option<Matched> {
        // What is refused in any case is not asked about.
        let refused = || self.refuses_plaintext(snapshot) || refused_cluster(&self.downstream, snapshot).is_some();
        asked_about(None, &self.downstream, &exchange.head, snapshot).filter(|_| !refused())
    }

    /// Asks another server about the request. Returns the response if the request is not carried.
    async fn ask(&self, mut exchange: Exchange, matched: Matched) -> Result<Exchange, Response<ResponseBody>> {
        let policy = matched.policy.clone();
        match check_request(&mut exchange, &self.downstream, matched, &self.worker).await {
            Ok(()) => Ok(exchange),
            Err(refusal) => {
                self.worker.telemetry.denied(&policy);
                Err(refusal.answer(exchange))
            }
        }
    }

    /// Returns whether the connection is in plaintext, from before the port became STRICT.
    fn refuses_plaintext(&self, snapshot: &MeshSnapshot) -> bool {
        let Downstream { peer, destination, .. } = &self.downstream;
        let modes = snapshot.authentication.as_deref().filter(|_| peer.is_none());
        modes.is_some_and(|modes| modes.mode_of(destination.port()) == PeerMode::Strict)
    }

    /// Refuses plaintext on a connection from before the port became STRICT, callers of other clusters than those that may call,
    /// tokens that are not valid, and what the policies do not allow.
    fn admit(&self, exchange: &mut Exchange, snapshot: &MeshSnapshot) -> Result<(), Failure> {
        if self.refuses_plaintext(snapshot) {
            self.worker.telemetry.refused_plaintext();
            return Err(Failure::Plaintext);
        }
        check_caller(&self.downstream, snapshot, &self.worker.telemetry)?;
        let token = tokens::verify(exchange, snapshot.tokens.as_ref(), &self.worker)?;
        let token = token.as_deref().map(|token| &token.verified);
        authorize_request(None, &self.downstream, &exchange.head, token, snapshot, &self.worker.telemetry)
    }

    /// Returns how requests of the connection are counted against limits on rates.
    fn counting<'a>(&'a self, cluster: &'a InboundCluster) -> Counting<'a> {
        Counting {
            side: Side::Inbound,
            downstream: &self.downstream,
            client: None,
            buckets: &self.buckets,
            cluster,
            worker: &self.worker,
        }
    }

    fn cluster(&self) -> InboundCluster {
        InboundCluster(self.downstream.destination.port())
    }

    /// Asks the services that count requests, from that of the rule at a place on.
    async fn ask_limits(&self, exchange: &mut Exchange, limits: &RateLimits, rule: usize) -> Option<Box<Exceeded>> {
        self.counting(&self.cluster()).ask(exchange, limits, rule).await
    }

    /// Acquires a permit if requests to the application's port are limited.
    fn limit(&self, snapshot: &MeshSnapshot) -> Result<Option<Permit>, Failure> {
        let port = self.downstream.destination.port();
        let limits = snapshot.own.as_ref().and_then(|own| own.port(port)?.limits.as_ref());
        let Some(limits) = limits else { return Ok(None) };
        let permit = limits.requests.acquire();
        permit.map(Some).ok_or_else(|| Failure::Overflow(format!("port {port} of the application").into()))
    }

    /// Sends the request to the application.
    async fn send_to_application(
        &self,
        exchange: &mut Exchange,
        socket: &ApplicationSocket,
    ) -> Result<(Response<Incoming>, Lease), Unanswered> {
        let version = if exchange.head.version == HttpVersion::HTTP_2 { Version::Http2 } else { Version::Http1 };
        exchange.prepare(version);
        if let Some(log) = &mut exchange.report.log {
            log.upstream_host = socket.address();
        }
        let endpoint = || socket.to_string().into();
        let pool = self.worker.application(socket);
        let mut stale = 0;
        loop {
            let leasing = pool.to_application(socket, version, &self.downstream.admitted, self.worker.mark);
            let lease = RequestBody::hold_while(exchange.body.as_ref(), pin!(leasing)).await;
            let mut lease = lease.map_err(|failure| Unanswered { failure, unprocessed: true })?;
            let error = match lease.send(exchange.attempt(), exchange.upgrade.is_some()).await {
                Ok(response) => return Ok((response, lease)),
                Err(error) => error,
            };
            let repeatable = exchange.is_repeatable();
            // An application closes a kept connection at any time. Whether it read the request first is not known, so then
            // the method must allow to send it again.
            let stale_connection = lease.reused
                && (error.unprocessed || (error.cause.is_closed() && is_idempotent(&exchange.head.method)));
            if stale_connection && repeatable && !exchange.is_abandoned() && stale < MAX_STALE {
                stale += 1;
                pool.prune();
                continue;
            }
            let unprocessed = error.unprocessed && repeatable;
            return Err(Unanswered { failure: exchange.lost(endpoint(), &error.cause), unprocessed });
        }
    }

    /// Records a request that was accepted, for policies that are proposed from it; not if the application does not have what
    /// was asked for, as for scanners.
    fn record(&self, exchange: &Exchange, status: StatusCode) {
        if matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
            return;
        }
        let (called, telemetry) = (self.downstream.called(), &self.worker.telemetry);
        let caller = *self.caller.get_or_init(|| telemetry.caller(called));
        let (head, now) = (&exchange.head, exchange.report.started());
        telemetry.accepted_request(caller, called, head.method.as_str(), head.uri.path(), now);
    }

    /// Turns the application's response into the caller's. Headers that sidecars exchange are removed from it first: an
    /// application must not pass for a sidecar.
    fn answer(
        &self,
        mut exchange: Exchange,
        response: Response<Incoming>,
        lease: Lease,
        caller: Caller,
        permit: Option<Permit>,
    ) -> Response<ResponseBody> {
        let asked = exchange.head.extensions.remove::<OnAllow>();
        let limited = exchange.head.extensions.remove::<OnWithin>();
        let edit = |headers: &mut HeaderMap| {
            if let Some(asked) = asked {
                asked.apply(headers);
            }
            if let Some(limited) = limited {
                limited.apply(headers);
            }
            if caller == Caller::Sidecar {
                headers.insert(headers::PEER, self.worker.own_party().header.clone());
            }
        };
        exchange.respond(response, lease, &self.worker, edit, |report| match permit {
            None => Box::new(report),
            Some(permit) => Box::new(Limited { report, _permit: permit }),
        })
    }
}

/// Holds a request's permit until the response has ended.
struct Limited {
    report: RequestReport,
    _permit: Permit,
}

impl Ending for Limited {
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

/// Returns the value of `x-forwarded-client-cert` for the application: Envoy's `By;Hash;Subject;URI`.
fn forwarded_client_cert(downstream: &Downstream, worker: &Worker) -> Option<HeaderValue> {
    let (peer, hash) = (downstream.peer.as_ref()?, downstream.certificate.as_ref()?);
    let text = format!("By={};Hash={hash};Subject=\"\";URI={}", worker.identity.id(), peer.id);
    HeaderValue::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A task of this size is created for each HTTP/2 request.
    #[test]
    fn the_task_of_a_stream_is_small() {
        let size = crate::server::stream_size::<InboundRequests>();
        assert!((1024..3072).contains(&size), "{size} bytes");
    }
}
