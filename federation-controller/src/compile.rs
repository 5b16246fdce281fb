//! Computes resources from the inventory.
//!
//! [`Compiler::compile`] computes the resources of one [`Group`]: a service with its endpoints, a workload, the gateways of a
//! network. The functions of the submodules are pure: equal inventories have equal resources, which golden files check. The
//! compiler itself keeps shared copies of values, and the addresses that it allocated.
//!
//! - [`service`] merges the definitions of all clusters; [`members`] collects the endpoints, and [`endpoint`] is their
//!   compact form; [`export`] decides which services other clusters may use.
//! - [`federation`] compiles who may consume an export.
//! - [`entry`] compiles the services of ServiceEntries.
//! - [`workload`] and [`policies`] compile the configuration of a pod's own proxy.
//! - [`listeners`] and [`credential`] compile what ingress and egress gateways listen on, and their certificates.
//! - [`scope`] compiles Sidecars: what a proxy sees of the mesh, and the ports of its application.
//! - [`rules`] compiles the routes, policies and subsets of a host.
//! - [`gateway`] and [`mesh`] compile networks and mesh-wide settings.
//! - [`resource`] has the resource and its audience.

use std::collections::HashSet;
use std::sync::Arc;

use wire::discovery::Subset;

pub mod address;
mod authentication;
mod authorization;
mod credential;
pub mod endpoint;
mod entry;

mod external;
pub(crate) mod federation;
mod gateway;
mod listeners;
mod members;
mod mesh;
pub mod policies;
mod probe;
mod rate_limits;
pub mod resource;
pub(crate) mod rules;
mod scope;
pub mod service;
#[cfg(test)]
mod tests;
mod workload;

use address::Addresses;
use endpoint::{Location, NetworkScope};
use entry::Entries;
use resource::{Compiled, CompiledService};
use service::{ServiceFacts, ServiceView, Views};

use crate::inventory::{Group, Inventory};
use crate::objects::intern::one_copy;

/// Computes resources, and keeps the values that they share.
#[derive(Debug, Default)]
pub struct Compiler {
    addresses: Addresses,
    shared: Shared,
}

/// Shared copies of values that many endpoints or services have.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    locations: HashSet<Arc<Location>>,
    scopes: HashSet<Arc<NetworkScope>>,
    facts: HashSet<Arc<ServiceFacts>>,
}

impl Compiler {
    /// Compiles a group.
    pub fn compile(&mut self, inventory: &Inventory, group: &Group) -> Compiled {
        match group {
            Group::Trust => mesh::trust(inventory).into_iter().collect::<Vec<_>>().into(),
            Group::Mesh => {
                std::iter::once(mesh::settings(inventory)).chain(policies::defaults()).collect::<Vec<_>>().into()
            }
            Group::Network(network) => gateway::compile(inventory, network).into_iter().collect::<Vec<_>>().into(),
            Group::Rules(hostname) => rules::compile(inventory, hostname),
            Group::Bound(gateway, host) => rules::gateway::compile(inventory, gateway, host),
            Group::Service(hostname) => {
                self.compile_service(inventory, hostname, &rules::subsets::of(inventory, hostname))
            }
            Group::Credential(cluster, secret) => {
                credential::compile(inventory, cluster, secret).into_iter().collect::<Vec<_>>().into()
            }
            Group::Policy(kind, cluster, key) => {
                policies::compile(inventory, *kind, cluster, key).into_iter().collect::<Vec<_>>().into()
            }
            Group::Workload(cluster, pod) => {
                let mut compiled = listeners::compile(inventory, cluster, pod);
                compiled.resources.extend(workload::compile(inventory, cluster, pod));
                compiled
            }
        }
    }

    /// Drops shared copies that nothing uses.
    pub fn purge(&mut self) {
        self.shared.locations.retain(|location| Arc::strong_count(location) > 1);
        self.shared.scopes.retain(|scope| Arc::strong_count(scope) > 1);
        self.shared.facts.retain(|facts| Arc::strong_count(facts) > 1);
    }

    fn compile_service(&mut self, inventory: &Inventory, hostname: &Arc<str>, subsets: &[Subset]) -> Compiled {
        if inventory.definitions(hostname).next().is_none() {
            return self.compile_entries(inventory, hostname, subsets);
        }
        let Views { views, mut facts, refused_exports } = service::views(inventory, hostname, subsets);
        let address = match views.iter().any(ServiceView::needs_address) {
            true => self.addresses.of(hostname),
            false => {
                self.addresses.release(hostname);
                None
            }
        };
        facts.clusterset = address.filter(|_| views.iter().any(ServiceView::has_clusterset_address));
        let facts = (!views.is_empty()).then(|| one_copy(&mut self.shared.facts, facts));
        let (mut resources, mut endpoints) = (Vec::with_capacity(views.len()), Vec::new());
        for view in views {
            resources.push(view.resource(address.filter(|_| view.needs_address())));
            endpoints.extend(view.endpoints(&mut self.shared));
        }
        let service = CompiledService { hostname: hostname.clone(), endpoints, facts };
        Compiled { resources, service: Some(service), refused_exports, ..Compiled::default() }
    }

    /// Compiles the services of the ServiceEntries of a host that is no Kubernetes Service.
    fn compile_entries(&mut self, inventory: &Inventory, host: &Arc<str>, subsets: &[Subset]) -> Compiled {
        let entries = Entries::of(inventory, host);
        let address = match entries.needs_address() {
            true => self.addresses.of(host),
            false => {
                self.addresses.release(host);
                None
            }
        };
        let service = CompiledService { hostname: host.clone(), endpoints: Vec::new(), facts: None };
        Compiled { resources: entries.resources(subsets, address), service: Some(service), ..Compiled::default() }
    }
}
