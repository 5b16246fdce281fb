//! Istio's standard metrics with their labels, so that its dashboards and alerts go on working.
//!
//! [`Metrics`] belongs to one worker. A series is resolved when a route or connection is set up ([`Metrics::http`],
//! [`Metrics::tcp`]) and then records without looking anything up. Names, labels and their order are those of Istio's
//! `stats` filter; what is not known reads `unknown`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::ResponseFlags;
use crate::metrics::{Counter, ENVOY_BUCKETS, Family, Histogram, PerWorker, Registry, Scope};

#[cfg(test)]
mod tests;

const UNKNOWN: &str = "unknown";

macro_rules! labels {
    ($($own:literal),*) => {
        &[
            "reporter", "source_workload", "source_canonical_service", "source_canonical_revision",
            "source_workload_namespace", "source_principal", "source_app", "source_version", "source_cluster",
            "destination_workload", "destination_workload_namespace", "destination_principal", "destination_app",
            "destination_version", "destination_service", "destination_canonical_service",
            "destination_canonical_revision", "destination_service_name", "destination_service_namespace",
            "destination_cluster", "request_protocol", $($own,)* "response_flags", "connection_security_policy",
        ]
    };
}

/// How many labels come before those that differ between HTTP and TCP.
const SHARED: usize = 21;
const HTTP: &[&str] = labels!("response_code", "grpc_response_status");
const TCP: &[&str] = labels!();

/// HTTP and gRPC requests.
pub const REQUESTS: Family = Family { name: "istio_requests_total", help: "Requests.", labels: HTTP };
/// Milliseconds from the first byte of the request to the last of the response.
pub const DURATION: Family =
    Family { name: "istio_request_duration_milliseconds", help: "Duration of requests.", labels: HTTP };
/// Bytes of request bodies.
pub const REQUEST_BYTES: Family = Family { name: "istio_request_bytes", help: "Size of request bodies.", labels: HTTP };
/// Bytes of response bodies.
pub const RESPONSE_BYTES: Family =
    Family { name: "istio_response_bytes", help: "Size of response bodies.", labels: HTTP };
/// Bytes sent to the client over opaque connections.
pub const TCP_SENT: Family =
    Family { name: "istio_tcp_sent_bytes_total", help: "Bytes sent as response over TCP.", labels: TCP };
/// Bytes received from the client over opaque connections.
pub const TCP_RECEIVED: Family =
    Family { name: "istio_tcp_received_bytes_total", help: "Bytes received as request over TCP.", labels: TCP };
/// Opaque connections opened.
pub const TCP_OPENED: Family =
    Family { name: "istio_tcp_connections_opened_total", help: "TCP connections opened.", labels: TCP };
/// Opaque connections closed.
pub const TCP_CLOSED: Family =
    Family { name: "istio_tcp_connections_closed_total", help: "TCP connections closed.", labels: TCP };
/// What runs.
pub const BUILD: Family =
    Family { name: "istio_build", help: "Component and version that runs.", labels: &["component", "tag"] };

/// Registers `istio_build` for this component.
pub fn tell_build(registry: &Registry, component: &'static str) {
    registry.observe_gauge(BUILD, move |put| put(&[component, env!("CARGO_PKG_VERSION")], 1.0));
}

/// Which side tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reporter {
    /// The client's proxy.
    #[default]
    Source,
    /// The server's proxy.
    Destination,
}

/// How the connection was secured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// Not this side's to say: what a source reports.
    #[default]
    Unknown,
    /// Mutual TLS.
    MutualTls,
    /// Plaintext.
    None,
}

/// One end. Empty fields read `unknown`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Party {
    pub workload: Arc<str>,
    pub namespace: Arc<str>,
    /// SPIFFE id.
    pub principal: Arc<str>,
    pub app: Arc<str>,
    pub version: Arc<str>,
    pub canonical_service: Arc<str>,
    pub canonical_revision: Arc<str>,
    pub cluster: Arc<str>,
}

/// The service that was meant. Empty fields read `unknown`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Service {
    /// `<name>.<namespace>.svc.<domain>`.
    pub host: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
}

/// What does not change between the requests of a series.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    /// Which side tells.
    pub reporter: Reporter,
    /// The client.
    pub source: Party,
    /// The server.
    pub destination: Party,
    /// The service.
    pub service: Service,
    /// How the connection was secured.
    pub security: Security,
}

/// What a request is, to metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP, any version.
    Http,
    /// gRPC.
    Grpc,
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// HTTP status; 0 where there was no response.
    pub code: u16,
    /// `grpc-status`, of a gRPC response.
    pub grpc_status: Option<u16>,
    /// The response flags.
    pub flags: ResponseFlags,
    /// First byte in to last byte out.
    pub duration: Duration,
    /// Body bytes of the request.
    pub request_bytes: u64,
    /// Body bytes of the response.
    pub response_bytes: u64,
}

/// Where one worker's series come from.
#[derive(Clone, Debug)]
pub struct Metrics {
    scope: Scope<PerWorker>,
}

impl Metrics {
    /// For the worker that owns this scope.
    pub fn new(scope: Scope<PerWorker>) -> Self {
        Self { scope }
    }

    /// The series of requests with these labels.
    pub fn http(&self, labels: &Labels, protocol: Protocol) -> HttpSeries {
        let values = labels.values(match protocol {
            Protocol::Http => "http",
            Protocol::Grpc => "grpc",
        });
        let (scope, security, handles) = (self.scope.clone(), labels.security, RefCell::default());
        HttpSeries { inner: Rc::new(Http { scope, values, security, handles }) }
    }

    /// The series of opaque connections with these labels.
    pub fn tcp(&self, labels: &Labels) -> TcpSeries {
        TcpSeries { inner: Rc::new(Tcp::new(&self.scope, labels)) }
    }
}

impl Labels {
    fn values(&self, protocol: &str) -> Box<[Box<str>]> {
        let reporter = match self.reporter {
            Reporter::Source => "source",
            Reporter::Destination => "destination",
        };
        let (from, to, service) = (&self.source, &self.destination, &self.service);
        [
            reporter,
            &from.workload,
            &from.canonical_service,
            &from.canonical_revision,
            &from.namespace,
            &from.principal,
            &from.app,
            &from.version,
            &from.cluster,
            &to.workload,
            &to.namespace,
            &to.principal,
            &to.app,
            &to.version,
            &service.host,
            &to.canonical_service,
            &to.canonical_revision,
            &service.name,
            &service.namespace,
            &to.cluster,
            protocol,
        ]
        .into_iter()
        .map(|value: &str| Box::from(if value.is_empty() { UNKNOWN } else { value }))
        .collect()
    }
}

impl Security {
    fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => UNKNOWN,
            Self::MutualTls => "mutual_tls",
            Self::None => "none",
        }
    }
}

/// Requests of one source to one destination. Clones record to the same place.
#[derive(Clone, Debug)]
pub struct HttpSeries {
    inner: Rc<Http>,
}

#[derive(Debug)]
struct Http {
    scope: Scope<PerWorker>,
    values: Box<[Box<str>]>,
    security: Security,
    /// By what only the response tells; few in practice, so a list is quicker than a map.
    handles: RefCell<Vec<(Answer, HttpHandles)>>,
}

/// Code, gRPC status and flags.
type Answer = (u16, Option<u16>, ResponseFlags);

#[derive(Debug)]
struct HttpHandles {
    requests: Counter,
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
}

impl HttpSeries {
    /// Records one request.
    pub fn record(&self, ended: &Ended) {
        let answer = (ended.code, ended.grpc_status, ended.flags);
        let mut known = self.inner.handles.borrow_mut();
        if let Some((_, handles)) = known.iter().find(|(known, _)| *known == answer) {
            return handles.record(ended);
        }
        let handles = self.inner.handles_for(answer);
        handles.record(ended);
        known.push((answer, handles));
    }
}

impl Http {
    fn handles_for(&self, result: Answer) -> HttpHandles {
        let (code, grpc) = (result.0.to_string(), result.1.map(|status| status.to_string()).unwrap_or_default());
        let flags = result.2.letters();
        let mut values: Vec<&str> = self.values.iter().map(|value| &**value).collect();
        debug_assert_eq!(values.len(), SHARED);
        values.extend([&*code, &*grpc, &*flags, self.security.as_str()]);
        HttpHandles {
            requests: self.scope.counter(&REQUESTS, &values),
            duration: self.scope.histogram(&DURATION, &ENVOY_BUCKETS, &values),
            request_bytes: self.scope.histogram(&REQUEST_BYTES, &ENVOY_BUCKETS, &values),
            response_bytes: self.scope.histogram(&RESPONSE_BYTES, &ENVOY_BUCKETS, &values),
        }
    }
}

impl HttpHandles {
    fn record(&self, ended: &Ended) {
        self.requests.increment();
        self.duration.record(ended.duration.as_secs_f64() * 1000.0);
        self.request_bytes.record(ended.request_bytes as f64);
        self.response_bytes.record(ended.response_bytes as f64);
    }
}

/// Opaque connections of one source to one destination. Clones record to the same place.
#[derive(Clone, Debug)]
pub struct TcpSeries {
    inner: Rc<Tcp>,
}

#[derive(Debug)]
struct Tcp {
    scope: Scope<PerWorker>,
    values: Box<[Box<str>]>,
    security: Security,
    opened: Counter,
    sent: Counter,
    received: Counter,
    closed: RefCell<Vec<(ResponseFlags, Counter)>>,
}

impl Tcp {
    fn new(scope: &Scope<PerWorker>, labels: &Labels) -> Self {
        let shared = labels.values("tcp");
        let values = with(&shared, "-", labels.security);
        Self {
            opened: scope.counter(&TCP_OPENED, &values),
            sent: scope.counter(&TCP_SENT, &values),
            received: scope.counter(&TCP_RECEIVED, &values),
            closed: RefCell::default(),
            scope: scope.clone(),
            security: labels.security,
            values: shared,
        }
    }

    fn close(&self, flags: ResponseFlags) {
        if let Some((_, closed)) = self.closed.borrow().iter().find(|(known, _)| *known == flags) {
            return closed.increment();
        }
        let closed = self.scope.counter(&TCP_CLOSED, &with(&self.values, &flags.letters(), self.security));
        closed.increment();
        self.closed.borrow_mut().push((flags, closed));
    }
}

fn with<'a>(shared: &'a [Box<str>], flags: &'a str, security: Security) -> Vec<&'a str> {
    shared.iter().map(|value| &**value).chain([flags, security.as_str()]).collect()
}

impl TcpSeries {
    /// Counts a connection as opened. It counts as closed, once, when what is returned is dropped.
    pub fn open(&self) -> TcpConnection {
        self.inner.opened.increment();
        TcpConnection {
            series: Rc::clone(&self.inner),
            sent: Cell::new(0),
            received: Cell::new(0),
            flags: Cell::new(ResponseFlags::NONE),
        }
    }
}

/// One open connection.
#[derive(Debug)]
pub struct TcpConnection {
    series: Rc<Tcp>,
    sent: Cell<u64>,
    received: Cell<u64>,
    flags: Cell<ResponseFlags>,
}

impl TcpConnection {
    /// Says how much has been carried in all by now: `sent` to the client, `received` from it. May be said at any time;
    /// long connections should every few seconds.
    pub fn carried(&self, sent: u64, received: u64) {
        self.series.sent.add(sent.saturating_sub(self.sent.replace(sent)));
        self.series.received.add(received.saturating_sub(self.received.replace(received)));
    }

    /// Sets how the connection ended.
    pub fn ended(&self, flags: ResponseFlags) {
        self.flags.set(flags);
    }
}

impl Drop for TcpConnection {
    fn drop(&mut self) {
        self.series.close(self.flags.get());
    }
}
