//! Exchanges: a request and its response on their way through the proxy.
//!
//! Both sides are a straight line of phases, the same for HTTP/1.1 and HTTP/2:
//!
//! - [`inbound`]: authenticate → authorize → limit → application
//! - [`outbound`]: route → policies → pick and send, again if safe → answer
//!
//! An [`Exchange`] carries the request's context through them. A feature is a step in a phase, or a field of the exchange.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, Request, Response, Version as HttpVersion, request};
use identity::Peer;
use runtime::admission::Admitted;

use crate::failure::Failure;
use crate::http::{AttemptBody, Incoming, RequestBody, Version, headers};
use crate::report::{LogEntry, RequestReport, ServiceMetrics};
use crate::server::upgrade::{self, UpgradeRequest};
use crate::server::{Ending, ResponseBody, local_reply};
use crate::upstream::Lease;
use crate::worker::Worker;

mod host;
pub mod inbound;
pub mod outbound;

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

/// A request and its response on their way through the proxy.
struct Exchange {
    /// The request's head: as received, and after [`Exchange::prepare`] as it is sent upstream.
    head: request::Parts,
    body: Option<Rc<RequestBody>>,
    upgrade: Option<UpgradeRequest>,
    report: RequestReport,
    /// The HTTP version of the upstream.
    version: Version,
}

impl Exchange {
    /// Begins the exchange of a request that was received. `describe` adds the context to the access log entry.
    fn begin(
        mut request: Request<Incoming>,
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
        let upgrade = upgrade::requested(&mut request, &downstream.admitted);
        let (head, incoming) = request.into_parts();
        let body = RequestBody::new(incoming);
        report.body.clone_from(&body);
        Self { head, body, upgrade, report, version: Version::Http1 }
    }

    /// Turns the head into the one that is sent upstream: ends the hop, replaces what a downstream may not claim, and adapts
    /// the target to the upstream's version. `edit` adds headers.
    fn prepare(&mut self, version: Version, edit: impl FnOnce(&mut HeaderMap)) {
        let headers = &mut self.head.headers;
        headers::end_hop(headers);
        headers.remove(headers::CLIENT_CERT);
        edit(headers);
        if let Some(upgrade) = &self.upgrade {
            upgrade.forward(headers);
        }
        headers::retarget(&mut self.head, version);
        self.version = version;
    }

    /// Returns the request for one attempt.
    fn attempt(&self) -> Request<AttemptBody> {
        let body = self.body.as_ref().map_or_else(AttemptBody::empty, RequestBody::attempt);
        Request::from_parts(self.head.clone(), body)
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
        let upgrade = self.upgrade.filter(|upgrade| upgrade.is_accepted(&response, &self.head.method));
        let upgrade = upgrade.map(|upgrade| (upgrade, upgrade::upgrade_headers(response.headers())));
        let headers = response.headers_mut();
        headers::end_hop(headers);
        edit(headers);
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

    /// Returns the response for a failure.
    fn fail(mut self, failure: &Failure) -> Response<ResponseBody> {
        let reply = failure.local_reply();
        self.report.replied_locally(&reply);
        local_reply(&reply, self.report.is_grpc(), Some(Box::new(self.report)))
    }
}
