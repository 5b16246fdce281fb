//! Istio's standard metrics with their labels, so that Istio's dashboards and alerts work unchanged.
//!
//! [`Metrics`] belongs to one worker. A series is resolved when a route or connection is set up ([`Metrics::http`],
//! [`Metrics::tcp`]); recording then needs no lookup of labels. Names, labels and their order are those of Istio's
//! `stats` filter; unknown values are `unknown`.

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

/// The number of leading labels that HTTP and TCP metrics share.
const SHARED: usize = 21;
const HTTP: &[&str] = labels!("response_code", "grpc_response_status");
const TCP: &[&str] = labels!();

/// The number of HTTP and gRPC requests.
pub const REQUESTS: Family = Family { name: "istio_requests_total", help: "Number of requests.", labels: HTTP };
/// The time from the first byte of the request to the last byte of the response, in milliseconds.
pub const DURATION: Family =
    Family { name: "istio_request_duration_milliseconds", help: "Duration of requests in milliseconds.", labels: HTTP };
/// The size of request bodies in bytes.
pub const REQUEST_BYTES: Family =
    Family { name: "istio_request_bytes", help: "Size of request bodies in bytes.", labels: HTTP };
/// The size of response bodies in bytes.
pub const RESPONSE_BYTES: Family =
    Family { name: "istio_response_bytes", help: "Size of response bodies in bytes.", labels: HTTP };
/// The number of bytes sent downstream over opaque connections.
pub const TCP_SENT: Family =
    Family { name: "istio_tcp_sent_bytes_total", help: "Bytes sent downstream over TCP connections.", labels: TCP };
/// The number of bytes received from downstream over opaque connections.
pub const TCP_RECEIVED: Family = Family {
    name: "istio_tcp_received_bytes_total",
    help: "Bytes received from downstream over TCP connections.",
    labels: TCP,
};
/// The number of opened opaque connections.
pub const TCP_OPENED: Family =
    Family { name: "istio_tcp_connections_opened_total", help: "Opened TCP connections.", labels: TCP };
/// The number of closed opaque connections.
pub const TCP_CLOSED: Family =
    Family { name: "istio_tcp_connections_closed_total", help: "Closed TCP connections.", labels: TCP };
/// The component and version of the process.
pub const BUILD: Family =
    Family { name: "istio_build", help: "Component and version of the process.", labels: &["component", "tag"] };

/// Registers `istio_build` for a component.
pub fn register_build(registry: &Registry, component: &'static str) {
    registry.observe_gauge(BUILD, move |put| put(&[component, env!("CARGO_PKG_VERSION")], 1.0));
}

/// The proxy that reports a metric.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reporter {
    /// The proxy of the client.
    #[default]
    Source,
    /// The proxy of the server.
    Destination,
}

/// The security of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// Unknown: the value that a source reports.
    #[default]
    Unknown,
    /// Mutual TLS.
    MutualTls,
    /// Plaintext.
    None,
}

/// The workload at one end of a request. Empty fields are reported as `unknown`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Party {
    pub workload: Arc<str>,
    pub namespace: Arc<str>,
    /// The SPIFFE ID.
    pub principal: Arc<str>,
    pub app: Arc<str>,
    pub version: Arc<str>,
    pub canonical_service: Arc<str>,
    pub canonical_revision: Arc<str>,
    pub cluster: Arc<str>,
}

/// The destination service of a request. Empty fields are reported as `unknown`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Service {
    /// The hostname: `<name>.<namespace>.svc.<domain>`.
    pub host: Arc<str>,
    /// The name.
    pub name: Arc<str>,
    /// The namespace.
    pub namespace: Arc<str>,
}

/// The labels that all requests of a series share.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    /// The reporting proxy.
    pub reporter: Reporter,
    /// The source workload.
    pub source: Party,
    /// The destination workload.
    pub destination: Party,
    /// The destination service.
    pub service: Service,
    /// The security of the connection.
    pub security: Security,
}

/// The value of the label `request_protocol` of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP of any version.
    Http,
    /// gRPC.
    Grpc,
}

/// The result of a request.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// The HTTP status; 0 without a response.
    pub code: u16,
    /// The `grpc-status` of a gRPC response.
    pub grpc_status: Option<u16>,
    /// The response flags.
    pub flags: ResponseFlags,
    /// The time from the request's first byte to the response's last byte.
    pub duration: Duration,
    /// The size of the request body in bytes.
    pub request_bytes: u64,
    /// The size of the response body in bytes.
    pub response_bytes: u64,
}

/// The standard metrics of one worker.
#[derive(Clone, Debug)]
pub struct Metrics {
    scope: Scope<PerWorker>,
}

impl Metrics {
    /// Creates the metrics of the worker that owns `scope`.
    pub fn new(scope: Scope<PerWorker>) -> Self {
        Self { scope }
    }

    /// Returns the series of requests with these labels.
    pub fn http(&self, labels: &Labels, protocol: Protocol) -> HttpSeries {
        let values = labels.values(match protocol {
            Protocol::Http => "http",
            Protocol::Grpc => "grpc",
        });
        let (scope, security, handles) = (self.scope.clone(), labels.security, RefCell::default());
        HttpSeries { inner: Rc::new(HttpSeriesState { scope, values, security, handles }) }
    }

    /// Returns the series of opaque connections with these labels.
    pub fn tcp(&self, labels: &Labels) -> TcpSeries {
        TcpSeries { inner: Rc::new(TcpSeriesState::new(&self.scope, labels)) }
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

/// The requests of one source to one destination. Clones record to the same series.
#[derive(Clone, Debug)]
pub struct HttpSeries {
    inner: Rc<HttpSeriesState>,
}

#[derive(Debug)]
struct HttpSeriesState {
    scope: Scope<PerWorker>,
    values: Box<[Box<str>]>,
    security: Security,
    /// The handles by the labels that depend on the response. There are few, so a list is faster than a map.
    handles: RefCell<Vec<(ResponseLabels, HttpHandles)>>,
}

/// HTTP status, gRPC status and response flags.
type ResponseLabels = (u16, Option<u16>, ResponseFlags);

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
        let labels = (ended.code, ended.grpc_status, ended.flags);
        let mut known = self.inner.handles.borrow_mut();
        if let Some((_, handles)) = known.iter().find(|(known, _)| *known == labels) {
            return handles.record(ended);
        }
        let handles = self.inner.handles_for(labels);
        handles.record(ended);
        known.push((labels, handles));
    }
}

impl HttpSeriesState {
    fn handles_for(&self, labels: ResponseLabels) -> HttpHandles {
        let (code, grpc) = (labels.0.to_string(), labels.1.map(|status| status.to_string()).unwrap_or_default());
        let flags = labels.2.letters();
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

/// The opaque connections of one source to one destination. Clones record to the same series.
#[derive(Clone, Debug)]
pub struct TcpSeries {
    inner: Rc<TcpSeriesState>,
}

#[derive(Debug)]
struct TcpSeriesState {
    scope: Scope<PerWorker>,
    values: Box<[Box<str>]>,
    security: Security,
    opened: Counter,
    sent: Counter,
    received: Counter,
    closed: RefCell<Vec<(ResponseFlags, Counter)>>,
}

impl TcpSeriesState {
    fn new(scope: &Scope<PerWorker>, labels: &Labels) -> Self {
        let shared = labels.values("tcp");
        let values = values_with(&shared, "-", labels.security);
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
        let closed = self.scope.counter(&TCP_CLOSED, &values_with(&self.values, &flags.letters(), self.security));
        closed.increment();
        self.closed.borrow_mut().push((flags, closed));
    }
}

fn values_with<'a>(shared: &'a [Box<str>], flags: &'a str, security: Security) -> Vec<&'a str> {
    shared.iter().map(|value| &**value).chain([flags, security.as_str()]).collect()
}

impl TcpSeries {
    /// Counts a connection as opened. Dropping the returned value counts it as closed.
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

/// An open connection of a [`TcpSeries`].
#[derive(Debug)]
pub struct TcpConnection {
    series: Rc<TcpSeriesState>,
    sent: Cell<u64>,
    received: Cell<u64>,
    flags: Cell<ResponseFlags>,
}

impl TcpConnection {
    /// Reports the total number of bytes so far: `sent` downstream and `received` from downstream. Long connections
    /// report every few seconds.
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
