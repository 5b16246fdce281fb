//! Exchanges: a request and its response on their way through the proxy.
//!
//! Each side is a straight line of phases, the same for HTTP/1.1 and HTTP/2:
//!
//! - [`inbound`]: authenticate → ask ([`external`]) → verify tokens → authorize → limit ([`rate_limits`]) → application
//! - [`outbound`]: route → policies → pick and send, again if safe → answer
//! - [`gateway`]: authorize as [`inbound`], then route and send as [`outbound`]
//!
//! An [`Exchange`] carries the request's context through them. A feature is a step in a phase, or a field of the exchange.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version as HttpVersion, header, request};
use identity::Peer;
use runtime::admission::Admitted;
use telemetry::istio::Ended;

use crate::failure::{Failure, LocalReply};
use crate::http::headers::{self, Direction};
use crate::http::{AttemptBody, BoxError, Incoming, InvalidRequest, RequestBody, Version};
use crate::report::{LogEntry, RequestReport, ServiceMetrics};
use crate::server::upgrade::{self, UpgradeRequest};
use crate::server::{Ending, ResponseBody, local_reply};
use crate::upstream::hash::RequestHash;
use crate::upstream::{Lease, SendErrorCause};
use crate::worker::Worker;

pub mod authorize;
mod external;
pub mod gateway;
mod host;
pub mod inbound;
pub mod outbound;
mod rate_limits;
mod tokens;

/// The downstream connection of an exchange.
#[derive(Debug, Clone)]
pub struct Downstream {
    /// The client's address.
    pub client: SocketAddr,
    /// The original destination.
    pub destination: SocketAddr,
    /// The peer, if it proved an identity.
    pub peer: Option<Arc<Peer>>,
    /// The SHA-256 of the peer's certificate in hexadecimal.
    pub certificate: Option<Arc<str>>,
    /// The server name (SNI) of the TLS handshake.
    pub server_name: Option<Arc<str>>,
    /// The connection's place among those of its listener.
    pub admitted: Rc<Admitted>,
}

impl Downstream {
    /// Returns a connection without TLS.
    pub fn plaintext(client: SocketAddr, destination: SocketAddr, admitted: Admitted) -> Self {
        Self { client, destination, peer: None, certificate: None, server_name: None, admitted: Rc::new(admitted) }
    }

    /// Adds the connection to an access log entry.
    pub fn log_to(&self, log: &mut LogEntry) {
        log.client = Some(self.client);
        log.destination = Some(self.destination);
        log.server_name.clone_from(&self.server_name);
        log.principal = self.peer.as_ref().map(|peer| peer.id.as_str().into());
    }
}

/// Returns the failure of a downstream connection that HTTP ended on. What was not HTTP has been answered with a 4xx status
/// already, and is logged here: it did not become an exchange. `describe` adds the context to the access log entry.
fn connection_failure(error: &BoxError, worker: &Worker, describe: impl FnOnce(&mut LogEntry)) -> Failure {
    let text: Arc<str> = error.to_string().into();
    let Some(error) = error.downcast_ref::<hyper::Error>().filter(|error| error.is_parse()) else {
        return Failure::Downstream(text);
    };
    let failure = Failure::Refused(text.to_string().into());
    if let Some(mut log) = worker.telemetry.log.begin(&worker.view.snapshot().settings.log) {
        describe(&mut log);
        let reply = failure.local_reply();
        let too_large = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let status = if error.is_parse_too_large() { too_large } else { reply.status };
        log.details = reply.details;
        log.write_http(&Ended {
            code: status.as_u16(),
            grpc_status: None,
            flags: reply.flags,
            duration: Duration::ZERO,
            request_bytes: 0,
            response_bytes: 0,
        });
    }
    failure
}

/// A request and its response on their way through the proxy.
struct Exchange {
    /// The request's head: as received, and after [`Exchange::prepare`] as it is sent upstream.
    head: request::Parts,
    body: Option<Rc<RequestBody>>,
    upgrade: Option<UpgradeRequest>,
    report: RequestReport,
    /// The HTTP version of the upstream.
    version: Version,
    /// What the request is hashed by, if the destination asks for it.
    hash: Option<Box<RequestHash>>,
}

impl Exchange {
    /// Begins the exchange of a request that was received, and that asks for an upgrade or does not. `describe` adds the
    /// context to the access log entry.
    fn begin(
        mut request: Request<Incoming>,
        upgrade: bool,
        worker: &Worker,
        metrics: &Rc<ServiceMetrics>,
        downstream: &Downstream,
        describe: impl FnOnce(&mut LogEntry),
    ) -> Self {
        // Before the log entry, so that the logs of both sides have the same ID.
        headers::ensure_request_id(request.headers_mut());
        let mut log = worker.telemetry.log.begin(&worker.view.snapshot().settings.log);
        if let Some(log) = &mut log {
            log.request(&request);
            describe(log);
        }
        let grpc = headers::is_grpc(request.headers());
        let mut report = RequestReport::begin(&worker.telemetry, metrics, grpc, log);
        let upgrade = upgrade.then(|| upgrade::requested(&mut request, &downstream.admitted));
        // Before the policies, which see what the application sees.
        headers::end_hop(request.headers_mut(), Direction::Request);
        let (head, incoming) = request.into_parts();
        let body = RequestBody::new(incoming, &head.headers, &downstream.admitted);
        report.body.clone_from(&body);
        Self { head, body, upgrade, report, version: Version::Http1, hash: None }
    }

    /// Adapts the head to the upstream's version.
    fn prepare(&mut self, version: Version) {
        if let Some(upgrade) = &self.upgrade {
            upgrade.forward(&mut self.head.headers);
        }
        headers::retarget(&mut self.head, version);
        self.version = version;
    }

    /// Returns the request for one attempt.
    fn attempt(&self) -> Request<AttemptBody> {
        let body = self.body.as_ref().map_or_else(AttemptBody::empty, RequestBody::attempt);
        let gate = body.gate().cloned();
        let mut request = Request::from_parts(self.head.clone(), body);
        if let Some(gate) = gate {
            hyper::ext::on_informational(&mut request, move |interim| {
                if interim.status() == StatusCode::CONTINUE {
                    gate.open();
                }
            });
        }
        request
    }

    /// Returns whether the downstream failed to send the request in full, so that no upstream could have answered.
    fn is_abandoned(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.has_failed())
    }

    /// Returns the failure of an attempt whose connection to `endpoint` ended without a response. A request that the
    /// downstream did not send in full is its own fault.
    fn lost(&self, endpoint: Arc<str>, cause: &SendErrorCause) -> Failure {
        let error = cause.to_string().into();
        if self.is_abandoned() {
            Failure::Downstream("the request was not sent in full".into())
        } else if cause.is_invalid_response() {
            Failure::UpstreamProtocol { endpoint, error }
        } else {
            Failure::Reset { endpoint, error, retried: false }
        }
    }

    /// Returns whether the request can be sent again in full.
    fn is_repeatable(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_repeatable())
    }

    /// Returns the upstream's response for the downstream. `edit` adds headers; `ending` wraps the report, which is recorded
    /// when the response has been sent.
    fn respond(
        mut self,
        mut response: Response<Incoming>,
        lease: Lease,
        worker: &Rc<Worker>,
        edit: impl FnOnce(&mut HeaderMap),
        ending: impl FnOnce(RequestReport) -> Box<dyn Ending>,
    ) -> Response<ResponseBody> {
        if let Some(body) = &self.body {
            body.discard_copy();
        }
        self.report.responded(response.status().as_u16(), headers::grpc_status(response.headers()));
        // The connection has checked that a response with this status accepts the upgrade.
        let upgrade = self.upgrade.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS);
        let upgrade = upgrade.map(|upgrade| (upgrade, upgrade::upgrade_headers(response.headers())));
        let headers = response.headers_mut();
        headers::end_hop(headers, Direction::Response);
        edit(headers);
        if let Some(cookie) = self.hash.and_then(|hash| hash.cookie) {
            headers.append(header::SET_COOKIE, *cookie);
        }
        if let Some(log) = &mut self.report.log {
            log.response(headers);
            log.upstream_local = lease.info.local;
        }
        *response.version_mut() = HttpVersion::HTTP_11;
        let ending = ending(self.report);
        if let Some((upgrade, headers)) = upgrade {
            upgrade.carry(lease, ending, (worker.drain.guard(), worker.clone()));
            response.headers_mut().extend(headers);
            return response.map(|_| ResponseBody::local("", None));
        }
        response.map(|incoming| ResponseBody::upstream(incoming, lease, self.body, ending))
    }

    /// Returns the response to an invalid request. To be called before [`Exchange::prepare`].
    fn refuse(self, invalid: InvalidRequest) -> Response<ResponseBody> {
        let http1 = self.head.version != HttpVersion::HTTP_2;
        let mut response = self.fail(&Failure::Invalid(invalid));
        if http1 {
            // What follows may be meant for the protocol that was refused.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Returns the response for a failure.
    fn fail(self, failure: &Failure) -> Response<ResponseBody> {
        self.answer_locally(&failure.local_reply(), |map| {
            if let Failure::Overflow(_) = failure {
                map.insert(headers::OVERLOADED, HeaderValue::from_static("true"));
            }
        })
    }

    /// Returns a response of the proxy's own. `edit` adds headers.
    fn answer_locally(mut self, reply: &LocalReply, edit: impl FnOnce(&mut HeaderMap)) -> Response<ResponseBody> {
        if let Some(body) = self.body.take() {
            tokio::task::spawn_local(async move { body.drain().await });
        }
        self.report.replied_locally(reply);
        let mut response = local_reply(reply, self.report.is_grpc(), Some(Box::new(self.report)));
        edit(response.headers_mut());
        response
    }
}

/// Returns whether a method is idempotent (RFC 9110 §9.2.2).
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}
