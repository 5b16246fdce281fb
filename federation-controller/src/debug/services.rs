//! The page `/debug/service-table`: who exports each Kubernetes service, and who imports it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use wire::Kind;
use wire::delta::{Body, Found as _};

use crate::discovery::Shared;
use crate::inventory::{ClusterInventory, Definition, Inventory};
use crate::objects::Record as _;
use crate::publish::{Found, Store};

/// The largest number of services on the page.
const MAX_ROWS: usize = 10_000;

/// The page `/debug/service-table`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServicesPage {
    /// The Kubernetes services of all clusters, by hostname.
    pub services: Vec<ServiceRow>,
    /// The number of services that are not listed, because there are too many.
    pub omitted: usize,
}

/// A service in `/debug/service-table`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// The hostname.
    pub hostname: String,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// Whether it belongs to Kubernetes or to the mesh itself.
    pub system: bool,
    /// The ports, as `<number>/<name> <protocol>`: those of the exported service, else of the first cluster.
    pub ports: Vec<String>,
    /// What each cluster has to do with the service: those that define or import it.
    pub clusters: BTreeMap<String, ServiceInCluster>,
    /// The differences between the clusters' definitions, and the definition that is used.
    pub conflicts: Vec<String>,
}

/// What a cluster has to do with a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceInCluster {
    /// Whether the cluster defines the service.
    pub defined: bool,
    /// Why the cluster exports the service; `None`: it does not.
    pub exported: Option<String>,
    /// Whether the cluster's proxies use the service of other clusters.
    pub imported: bool,
    /// The number of ready endpoints; `None` if the cluster does not define the service, or has not been listed.
    pub ready_endpoints: Option<usize>,
}

/// What the published resources of a hostname say.
#[derive(Default)]
struct PublishedService {
    ports: Vec<String>,
    /// A service that clusters share comes first.
    shared: bool,
    importers: BTreeSet<String>,
}

/// Returns the page.
pub(super) fn table(shared: &Shared) -> ServicesPage {
    let inventory = shared.state.inventory();
    let store = shared.state.store();
    let mut published: BTreeMap<String, PublishedService> = BTreeMap::new();
    for found in store.all(Kind::Service) {
        note(&found, &inventory, &mut published);
    }
    let mut services = Vec::new();
    for (hostname, of) in published {
        // The hosts of ServiceEntries are no services of a cluster.
        services.extend(row(&inventory, &store, &hostname, of));
    }
    let omitted = services.len().saturating_sub(MAX_ROWS);
    services.truncate(MAX_ROWS);
    ServicesPage { services, omitted }
}

/// Notes a published service: its ports, and the clusters whose proxies receive it with endpoints of others.
fn note(found: &Found<'_>, inventory: &Inventory, published: &mut BTreeMap<String, PublishedService>) {
    let Ok(Body::Service(service)) = Body::decode(Kind::Service, Kind::Service.url(), found.body()) else { return };
    let of = published.entry(service.hostname.clone()).or_default();
    let shared = !service.exports.is_empty();
    if of.ports.is_empty() || (shared && !of.shared) {
        let port =
            |port: &wire::discovery::Port| format!("{}/{} {}", port.number, port.name, port.protocol().as_str_name());
        of.ports = service.ports.iter().map(port).collect();
        of.shared = shared;
    }
    for cluster in inventory.clusters().map(|cluster| &cluster.info.name) {
        let from_others = service.exports.iter().any(|export| *export.cluster != **cluster);
        if from_others && found.audience().includes_cluster(cluster) {
            of.importers.insert(cluster.to_string());
        }
    }
}

fn row(inventory: &Inventory, store: &Store, hostname: &str, of: PublishedService) -> Option<ServiceRow> {
    let definitions: Vec<Definition<'_>> = inventory.definitions(hostname).filter(|of| !of.service.external).collect();
    let key = definitions.first()?.service.key();
    let facts = store.facts(hostname).cloned().unwrap_or_default();
    let mut clusters: BTreeMap<String, ServiceInCluster> = BTreeMap::new();
    for definition in &definitions {
        let cluster: &ClusterInventory = definition.cluster;
        let ready = cluster.ready_endpoints(&key);
        let exported = facts.exports.iter().find(|(name, _)| *name == cluster.info.name);
        let row = clusters.entry(cluster.info.name.to_string()).or_default();
        row.defined = true;
        row.exported = exported.map(|(_, reason)| reason.as_str().to_owned());
        // Before the first full list, zero means unknown.
        row.ready_endpoints = (cluster.synced() || ready > 0).then_some(ready);
    }
    for importer in of.importers {
        clusters.entry(importer).or_default().imported = true;
    }
    Some(ServiceRow {
        hostname: hostname.to_owned(),
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        system: super::pages::is_system(inventory, &key),
        ports: of.ports,
        clusters,
        conflicts: facts.conflicts.clone(),
    })
}
