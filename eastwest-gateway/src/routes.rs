//! What this gateway forwards: from a server name to a service's endpoints inside its own network.
//!
//! [`Routes`] is an immutable snapshot that workers read. A name that is not in it is refused; there are no wildcards and
//! no default, so nothing is reachable from another network but what was exported.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use balance::{Health, Locality};
use foldhash::{HashMap, HashMapExt};
use telemetry::istio::Party;
use wire::discovery;

#[cfg(test)]
pub(crate) mod tests;

/// A snapshot of everything that is forwarded.
#[derive(Debug, Default)]
pub struct Routes {
    by_name: HashMap<Box<str>, Route>,
}

/// Where a server name leads.
#[derive(Clone, Debug)]
pub struct Route {
    /// The service.
    pub service: Arc<Service>,
    /// Its port.
    pub port: u16,
    /// Only for proxies of the mesh, and only to endpoints that take the mesh's mutual TLS. Not so for names that the
    /// controller gave to a port, as it does for itself: those lead to servers with TLS of their own.
    pub mesh_only: bool,
}

/// An exported service and its endpoints in this network.
#[derive(Debug, PartialEq)]
pub struct Service {
    /// `<name>.<namespace>.svc.<domain>`.
    pub hostname: Arc<str>,
    /// What telemetry calls it.
    pub labels: telemetry::istio::Service,
    ports: Vec<Port>,
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, PartialEq)]
struct Port {
    number: u16,
    server_names: Vec<String>,
}

/// One pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    id: Arc<str>,
    ip: IpAddr,
    /// Service port and the pod's.
    ports: Vec<(u16, u16)>,
    mutual_tls: bool,
    health: Health,
    weight: u32,
    party: Arc<Party>,
}

/// What a connection needs to know of an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Where to connect.
    pub address: SocketAddr,
    /// What telemetry calls it.
    pub party: Arc<Party>,
}

impl Endpoint {
    /// What discovery tells of an endpoint, if it is one that this gateway may forward to: a pod in `network`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(name: &str, told: &discovery::Endpoint, network: &str) -> Result<Option<Self>, String> {
        let Some(discovery::endpoint::Kind::Direct(direct)) = &told.kind else { return Ok(None) };
        if told.network != network {
            return Ok(None);
        }
        let ip =
            wire::name::ip_of_bytes(&direct.ip).ok_or_else(|| format!("an address of {} bytes", direct.ip.len()))?;
        let mut ports = Vec::with_capacity(direct.ports.len());
        for (service, pod) in &direct.ports {
            ports.push((port(*service)?, port(*pod)?));
        }
        ports.sort_unstable();
        let workload = direct.workload.clone().unwrap_or_default();
        Ok(Some(Self {
            id: name.into(),
            ip,
            ports,
            mutual_tls: direct.mutual_tls,
            health: match told.health() {
                discovery::Health::Ready => Health::Ready,
                discovery::Health::Unready => Health::Unready,
                discovery::Health::Draining => Health::Draining,
            },
            weight: told.weight.max(1),
            party: Arc::new(Party {
                workload: workload.workload.into(),
                namespace: workload.namespace.into(),
                principal: direct.identity.as_str().into(),
                app: workload.app.into(),
                version: workload.version.into(),
                canonical_service: workload.canonical_service.into(),
                canonical_revision: workload.canonical_revision.into(),
                cluster: told.cluster.as_str().into(),
            }),
        }))
    }

    /// The cluster that it runs in.
    pub fn cluster(&self) -> &str {
        &self.party.cluster
    }
}

impl Service {
    /// An exported service with the endpoints of the clusters of `network` that export it; `None` where none does.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new<'a>(
        told: &discovery::Service,
        endpoints: impl IntoIterator<Item = &'a Endpoint>,
        network: &str,
    ) -> Result<Option<Self>, String> {
        let exporting =
            |cluster: &str| told.exports.iter().any(|export| export.cluster == cluster && export.network == network);
        let named = told.ports.iter().any(|port| !port.server_names.is_empty());
        if !named && !told.exports.iter().any(|export| export.network == network) {
            return Ok(None);
        }
        let ports = told.ports.iter().map(|told| {
            let lower = |name: &String| name.trim_end_matches('.').to_ascii_lowercase();
            Ok(Port { number: port(told.number)?, server_names: told.server_names.iter().map(lower).collect() })
        });
        Ok(Some(Self {
            hostname: told.hostname.to_ascii_lowercase().into(),
            labels: telemetry::istio::Service {
                host: told.hostname.as_str().into(),
                name: told.name.as_str().into(),
                namespace: told.namespace.as_str().into(),
            },
            ports: ports.collect::<Result<_, String>>()?,
            endpoints: endpoints.into_iter().filter(|endpoint| exporting(endpoint.cluster())).cloned().collect(),
        }))
    }

    /// The endpoints that serve a port, as the balancer takes them.
    pub fn candidates(&self, port: u16, mesh_only: bool) -> impl Iterator<Item = balance::Endpoint<Target>> {
        self.endpoints.iter().filter(move |endpoint| endpoint.mutual_tls || !mesh_only).filter_map(move |endpoint| {
            let (_, pod) = endpoint.ports.iter().find(|(service, _)| *service == port)?;
            Some(balance::Endpoint {
                id: Arc::clone(&endpoint.id),
                // The client's proxy has chosen this network; inside it, load alone counts.
                locality: Locality::default(),
                weight: endpoint.weight,
                health: endpoint.health,
                target: Target { address: (endpoint.ip, *pod).into(), party: Arc::clone(&endpoint.party) },
            })
        })
    }

    /// How many endpoints it has here.
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }
}

impl Routes {
    /// The names of these services.
    pub fn new<'a>(services: impl IntoIterator<Item = &'a Arc<Service>>) -> Self {
        let mut by_name = HashMap::new();
        for service in services {
            for port in &service.ports {
                let route = |mesh_only| Route { service: Arc::clone(service), port: port.number, mesh_only };
                by_name.insert(wire::name::sni(port.number, "", &service.hostname).into(), route(true));
                for name in &port.server_names {
                    by_name.insert(name.as_str().into(), route(false));
                }
            }
        }
        Self { by_name }
    }

    /// Where a server name (lower case, no trailing dot) leads.
    pub fn find(&self, server_name: &str) -> Option<&Route> {
        self.by_name.get(server_name)
    }

    /// All names, for people.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Route)> {
        self.by_name.iter().map(|(name, route)| (&**name, route))
    }
}

fn port(number: u32) -> Result<u16, String> {
    u16::try_from(number).ok().filter(|port| *port != 0).ok_or_else(|| format!("{number} is no port"))
}
