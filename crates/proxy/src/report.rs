//! What is told of requests and connections: Istio's standard metrics and access logs, each exactly once.
//!
//! A [`Route`] is looked up when a connection is accepted and keeps its series, so a request only adds to cells. A
//! [`Report`] is told when the response's last byte is gone, or when it is dropped because the client went away.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;
use identity::Peer;
use telemetry::flags;
use telemetry::istio::{
    Ended, HttpSeries, Labels, Metrics, Party, Protocol, Reporter, Security, Service, TcpConnection, TcpSeries,
};
use telemetry::metrics::{Counter, Family, PerWorker, Scope};

use crate::failure::Answer;
use crate::http::{Ending, Uploaded};
use crate::mesh::{Own, Place, WorkloadLabels};

mod log;

pub use log::{Files, Log, Seen};

/// Peers whose labels are kept, per worker. A peer may claim labels without end; past this they are forgotten.
const MOST_PARTIES: usize = 4096;

/// Connections that could not be carried to their end.
pub const FAILED: Family = Family {
    name: "isthmus_sidecar_connections_failed_total",
    help: "Connections that were refused or broke, by direction and reason.",
    labels: &["direction", "reason"],
};

/// One worker's telemetry.
pub struct Telemetry {
    metrics: Metrics,
    place: Place,
    parties: RefCell<HashMap<Party, Rc<Party>>>,
    routes: RefCell<HashMap<RouteKey, Rc<Route>>>,
    own: RefCell<Option<Rc<Me>>>,
    failures: RefCell<Vec<((&'static str, &'static str), Counter)>>,
    scope: Scope<PerWorker>,
    /// Access logs.
    pub log: Log,
}

/// Whether the source tells, whether there is mutual TLS, and the host.
type RouteKey = (bool, bool, Arc<str>);

/// The own workload, as it is told to metrics and to peers.
pub struct Me {
    of: Option<Arc<Own>>,
    party: Rc<Party>,
    /// For `x-isthmus-peer`.
    pub header: HeaderValue,
}

/// What requests of one kind have in common: the side that tells, the service, and this workload.
pub struct Route {
    metrics: Metrics,
    reporter: Reporter,
    security: Security,
    own: Rc<Party>,
    service: Service,
    http: RefCell<Vec<(Rc<Party>, Protocol, HttpSeries)>>,
    tcp: RefCell<Vec<(Rc<Party>, TcpSeries)>>,
}

impl Telemetry {
    /// For the worker that owns these metrics.
    pub fn new(scope: Scope<PerWorker>, place: Place, log: Log) -> Self {
        let (parties, routes, own, failures) = Default::default();
        Self { metrics: Metrics::new(scope.clone()), place, parties, routes, own, failures, scope, log }
    }

    /// Counts a connection that ended without being carried to its end.
    pub fn failed(&self, direction: &'static str, reason: &'static str) {
        let mut failures = self.failures.borrow_mut();
        if let Some((_, counter)) = failures.iter().find(|(of, _)| *of == (direction, reason)) {
            return counter.increment();
        }
        let counter = self.scope.counter(&FAILED, &[direction, reason]);
        counter.increment();
        failures.push(((direction, reason), counter));
    }

    /// The own workload as `own` has it, which has proved to be `principal`.
    pub fn me(&self, own: Option<&Arc<Own>>, principal: &str) -> Rc<Me> {
        let mut cached = self.own.borrow_mut();
        let same = |me: &Me| match (&me.of, own) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        if let Some(me) = cached.as_ref().filter(|me| same(me)) {
            return me.clone();
        }
        let labels = own.map(|own| own.labels.clone()).unwrap_or_default();
        let mut party = party_of(&labels, &self.place.cluster);
        if party.namespace.is_empty() {
            party.namespace = self.place.namespace.clone();
        }
        party.principal = principal.into();
        let header = encode(&party);
        let me = Rc::new(Me { of: own.cloned(), party: self.intern(party), header });
        // Routes name this workload.
        self.routes.borrow_mut().clear();
        *cached = Some(me.clone());
        me
    }

    /// The route of connections to a service; `host` is empty where it is none.
    pub fn route(&self, reporter: Reporter, security: Security, me: &Me, service: Service) -> Rc<Route> {
        let key = (reporter == Reporter::Source, security == Security::MutualTls, service.host.clone());
        let mut routes = self.routes.borrow_mut();
        if routes.len() >= MOST_PARTIES {
            routes.clear();
        }
        let route = routes.entry(key).or_insert_with(|| {
            let (http, tcp) = Default::default();
            Rc::new(Route {
                metrics: self.metrics.clone(),
                reporter,
                security,
                own: me.party.clone(),
                service,
                http,
                tcp,
            })
        });
        route.clone()
    }

    /// One copy of each party, so that they can be told apart by their place in memory.
    pub fn intern(&self, party: Party) -> Rc<Party> {
        let mut parties = self.parties.borrow_mut();
        if parties.len() >= MOST_PARTIES {
            parties.clear();
        }
        parties.entry(party).or_insert_with_key(|party| Rc::new(party.clone())).clone()
    }
}

/// Labels of a workload as a party to metrics.
pub fn party_of(labels: &WorkloadLabels, cluster: &Arc<str>) -> Party {
    Party {
        workload: labels.workload.clone(),
        namespace: labels.namespace.clone(),
        principal: Arc::default(),
        app: labels.app.clone(),
        version: labels.version.clone(),
        canonical_service: labels.canonical_service.clone(),
        canonical_revision: labels.canonical_revision.clone(),
        cluster: cluster.clone(),
    }
}

/// A peer, from what it proved and, for labels that no certificate has, what it says.
pub fn party_from(said: Option<&HeaderValue>, proved: Option<&Peer>) -> Party {
    let mut party = said.map(decode).unwrap_or_default();
    if let Some(peer) = proved {
        party.principal = peer.id.as_str().into();
        party.namespace = peer.id.namespace().into();
        if let Some(cluster) = &peer.cluster {
            party.cluster = cluster.clone();
        }
    }
    party
}

fn encode(party: &Party) -> HeaderValue {
    let fields = [
        &party.workload,
        &party.namespace,
        &party.app,
        &party.version,
        &party.canonical_service,
        &party.canonical_revision,
        &party.cluster,
    ];
    let clean = |field: &&Arc<str>| if field.contains(';') { String::new() } else { field.to_string() };
    let text = fields.iter().map(clean).collect::<Vec<_>>().join(";");
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

fn decode(value: &HeaderValue) -> Party {
    /// Names and label values of Kubernetes have at most 63 characters, names of objects 253.
    const LONGEST: usize = 253;
    let mut fields =
        value.to_str().unwrap_or_default().split(';').map(|field| if field.len() > LONGEST { "" } else { field });
    let mut next = || Arc::from(fields.next().unwrap_or_default());
    Party {
        workload: next(),
        namespace: next(),
        app: next(),
        version: next(),
        canonical_service: next(),
        canonical_revision: next(),
        cluster: next(),
        principal: Arc::default(),
    }
}

impl Route {
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
        if known.len() >= MOST_PARTIES {
            known.clear();
        }
        let series = self.metrics.http(&self.labels(other), protocol);
        series.record(ended);
        known.push((other.clone(), protocol, series));
    }

    /// Counts an opaque connection with `other` as open, until what is returned is dropped.
    pub fn tcp(&self, other: &Rc<Party>) -> TcpConnection {
        let mut known = self.tcp.borrow_mut();
        if let Some((_, series)) = known.iter().find(|(party, _)| Rc::ptr_eq(party, other)) {
            return series.open();
        }
        if known.len() >= MOST_PARTIES {
            known.clear();
        }
        let series = self.metrics.tcp(&self.labels(other));
        let connection = series.open();
        known.push((other.clone(), series));
        connection
    }
}

/// One request. Told once: at the response's end, or when dropped.
pub struct Report {
    telemetry: Rc<Telemetry>,
    route: Rc<Route>,
    started: Instant,
    protocol: Protocol,
    /// The other side; an empty one as long as it is not known.
    pub party: Option<Rc<Party>>,
    /// The request's body, to say how much of it came.
    pub uploaded: Option<Rc<Uploaded>>,
    /// The status that the client got; 0 for none.
    pub code: u16,
    grpc_status: Option<u16>,
    flag: &'static str,
    /// For the access log, if there is one.
    pub seen: Option<Box<Seen>>,
    told: bool,
}

impl Report {
    /// A request that begins now.
    pub fn begin(telemetry: &Rc<Telemetry>, route: &Rc<Route>, grpc: bool, seen: Option<Box<Seen>>) -> Self {
        Self {
            telemetry: telemetry.clone(),
            route: route.clone(),
            started: Instant::now(),
            protocol: if grpc { Protocol::Grpc } else { Protocol::Http },
            party: None,
            uploaded: None,
            code: 0,
            grpc_status: None,
            flag: flags::NONE,
            seen,
            told: false,
        }
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Whether it is gRPC.
    pub fn is_grpc(&self) -> bool {
        self.protocol == Protocol::Grpc
    }

    /// The response has begun.
    pub fn answered(&mut self, code: u16, grpc_status: Option<u16>) {
        self.code = code;
        self.grpc_status = grpc_status;
        if let Some(seen) = &mut self.seen {
            seen.details = "via_upstream".into();
        }
    }

    /// There will be no response from upstream; the client is told this instead.
    pub fn failed(&mut self, answer: &Answer) {
        self.flag = answer.flag;
        (self.code, self.grpc_status) = if self.is_grpc() {
            (200, Some(crate::http::grpc_status_of(answer.status)))
        } else {
            (answer.status.as_u16(), None)
        };
        if let Some(seen) = &mut self.seen {
            seen.details = answer.details.clone();
            seen.transport.clone_from(&answer.transport);
        }
    }

    fn tell(&mut self, response_bytes: u64) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let ended = Ended {
            code: self.code,
            grpc_status: self.grpc_status,
            flags: self.flag,
            duration: self.started.elapsed(),
            request_bytes: self.uploaded.as_ref().map_or(0, |uploaded| uploaded.bytes()),
            response_bytes,
        };
        let party = self.party.take().unwrap_or_else(|| self.telemetry.intern(Party::default()));
        self.route.record(&party, self.protocol, &ended);
        if let Some(seen) = self.seen.take() {
            self.telemetry.log.http(&seen, &ended);
        }
    }
}

impl Ending for Report {
    fn complete(&mut self, bytes: u64, grpc_status: Option<u16>) {
        self.grpc_status = grpc_status.or(self.grpc_status);
        self.tell(bytes);
    }

    fn broken(&mut self, bytes: u64) {
        self.flag = flags::UPSTREAM_CONNECTION_TERMINATION;
        self.tell(bytes);
    }

    fn abandoned(&mut self, bytes: u64) {
        self.flag = flags::DOWNSTREAM_CONNECTION_TERMINATION;
        self.tell(bytes);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if !self.told {
            self.abandoned(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parties_survive_the_header() {
        let labels = WorkloadLabels {
            workload: "reviews-v1".into(),
            namespace: "default".into(),
            app: "reviews".into(),
            version: "v1".into(),
            canonical_service: "reviews".into(),
            canonical_revision: "v1".into(),
        };
        let party = party_of(&labels, &"west".into());
        assert_eq!(decode(&encode(&party)), party);
        assert_eq!(decode(&HeaderValue::from_static("")), Party::default());
        assert_eq!(decode(&HeaderValue::from_bytes(b"\xff;\xfe").unwrap()), Party::default());
        let long = "x".repeat(300);
        assert_eq!(decode(&HeaderValue::from_str(&long).unwrap()), Party::default());
    }

    #[test]
    fn what_is_proved_beats_what_is_said() {
        let said = HeaderValue::from_static("admin;kube-system;admin;v1;admin;v1;east");
        let proved =
            Peer { id: "spiffe://cluster.local/ns/default/sa/frontend".parse().unwrap(), cluster: Some("west".into()) };
        let party = party_from(Some(&said), Some(&proved));
        assert_eq!((&*party.namespace, &*party.cluster), ("default", "west"));
        assert_eq!(&*party.principal, "spiffe://cluster.local/ns/default/sa/frontend");
    }
}
