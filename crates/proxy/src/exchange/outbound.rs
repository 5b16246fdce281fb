//! Requests of the application: route → policies → pick and send, again if safe → answer.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Request, Response, Version as HttpVersion, request};
use route::Table;
use telemetry::istio::{Party, Reporter, Security};

use super::host::{self, NamedService};
use super::{Downstream, Exchange, connection_failure};
use crate::detect;
use crate::failure::Failure;
use crate::http::{Incoming, Version, headers, settle};
use crate::io::Io;
use crate::mesh::{EgressProxy, Lookup, Protocol, Service, TrafficPolicy};
use crate::report::{RequestReport, ServiceMetrics, endpoint_party};
use crate::server::{Ending, Handler, ResponseBody, serve as serve_http};
use crate::upstream::hash::{RequestHash, request_hash};
use crate::upstream::{ClusterKey, LeasedConnection, UpstreamCluster};
use crate::worker::Worker;

pub mod connections;
mod expiry;
pub mod explain;
pub mod measure;
mod mirror;
mod resolve;
mod retry;
pub(super) mod routed;
mod send;

use expiry::Limits;
use resolve::Resolved;
use send::Answer;

/// How long a host that names no service is not looked up again on a connection.
const UNKNOWN_HOST: Duration = Duration::from_secs(5);

/// Where requests go: a port of a service, or a fixed address.
#[derive(Clone)]
pub struct Destination {
    /// The upstream cluster.
    pub cluster: Rc<UpstreamCluster>,
    /// The metrics that requests count in.
    pub metrics: Rc<ServiceMetrics>,
    /// The declared protocol of the port.
    pub protocol: Protocol,
    /// The routes of requests and connections to the service.
    pub routes: Option<Arc<Table>>,
    /// A service carries the connection out of the mesh (Istio: `Sidecar.outboundTrafficPolicy.egressProxy`).
    carries_out: bool,
}

impl Destination {
    /// Returns a port of a service, or one endpoint of it, for a connection to `address`.
    pub fn at(service: &Service, port: u16, endpoint: Option<Arc<str>>, address: SocketAddr, worker: &Worker) -> Self {
        Self::subset(service, port, Arc::default(), endpoint, address, worker)
    }

    /// Returns a port of a subset of a service, or one endpoint of the service, for a connection to `address`: that address
    /// itself if load balancing is `PASSTHROUGH`.
    fn subset(
        service: &Service,
        port: u16,
        subset: Arc<str>,
        endpoint: Option<Arc<str>>,
        address: SocketAddr,
        worker: &Worker,
    ) -> Self {
        let passes = endpoint.is_none()
            && (service.passes_through() || service.policy.traffic(port, &subset).balancing.passthrough);
        let address = passes.then_some(address);
        let key = ClusterKey { endpoint, address, ..ClusterKey::of(service, port, subset) };
        let labels = telemetry::istio::Service {
            host: service.hostname.clone(),
            name: service.name.clone(),
            namespace: service.namespace.clone(),
        };
        Self {
            cluster: worker.clusters.get(key, &worker.view),
            metrics: service_metrics(labels, worker),
            protocol: service.port(port).map(|port| port.protocol).unwrap_or_default(),
            routes: service.routes.clone(),
            carries_out: false,
        }
    }

    /// Returns the service that carries a connection to `address` out of the mesh. Without it, connections are refused.
    pub async fn through(proxy: &EgressProxy, address: SocketAddr, worker: &Worker) -> Self {
        let undeclared = detect::undeclared(address.port());
        let found = worker.view.by_name(&proxy.hostname).await.found();
        match found.filter(|service| service.port(proxy.port).is_some()) {
            None => Self::external(UpstreamCluster::black_hole(address), undeclared, worker),
            Some(service) => {
                let to = Self::subset(&service, proxy.port, proxy.subset.clone(), None, address, worker);
                Self { protocol: undeclared, routes: None, carries_out: true, ..to }
            }
        }
    }

    /// Returns whether the connection's address is not one of a service.
    pub fn is_outside(&self) -> bool {
        self.carries_out || !self.cluster.is_service()
    }

    /// Returns the destination for a request with this head, if connections for it differ from those for others: TLS with
    /// servers outside the mesh names and verifies the request's host, as in Istio, unless the policy has a server name.
    fn for_host(&self, head: &request::Parts, worker: &Worker) -> Option<Self> {
        if !self.cluster.names_servers_by_host() {
            return None;
        }
        let host = headers::host(&head.uri, &head.headers)?;
        Some(self.named(host::without_port(host).to_ascii_lowercase().into(), worker))
    }

    /// Returns the destination of this name: TLS with servers outside the mesh verifies it, and a wildcard of `DYNAMIC_DNS` leads to its
    /// addresses.
    fn named(&self, name: Arc<str>, worker: &Worker) -> Self {
        let key = ClusterKey { server_name: Some(name), ..self.cluster.key().clone() };
        Self { cluster: worker.clusters.get(key, &worker.view), ..self.clone() }
    }

    /// Returns where requests or connections of a host go, for a connection to `address`.
    async fn of_host(service: &Service, port: u16, host: &str, address: SocketAddr, worker: &Worker) -> Self {
        let destination = Self::at(service, port, None, address, worker);
        if !service.is_dynamic() {
            return destination;
        }
        let host: Arc<str> = host.into();
        worker.view.resolve_host(&host).await;
        destination.named(host, worker)
    }

    /// Returns whether the host of a request may name another service. The address alone decides for a service port whose
    /// protocol is not declared.
    fn routes_by_host(&self) -> bool {
        self.protocol != Protocol::Unknown || self.is_outside()
    }

    /// Returns a destination outside the mesh.
    pub fn external(cluster: UpstreamCluster, protocol: Protocol, worker: &Worker) -> Self {
        let labels = telemetry::istio::Service { name: cluster.name.clone(), ..Default::default() };
        let metrics = service_metrics(labels, worker);
        Self { cluster: Rc::new(cluster), metrics, protocol, routes: None, carries_out: false }
    }
}

fn service_metrics(labels: telemetry::istio::Service, worker: &Worker) -> Rc<ServiceMetrics> {
    worker.telemetry.service(Reporter::Source, Security::Unknown, &worker.own_party(), labels)
}

/// Serves the requests of a connection of the application. `captured` is where the connection's address leads.
pub async fn serve(
    io: Io,
    version: Version,
    downstream: Downstream,
    captured: Destination,
    worker: &Rc<Worker>,
) -> Result<(), Failure> {
    let admitted = downstream.admitted.clone();
    let address = downstream.destination;
    let handler = Rc::new(OutboundRequests::new(downstream, address, captured, worker));
    let served = serve_http(io, version, handler.clone(), admitted, &worker.drain).await;
    served.map_err(|error| {
        connection_failure(&error, worker, |log| {
            handler.downstream.log_to(log);
            log.cluster = handler.captured.cluster.name.clone();
        })
    })
}

/// The requests of one connection.
pub(super) struct OutboundRequests {
    downstream: Downstream,
    /// The address that the client connected to, as routes see it.
    address: SocketAddr,
    captured: Destination,
    last: RefCell<Option<RoutedHost>>,
    /// The destinations of routes that requests went to.
    resolved: Resolved,
    worker: Rc<Worker>,
}

/// The route of the last request's host. Most connections carry requests to one host.
struct RoutedHost {
    host: String,
    /// The version of the snapshot that the route was made with.
    version: u64,
    /// When to look the host up again, if it names no service: the service may have been created.
    expires: Option<Instant>,
    destination: Destination,
}

impl RoutedHost {
    fn is_valid(&self, host: &str, version: u64) -> bool {
        self.host == host && self.version == version && self.expires.is_none_or(|expires| Instant::now() < expires)
    }
}

impl Handler for OutboundRequests {
    async fn handle(self: Rc<Self>, mut request: Request<Incoming>) -> Response<ResponseBody> {
        let form = self.worker.view.snapshot().settings.path_normalization;
        let upgrade = match settle(&mut request, self.downstream.destination, form) {
            Ok(upgrade) => upgrade,
            Err(invalid) => return self.begin(request, false, &self.captured()).refuse(invalid),
        };
        let host = headers::host(request.uri(), request.headers());
        let destination = self.route(host).await;
        if let Some(table) = destination.routes.as_ref().filter(|table| table.has_http(self.address.port())).cloned() {
            // Boxed: the future of requests without routes stays small.
            return Box::pin(self.carry_routed(request, upgrade, destination, table)).await;
        }
        let policy = destination.cluster.policy();
        let mut exchange = self.begin(request, upgrade, &destination);
        self.prepare(&mut exchange, &destination);
        exchange.hash = self.hash(&exchange, &policy);
        let request = grpc_timeout(&exchange);
        let mut timer = request.map(|_| Box::pin(tokio::time::sleep(Duration::ZERO)));
        let began = exchange.report.started();
        let mut limits = Limits { began, request, attempt: None, timer: timer.as_mut().map(|timer| timer.as_mut()) };
        match self.send(&mut exchange, &destination, &policy.retry, &mut limits).await {
            Ok(answer) => self.answer(exchange, answer),
            Err(failure) => {
                tracing::debug!(error = %failure, cluster = %destination.cluster.name, "request failed");
                exchange.fail(&failure)
            }
        }
    }
}

impl OutboundRequests {
    /// Creates the state of a connection. `address` is the address that the client connected to, as routes see it.
    pub(super) fn new(downstream: Downstream, address: SocketAddr, captured: Destination, worker: &Rc<Worker>) -> Self {
        let (last, resolved) = Default::default();
        Self { downstream, address, captured, last, resolved, worker: worker.clone() }
    }

    /// Returns the destination that a request's host names, as in Istio; if it names none, the captured one. The reasons
    /// are in `docs/decisions/host-routing.md`.
    async fn route(&self, host: Option<&str>) -> Destination {
        let view = &self.worker.view;
        let Some(host) = host.filter(|_| self.captured.routes_by_host()) else { return self.captured() };
        if let Some(last) = self.last.borrow().as_ref().filter(|last| last.is_valid(host, view.version())) {
            self.worker.clusters.refresh(&last.destination.cluster, view);
            return last.destination.clone();
        }
        let named = Box::pin(named(host, self.address, &self.captured, &self.worker)).await;
        let expires = named.is_none().then(|| Instant::now() + UNKNOWN_HOST);
        let destination = named.unwrap_or_else(|| self.captured());
        let routed =
            RoutedHost { host: host.to_owned(), version: view.version(), expires, destination: destination.clone() };
        *self.last.borrow_mut() = Some(routed);
        destination
    }

    fn captured(&self) -> Destination {
        self.worker.clusters.refresh(&self.captured.cluster, &self.worker.view);
        self.captured.clone()
    }

    /// Returns the address that the client connected to, as routes see it.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes a request, which has begun, one to this destination.
    pub(super) fn direct(&self, exchange: &mut Exchange, destination: &Destination) {
        exchange.report.metrics.clone_from(&destination.metrics);
        if let Some(log) = &mut exchange.report.log {
            log.cluster.clone_from(&destination.cluster.name);
        }
    }

    /// Begins the exchange of a request.
    pub(super) fn begin(&self, request: Request<Incoming>, upgrade: bool, destination: &Destination) -> Exchange {
        Exchange::begin(request, upgrade, &self.worker, &destination.metrics, &self.downstream, |log| {
            self.downstream.log_to(log);
            log.cluster = destination.cluster.name.clone();
        })
    }

    /// Adds the headers for the other sidecar, and adapts the request to the version of the destination.
    fn prepare(&self, exchange: &mut Exchange, destination: &Destination) {
        let http2 = serves_http2(destination, &exchange.head);
        let headers = &mut exchange.head.headers;
        headers.entry(headers::FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
        if destination.cluster.in_mesh() {
            headers.insert(headers::PEER, self.worker.own_party().header.clone());
        }
        exchange.prepare(upstream_version(http2, exchange));
    }

    /// Returns the hash of a request, if the destination has a hash key.
    fn hash(&self, exchange: &Exchange, policy: &TrafficPolicy) -> Option<Box<RequestHash>> {
        let key = policy.balancing.hash.as_ref()?;
        let (head, Downstream { client, destination, .. }) = (&exchange.head, &self.downstream);
        Some(Box::new(request_hash(key, &head.uri, &head.headers, *client, *destination)))
    }

    /// Turns an upstream's response into the downstream's.
    fn answer(&self, mut exchange: Exchange, answer: Answer) -> Response<ResponseBody> {
        let Answer { response, leased } = answer;
        exchange.report.party = Some(self.upstream_party(&leased, &response));
        if let Some(log) = &mut exchange.report.log {
            log.upstream_host = Some(leased.pick.target.address);
        }
        let elapsed = headers::number(exchange.report.started().elapsed().as_millis() as u64);
        let LeasedConnection { lease, pick, .. } = leased;
        let edit = |headers: &mut http::HeaderMap| drop(headers.insert(headers::SERVICE_TIME, elapsed));
        exchange.respond(response, lease, &self.worker, edit, |report| Box::new(InProgress { report, _pick: pick }))
    }

    /// Returns the responding workload. Labels that discovery sent come first; behind a gateway only the other sidecar knows
    /// them. All responses of a connection have the same party.
    fn upstream_party(&self, leased: &LeasedConnection, response: &Response<Incoming>) -> Rc<Party> {
        let info = &leased.lease.info;
        info.party(|| {
            let target = &leased.pick.target;
            let mut party = if target.labels.workload.is_empty() {
                let header = response.headers().get(headers::PEER).filter(|_| target.tls.is_some());
                Party::clone(&self.worker.telemetry.peer(header, info.peer.as_deref()))
            } else {
                endpoint_party(&target.labels, &target.cluster)
            };
            if let Some(peer) = &info.peer {
                party.principal = peer.id.as_str().into();
            }
            if party.cluster.is_empty() {
                party.cluster = target.cluster.clone();
            }
            self.worker.telemetry.intern(party)
        })
    }
}

/// Returns the service port that a host names: the port of the original destination, of a service that carries HTTP on it. A headless service is reached at the address that the application chose.
async fn named(host: &str, address: SocketAddr, captured: &Destination, worker: &Worker) -> Option<Destination> {
    let view = &worker.view;
    let port = address.port();
    let domain = view.snapshot().settings.cluster_domain.clone();
    let named = match NamedService::parse(host, &view.location().namespace, &domain) {
        Some(NamedService::Hostname { hostname, certain }) => match view.reached_by_name(&hostname, port).await {
            // The captured address may be a service's, whatever name the application gives it.
            Lookup::Unanswered if certain && captured.is_outside() => {
                let cluster = UpstreamCluster::unanswered(&hostname);
                return Some(Destination::external(cluster, Protocol::Unknown, worker));
            }
            found => found.found(),
        },
        Some(NamedService::Address(ip)) if ip == address.ip() => return None,
        Some(NamedService::Address(ip)) => {
            let found = view.reached_at((ip, port).into()).await.found();
            found.filter(|found| found.endpoint.is_none()).map(|found| found.service)
        }
        None => None,
    };
    let service = match named {
        Some(service) => service,
        // A name of any domain may be the host of a ServiceEntry.
        None if view.snapshot().settings.entries => view.reached_by_host(&host::entry(host)?, port).await.found()?,
        None => return None,
    };
    if service.headless {
        return None;
    }
    service.port(port).filter(|port| port.protocol != Protocol::Tcp)?;
    let name = host::entry(host).unwrap_or_default();
    Some(Destination::of_host(&service, port, &name, address, worker).await)
}

/// Returns whether a request to a destination is sent in HTTP/2.
fn serves_http2(destination: &Destination, head: &request::Parts) -> bool {
    let declared = matches!(destination.protocol, Protocol::Http2 | Protocol::Grpc);
    destination.cluster.speaks_http2(declared, head.version == HttpVersion::HTTP_2)
}

/// Returns the time limit that a client of gRPC sets.
fn grpc_timeout(exchange: &Exchange) -> Option<Duration> {
    exchange.report.is_grpc().then(|| headers::grpc_timeout(&exchange.head.headers))?
}

/// HTTP/2 if the port declares it or the request used it; an upgrade needs HTTP/1.1.
fn upstream_version(http2: bool, exchange: &Exchange) -> Version {
    if http2 && exchange.upgrade.is_none() { Version::Http2 } else { Version::Http1 }
}

/// Counts the request as in progress at its endpoint until the response has ended.
struct InProgress {
    report: RequestReport,
    _pick: Rc<balance::Pick<Arc<crate::upstream::Target>>>,
}

impl Ending for InProgress {
    fn complete(&mut self, bytes: u64, grpc_status: Option<u16>) {
        self.report.complete(bytes, grpc_status);
    }

    fn broken(&mut self, bytes: u64) {
        self.report.broken(bytes);
    }

    fn timed_out(&mut self, bytes: u64) {
        self.report.timed_out(bytes);
    }

    fn abandoned(&mut self, bytes: u64) {
        self.report.abandoned(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A task of this size is created for each HTTP/2 request.
    #[test]
    fn the_task_of_a_stream_is_small() {
        let size = crate::server::stream_size::<OutboundRequests>();
        assert!((1024..=3584).contains(&size), "{size} bytes");
    }
}
