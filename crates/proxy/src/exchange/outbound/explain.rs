//! Where a request or connection of the application would go, for display. It is decided by the code that carries requests: the
//! same host, routes and balancers, without choosing at random and without sending anything.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use balance::{Algorithm, Preference};
use http::request;
use route::{Action, ConnectionFacts, Destination as RouteDestination, Table, shares};

use super::measure::Measured;
use super::{Destination, connections, named, resolve, routed};
use crate::failure::Failure;
use crate::http::headers;
use crate::mesh::{HashKey, MeshSnapshot, Protocol, TrafficPolicy};
use crate::upstream::ClusterForecast;
use crate::upstream::hash::{RequestHash, connection_hash, request_hash};
use crate::worker::Worker;

/// Where a request or connection would go, as one worker sees it.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The hostname of the service that it is to; outside of the mesh, the address.
    pub host: Arc<str>,
    /// Whether the host is a service of the mesh.
    pub in_mesh: bool,
    /// The declared protocol of the port.
    pub protocol: Protocol,
    /// Whether it is carried as a request; else as opaque bytes.
    pub as_request: bool,
    /// The routes of the host, if it has any for what is sent; and the position of the route that is taken.
    pub routes: Option<(Arc<Table>, Option<usize>)>,
    /// Why every request is answered by the proxy itself with an error.
    pub failure: Option<Failure>,
    /// The destinations, with their shares. Empty if the proxy answers itself.
    pub destinations: Vec<DestinationForecast>,
    /// Connections to the endpoints that were made for measurement.
    pub measured: Vec<Measured>,
}

/// A destination, and its share of the next requests.
#[derive(Debug, Clone)]
pub struct DestinationForecast {
    /// The hostname of the service; outside of the mesh, the address.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
    /// The subset; empty: all endpoints.
    pub subset: Arc<str>,
    /// The share of the next requests, from 0 to 1.
    pub share: f64,
    /// The labels of the subset.
    pub labels: Vec<(Box<str>, Box<str>)>,
    /// The objects that say how it is used (DestinationRules): `<namespace>/<name>`.
    pub policies: Vec<Box<str>>,
    /// In which order endpoints are used.
    pub order: Order,
    /// How one of a tier is chosen.
    pub algorithm: Algorithm,
    /// The algorithm chose by the hash of the request, which leads to one endpoint.
    pub by_hash: bool,
    /// The endpoints, or why there is no such destination.
    pub forecast: Result<ClusterForecast, Failure>,
}

/// In which order the endpoints of a destination are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// All alike.
    Alike,
    /// Near ones first.
    Distance,
    /// By the labels of `failoverPriority`.
    Priority,
    /// By these labels and, of equal ones, near ones first.
    PriorityThenDistance,
    /// By the shares of localities (`distribute`).
    Shares,
}

impl Order {
    fn of(policy: &TrafficPolicy, snapshot: &MeshSnapshot) -> Self {
        let rules = policy.balancing.locality.as_ref().map(|rules| &rules.policy);
        let preference = match rules {
            Some(rules) => rules.preference,
            None if snapshot.settings.locality_load_balancing => Preference::Distance,
            None => Preference::Off,
        };
        let own = snapshot.own.as_ref().map(|own| own.locality.clone()).unwrap_or_default();
        match preference {
            Preference::Off => Order::Alike,
            _ if rules.is_some_and(|rules| rules.distribute.iter().any(|of| of.from.matches(&own))) => Order::Shares,
            Preference::Distance => Order::Distance,
            Preference::Priority => Order::Priority,
            Preference::PriorityThenDistance => Order::PriorityThenDistance,
        }
    }
}

/// Explains a request with this head to `address`. `captured` is where the address leads.
pub async fn request(
    head: &request::Parts,
    address: SocketAddr,
    captured: &Destination,
    worker: &Rc<Worker>,
) -> Explanation {
    let host = headers::host(&head.uri, &head.headers).filter(|_| captured.routes_by_host());
    let named = match host {
        Some(host) => named(host, address, captured, worker).await,
        None => None,
    };
    let host = named.unwrap_or_else(|| captured.clone());
    let mut explanation = Explanation::of(&host, true);
    let Some(table) = host.routes.clone().filter(|table| table.has_http(address.port())) else {
        explanation.destinations.push(forecast(&host, 1.0, Some(head), address, worker));
        return explanation;
    };
    let chosen = table.http(&routed::facts_of_head(head, address.port()));
    explanation.routes = Some((table.clone(), chosen.as_ref().map(|chosen| chosen.index)));
    match chosen.map(|chosen| &chosen.route.action) {
        None => explanation.failure = Some(Failure::NoRoute(host.cluster.key().hostname.clone())),
        Some(Action::Redirect(_) | Action::Respond(_)) => {}
        Some(Action::Forward(forward)) => {
            let mut shares = shares(&forward.destinations);
            // As for a request: without weights, the first is used.
            if shares.iter().all(|share| *share == 0.0)
                && let Some(first) = shares.first_mut()
            {
                *first = 1.0;
            }
            let weighted = forward.destinations.iter().zip(shares);
            explanation.destinations = destinations(weighted, &host, Some(head), address, worker).await;
        }
    }
    explanation
}

/// Explains an opaque connection to `address`, which `destination` is the service of. `tls` is the server name if the connection
/// is TLS of the application's own.
pub async fn connection(
    tls: Option<&str>,
    address: SocketAddr,
    destination: &Destination,
    worker: &Rc<Worker>,
) -> Explanation {
    let mut explanation = Explanation::of(destination, false);
    let facts = ConnectionFacts {
        source: worker.view.location().ip,
        destination: address.ip(),
        port: address.port(),
        server_name: tls,
    };
    let taken = destination.routes.as_ref().and_then(|table| {
        let taken = connections::taken(table, &facts, tls.is_some())?;
        Some((table.clone(), taken.to_vec()))
    });
    let (table, taken) = match taken {
        Some((table, taken)) => (Some(table), taken),
        None => (None, Vec::new()),
    };
    let shares = shares(&taken);
    if shares.iter().all(|share| *share == 0.0) {
        explanation.destinations.push(forecast(destination, 1.0, None, address, worker));
        return explanation;
    }
    explanation.routes = table.map(|table| (table, None));
    explanation.destinations = destinations(taken.iter().zip(shares), destination, None, address, worker).await;
    explanation
}

impl Explanation {
    fn of(host: &Destination, as_request: bool) -> Self {
        let in_mesh = host.cluster.is_service();
        let name = if in_mesh { &host.cluster.key().hostname } else { &host.cluster.name };
        Explanation {
            host: name.clone(),
            in_mesh,
            protocol: host.protocol,
            as_request,
            routes: None,
            failure: None,
            destinations: Vec::new(),
            measured: Vec::new(),
        }
    }
}

/// Returns the destinations of a route.
async fn destinations(
    weighted: impl Iterator<Item = (&RouteDestination, f64)>,
    host: &Destination,
    head: Option<&request::Parts>,
    address: SocketAddr,
    worker: &Rc<Worker>,
) -> Vec<DestinationForecast> {
    let mut destinations = Vec::new();
    for (to, share) in weighted {
        destinations.push(match resolve::find(to, address, host, worker).await {
            Ok(destination) => forecast(&destination, share, head, address, worker),
            Err(failure) => DestinationForecast {
                host: to.host.clone(),
                port: to.port.unwrap_or(address.port()),
                subset: to.subset.clone(),
                share,
                labels: Vec::new(),
                policies: Vec::new(),
                order: Order::Alike,
                algorithm: Algorithm::default(),
                by_hash: false,
                forecast: Err(failure),
            },
        });
    }
    destinations
}

/// Returns where requests to a destination will go.
fn forecast(
    destination: &Destination,
    share: f64,
    head: Option<&request::Parts>,
    address: SocketAddr,
    worker: &Rc<Worker>,
) -> DestinationForecast {
    let by_host = head.and_then(|head| destination.for_host(head, worker));
    let cluster = &by_host.as_ref().unwrap_or(destination).cluster;
    worker.clusters.refresh(cluster, &worker.view);
    let policy = cluster.policy();
    let hash = hash(&policy, head, address, worker);
    let snapshot = worker.view.snapshot();
    let service = snapshot.services.get(&cluster.key().hostname).filter(|_| cluster.is_service());
    let subset = service.and_then(|service| service.subset(&cluster.key().subset));
    DestinationForecast {
        host: cluster.key().hostname.clone(),
        port: cluster.key().port,
        subset: cluster.key().subset.clone(),
        share,
        labels: subset.map(|subset| subset.labels.to_vec()).unwrap_or_default(),
        policies: service.map(|service| service.policy.sources.to_vec()).unwrap_or_default(),
        order: if cluster.is_service() { Order::of(&policy, &snapshot) } else { Order::Alike },
        algorithm: policy.balancing.algorithm,
        by_hash: hash.is_some(),
        forecast: Ok(cluster.forecast(hash, Instant::now())),
    }
}

/// Returns the hash of a request or connection, if the policy has a key and the request has what it names.
fn hash(policy: &TrafficPolicy, head: Option<&request::Parts>, address: SocketAddr, worker: &Worker) -> Option<u64> {
    let key = policy.balancing.hash.as_ref()?;
    let client = SocketAddr::new(worker.view.location().ip, 0);
    match head {
        Some(head) => {
            let RequestHash { hash, cookie } = request_hash(key, &head.uri, &head.headers, client, address);
            // A cookie that the proxy generates differs from connection to connection.
            hash.filter(|_| cookie.is_none())
        }
        None => (*key == HashKey::SourceAddress).then(|| connection_hash(client).hash).flatten(),
    }
}
