//! Routes: which server names the gateway forwards, and to which endpoints of its own network.
//!
//! Only names of exported services have a route: `outbound_.<port>_.<subset>_.<hostname>`, and the server names that a port of
//! a service has besides. There are no wildcards and no default, so nothing that is not exported is reachable from another
//! network.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use balance::Locality;
use proxy::mesh::{Endpoint, Export, MeshSnapshot, Reach, Service, SharedMap};
use proxy::report::endpoint_party;
use telemetry::istio::Party;

/// The routes of one moment. Workers read them.
#[derive(Debug, Default)]
pub struct Routes {
    /// The gateway's own cluster.
    cluster: Arc<str>,
    network: Arc<str>,
    mesh: Arc<MeshSnapshot>,
    /// Hostnames and ports of services by their ports' server names.
    names: SharedMap<Box<str>, (Arc<str>, u16)>,
}

/// The route of a server name.
#[derive(Clone, Debug)]
pub struct Route {
    /// The service.
    pub service: Arc<Service>,
    /// The service port.
    pub port: u16,
    /// The subset; empty: all endpoints.
    pub subset: Arc<str>,
    /// Only proxies of the mesh may use the route, and only endpoints that accept mutual TLS. Not so for the server names of a
    /// port, which the controller gives to its own services: they lead to servers with TLS of their own.
    pub mesh_only: bool,
}

/// What identifies the endpoints of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteKey {
    hostname: Arc<str>,
    port: u16,
    subset: Arc<str>,
    mesh_only: bool,
}

/// A pod that a route leads to.
#[derive(Clone, Debug, PartialEq)]
pub struct PodTarget {
    /// The address.
    pub address: SocketAddr,
    /// The pod as a party to metrics.
    pub party: Arc<Party>,
}

impl Routes {
    /// Creates the routes of a gateway of `network` in `cluster`.
    pub fn new(
        cluster: Arc<str>,
        network: Arc<str>,
        mesh: Arc<MeshSnapshot>,
        names: SharedMap<Box<str>, (Arc<str>, u16)>,
    ) -> Self {
        Self { cluster, network, mesh, names }
    }

    /// Returns the mesh-wide view.
    pub fn mesh(&self) -> &MeshSnapshot {
        &self.mesh
    }

    /// Returns the route of a server name, in lower case and without a trailing dot.
    pub fn find(&self, server_name: &str) -> Option<Route> {
        if let Some((port, subset, hostname)) = wire::name::parse_sni(server_name) {
            let service = self.mesh.services.get(hostname)?;
            let route = Route { service: service.clone(), port, subset: subset.into(), mesh_only: true };
            return (service.port(port).is_some() && self.is_exported(&route)).then_some(route);
        }
        let (hostname, port) = self.names.get(server_name)?;
        let service = self.mesh.services.get(hostname)?.clone();
        Some(Route { service, port: *port, subset: Arc::default(), mesh_only: false })
    }

    fn is_exported(&self, route: &Route) -> bool {
        let subset_exists = route.subset.is_empty() || route.service.subset(&route.subset).is_some();
        subset_exists && self.exports(&route.service)
    }

    /// Returns whether the gateway's cluster exports a service from the gateway's network.
    fn exports(&self, service: &Service) -> bool {
        service.exports.iter().any(|export| export.cluster == self.cluster && export.network == self.network)
    }

    /// Returns whether clients at an address may use a service's exports of the gateway's own cluster and network.
    pub fn permits(&self, service: &Service, client: IpAddr) -> bool {
        let own = |export: &&Export| export.cluster == self.cluster && export.network == self.network;
        let mut sources = service.exports.iter().filter(own).filter_map(|export| export.sources.as_ref());
        sources.all(|sources| sources.permit(client))
    }

    /// Returns all server names with their routes, for display.
    pub fn iter(&self) -> impl Iterator<Item = (String, Route)> {
        let exported = self.mesh.services.values().flat_map(|service| {
            let subsets = service.subsets.iter().map(|subset| subset.name.clone());
            let subsets: Vec<Arc<str>> = std::iter::once(Arc::default()).chain(subsets).collect();
            service.ports.iter().flat_map(move |port| {
                let subsets = subsets.clone();
                subsets.into_iter().map(move |subset| {
                    let name = wire::name::sni(port.number, &subset, &service.hostname);
                    (name, Route { service: service.clone(), port: port.number, subset, mesh_only: true })
                })
            })
        });
        let named = self.names.keys().filter_map(|name| Some((name.to_string(), self.find(name)?)));
        exported.filter(|(_, route)| self.is_exported(route)).chain(named)
    }

    /// Returns the endpoints of a route: pods of the own cluster and network, if the cluster exports the service. Another
    /// cluster on the network, which somebody else may run, could list any address as an endpoint.
    pub fn candidates(&self, route: &Route) -> impl Iterator<Item = balance::Endpoint<PodTarget>> {
        route.service.endpoints().iter().filter_map(|endpoint| self.candidate(route, endpoint))
    }

    fn candidate(&self, route: &Route, endpoint: &Endpoint) -> Option<balance::Endpoint<PodTarget>> {
        let Reach::Direct(direct) = &endpoint.reach else { return None };
        let own = endpoint.cluster == self.cluster && endpoint.network == self.network;
        let exported = own && self.exports(&route.service);
        let in_subset =
            route.subset.is_empty() || route.service.subset(&route.subset).is_some_and(|subset| direct.is_in(subset));
        if !exported || !in_subset || (route.mesh_only && !direct.mutual_tls) {
            return None;
        }
        let mut party = endpoint_party(&direct.workload, &endpoint.cluster);
        party.principal = direct.identity.as_ref().map(|id| id.as_str().into()).unwrap_or_default();
        Some(balance::Endpoint {
            id: endpoint.id.clone(),
            // The client's proxy chose the network; within it, only load counts.
            locality: Locality::default(),
            priority: 0,
            weight: endpoint.weight,
            health: endpoint.health,
            target: PodTarget { address: (direct.ip, direct.port(route.port)?).into(), party: Arc::new(party) },
        })
    }
}

impl Route {
    /// Returns the key of the route's endpoints.
    pub fn key(&self) -> RouteKey {
        RouteKey {
            hostname: self.service.hostname.clone(),
            port: self.port,
            subset: self.subset.clone(),
            mesh_only: self.mesh_only,
        }
    }
}

impl RouteKey {
    /// Returns whether the service still exists.
    pub fn is_current(&self, routes: &Routes) -> bool {
        routes.mesh.services.contains_key(&self.hostname)
    }
}

#[cfg(test)]
mod tests;
