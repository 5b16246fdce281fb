//! Reports of requests and connections: Istio's standard metrics and access logs, each exactly once.
//!
//! A [`ServiceMetrics`] is looked up when a connection is accepted and holds its series, so that a request only adds to
//! counters. A [`RequestReport`] is recorded when the response's last byte is sent, or on drop if the client disconnects.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;
use identity::Peer;
use telemetry::ResponseFlags;
use telemetry::istio::{
    Ended, HttpSeries, Labels, Metrics, Party, Protocol, Reporter, Security, Service, TcpConnection, TcpSeries,
};
use telemetry::metrics::{Counter, Family, PerWorker, Scope};

use crate::failure::LocalReply;
use crate::http::RequestBody;
use crate::mesh::{OwnWorkload, ProxyLocation};
use crate::server::{Ending, grpc_status_of};

mod access_log;
mod clusters;
mod observed;
mod party;
mod paths;
mod policies;
mod refusals;
mod routes;

pub use access_log::{AccessLog, AccessLogFiles, LogEntry};
pub use clusters::observe_clusters;
pub(crate) use observed::Called;
use observed::WorkerObserved;
pub use observed::{Accepted, ObservedTraffic};
use party::peer_party;
pub use party::{OwnParty, endpoint_party};
pub use paths::{PathProbe, report_paths};
use policies::LimitCounters;
pub(crate) use policies::NO_POLICY;
pub use policies::RateLimitResult;
pub use refusals::{ControllerReport, report_refusals};
use routes::{ByRoute, RouteCounters};
#[cfg(test)]
mod tests;

/// The maximum number of parties whose labels a worker keeps; at the limit all are dropped.
const MAX_PARTIES: usize = 1024;
/// The number of label sets that are believed of one identity. A certificate proves namespace and service account; the workload
/// and its version are what the peer says. An account is rarely that of more than a few workloads, and only that many series
/// arise from what a peer makes up.
const MAX_CLAIMS: usize = 16;

/// The number of connections that were refused or failed.
pub const FAILED: Family = Family {
    name: "isthmus_sidecar_connections_failed_total",
    help: "Connections that were refused or failed, by direction and reason.",
    labels: &["direction", "reason"],
};

/// One worker's telemetry.
pub struct WorkerTelemetry {
    metrics: Metrics,
    location: ProxyLocation,
    parties: RefCell<HashMap<Party, Rc<Party>>>,
    /// The label sets that peers claimed, by the identity that they proved.
    claims: RefCell<HashMap<Arc<str>, Vec<Rc<Party>>>>,
    services: RefCell<HashMap<ServiceKey, Rc<ServiceMetrics>>>,
    own: RefCell<Option<Rc<OwnParty>>>,
    failures: RefCell<Vec<((&'static str, &'static str), Counter)>>,
    routes: RefCell<RouteCounters>,
    limits: RefCell<LimitCounters>,
    scope: Scope<PerWorker>,
    observed: WorkerObserved,
    /// The worker's access log.
    pub log: AccessLog,
}

/// Whether the source reports, whether the connection has mutual TLS, and the service's hostname.
type ServiceKey = (bool, bool, Arc<str>);

/// The metrics of one service as this workload reports them, as source or destination.
pub struct ServiceMetrics {
    metrics: Metrics,
    reporter: Reporter,
    security: Security,
    own: Rc<Party>,
    service: Service,
    http: RefCell<Vec<(Rc<Party>, Protocol, HttpSeries)>>,
    tcp: RefCell<Vec<(Rc<Party>, TcpSeries)>>,
}

impl WorkerTelemetry {
    /// Creates the telemetry of the worker that owns `scope`.
    pub fn new(scope: Scope<PerWorker>, location: ProxyLocation, log: AccessLog) -> Self {
        let (parties, claims, services, own, failures, routes, limits) = Default::default();
        let (metrics, observed) = (Metrics::new(scope.clone()), ObservedTraffic::default().worker());
        Self { metrics, location, parties, claims, services, own, failures, routes, limits, scope, observed, log }
    }

    /// Records what the worker accepts there.
    #[must_use]
    pub fn observed_in(mut self, traffic: &ObservedTraffic) -> Self {
        self.observed = traffic.worker();
        self
    }

    /// Counts a failed connection.
    pub fn failed(&self, direction: &'static str, reason: &'static str) {
        let mut failures = self.failures.borrow_mut();
        if let Some((_, counter)) = failures.iter().find(|(of, _)| *of == (direction, reason)) {
            return counter.increment();
        }
        let counter = self.scope.counter(&FAILED, &[direction, reason]);
        counter.increment();
        failures.push(((direction, reason), counter));
    }

    /// Returns the own workload as metrics and peers see it. `principal` is its SPIFFE ID.
    pub fn own_party(&self, own: Option<&Arc<OwnWorkload>>, principal: &str) -> Rc<OwnParty> {
        let mut cached = self.own.borrow_mut();
        if let Some(known) = cached.as_ref().filter(|known| known.is_of(own)) {
            return known.clone();
        }
        let party = OwnParty::new(own, principal, &self.location, |party| self.intern(party));
        let party = Rc::new(party);
        // They name the own workload.
        self.services.borrow_mut().clear();
        *cached = Some(party.clone());
        party
    }

    /// Returns the metrics of a service; `service.host` is empty if there is none.
    pub fn service(
        &self,
        reporter: Reporter,
        security: Security,
        own: &OwnParty,
        service: Service,
    ) -> Rc<ServiceMetrics> {
        let key = (reporter == Reporter::Source, security == Security::MutualTls, service.host.clone());
        let mut services = self.services.borrow_mut();
        if services.len() >= MAX_PARTIES {
            services.clear();
        }
        let metrics = services.entry(key).or_insert_with(|| {
            let (http, tcp) = Default::default();
            let own = own.party.clone();
            Rc::new(ServiceMetrics { metrics: self.metrics.clone(), reporter, security, own, service, http, tcp })
        });
        metrics.clone()
    }

    /// Returns a peer as a party: as its certificate says and, for labels that no certificate has, as its sidecar says in
    /// `header`, up to [`MAX_CLAIMS`] of an identity. A peer that proved no identity is unknown, whatever it says.
    pub fn peer(&self, header: Option<&HeaderValue>, peer: Option<&Peer>) -> Rc<Party> {
        let proven = peer_party(None, peer);
        let Some(header) = header.filter(|_| peer.is_some()) else { return self.intern(proven) };
        let claimed = peer_party(Some(header), peer);
        let mut claims = self.claims.borrow_mut();
        if claims.len() >= MAX_PARTIES && !claims.contains_key(&claimed.principal) {
            return self.intern(proven);
        }
        let known = claims.entry(claimed.principal.clone()).or_default();
        if let Some(party) = known.iter().find(|party| ***party == claimed) {
            return party.clone();
        }
        if known.len() >= MAX_CLAIMS {
            return self.intern(proven);
        }
        let party = self.intern(claimed);
        known.push(party.clone());
        party
    }

    /// Returns the worker's only copy of a party, so that parties compare by address.
    pub fn intern(&self, party: Party) -> Rc<Party> {
        let mut parties = self.parties.borrow_mut();
        if parties.len() >= MAX_PARTIES {
            parties.clear();
        }
        parties.entry(party).or_insert_with_key(|party| Rc::new(party.clone())).clone()
    }
}

impl ServiceMetrics {
    fn labels(&self, other: &Party) -> Labels {
        let (source, destination) = match self.reporter {
            Reporter::Source => (&*self.own, other),
            Reporter::Destination => (other, &*self.own),
        };
        Labels {
            reporter: self.reporter,
            source: source.clone(),
            destination: destination.clone(),
            service: self.service.clone(),
            security: self.security,
        }
    }

    fn record(&self, other: &Rc<Party>, protocol: Protocol, ended: &Ended) {
        let mut known = self.http.borrow_mut();
        if let Some((.., series)) = known.iter().find(|(party, of, _)| Rc::ptr_eq(party, other) && *of == protocol) {
            return series.record(ended);
        }
        if known.len() >= MAX_PARTIES {
            known.clear();
        }
        let series = self.metrics.http(&self.labels(other), protocol);
        series.record(ended);
        known.push((other.clone(), protocol, series));
    }

    /// Counts an opaque connection with `other` as open until the returned value is dropped.
    pub fn tcp(&self, other: &Rc<Party>) -> TcpConnection {
        let mut known = self.tcp.borrow_mut();
        if let Some((_, series)) = known.iter().find(|(party, _)| Rc::ptr_eq(party, other)) {
            return series.open();
        }
        if known.len() >= MAX_PARTIES {
            known.clear();
        }
        let series = self.metrics.tcp(&self.labels(other));
        let connection = series.open();
        known.push((other.clone(), series));
        connection
    }
}

/// The report of one request: recorded once, at the end of the response or on drop.
pub struct RequestReport {
    telemetry: Rc<WorkerTelemetry>,
    /// The metrics that the request counts in.
    pub metrics: Rc<ServiceMetrics>,
    started: Instant,
    protocol: Protocol,
    /// The other side; `None` while it is unknown.
    pub party: Option<Rc<Party>>,
    /// The request's body, which counts its bytes.
    pub body: Option<Rc<RequestBody>>,
    /// The status that the downstream received; 0 if none.
    code: u16,
    grpc_status: Option<u16>,
    flags: ResponseFlags,
    /// The access log line; `None` without an access log.
    pub log: Option<Box<LogEntry>>,
    /// The counters of the route; `None` if it has none.
    by_route: Option<Box<ByRoute>>,
    recorded: bool,
}

impl RequestReport {
    /// Begins the report of a request that has just been received.
    pub fn begin(
        telemetry: &Rc<WorkerTelemetry>,
        metrics: &Rc<ServiceMetrics>,
        grpc: bool,
        log: Option<Box<LogEntry>>,
    ) -> Self {
        Self {
            telemetry: telemetry.clone(),
            metrics: metrics.clone(),
            started: Instant::now(),
            protocol: if grpc { Protocol::Grpc } else { Protocol::Http },
            party: None,
            body: None,
            code: 0,
            grpc_status: None,
            flags: ResponseFlags::NONE,
            log,
            by_route: None,
            recorded: false,
        }
    }

    /// Returns when the request was received.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Returns whether the request is gRPC.
    pub fn is_grpc(&self) -> bool {
        self.protocol == Protocol::Grpc
    }

    /// Adds response flags.
    pub fn flag(&mut self, flags: ResponseFlags) {
        self.flags = self.flags.with(flags);
    }

    /// Notes the head of the upstream's response.
    pub fn responded(&mut self, code: u16, grpc_status: Option<u16>) {
        self.code = code;
        self.grpc_status = grpc_status;
        if let Some(log) = &mut self.log {
            log.details = "via_upstream".into();
        }
    }

    /// Notes that the proxy itself responds.
    pub fn replied_locally(&mut self, reply: &LocalReply) {
        self.flags = self.flags.with(reply.flags);
        (self.code, self.grpc_status) = match reply.grpc_status {
            Some(status) if self.is_grpc() => (200, Some(status)),
            None if self.is_grpc() => (200, Some(grpc_status_of(reply.status))),
            Some(_) | None => (reply.status.as_u16(), None),
        };
        if let Some(log) = &mut self.log {
            log.details = reply.details.clone();
            log.transport_failure.clone_from(&reply.transport_failure);
        }
    }

    fn record(&mut self, response_bytes: u64) {
        if std::mem::replace(&mut self.recorded, true) {
            return;
        }
        let ended = Ended {
            code: self.code,
            grpc_status: self.grpc_status,
            flags: self.flags,
            duration: self.started.elapsed(),
            request_bytes: self.body.as_ref().map_or(0, |body| body.bytes()),
            response_bytes,
        };
        let party = self.party.take().unwrap_or_else(|| self.telemetry.intern(Party::default()));
        self.metrics.record(&party, self.protocol, &ended);
        if let Some(route) = self.by_route.take() {
            route.record(&ended);
        }
        if let Some(log) = self.log.take() {
            log.write_http(&ended);
        }
    }
}

impl Ending for RequestReport {
    fn complete(&mut self, bytes: u64, grpc_status: Option<u16>) {
        self.grpc_status = grpc_status.or(self.grpc_status);
        self.record(bytes);
    }

    fn broken(&mut self, bytes: u64) {
        self.flags = ResponseFlags::UPSTREAM_CONNECTION_TERMINATION;
        self.record(bytes);
    }

    fn timed_out(&mut self, bytes: u64) {
        self.flags = ResponseFlags::UPSTREAM_REQUEST_TIMEOUT;
        self.record(bytes);
    }

    fn abandoned(&mut self, bytes: u64) {
        self.flags = ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION;
        self.record(bytes);
    }
}

impl Drop for RequestReport {
    fn drop(&mut self) {
        if !self.recorded {
            self.abandoned(0);
        }
    }
}
