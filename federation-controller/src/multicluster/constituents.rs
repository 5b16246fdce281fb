//! What each ServiceExport stands for: an export that is merged with those of other clusters, or the reason why it is not.

use super::merge::{Affinity, Constituent};
use crate::inventory::{ClusterInventory, Inventory};
use crate::objects::{Export, Key, Record as _, Service};

/// What an export stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// It is one of the exports that are merged. `unused` says why no other cluster uses its endpoints.
    Merged { constituent: Box<Constituent>, unused: Option<&'static str> },
    /// The cluster has no Service of its name.
    NoService,
    /// The Service has a type that cannot be exported.
    InvalidType,
    /// The mesh exports no such service.
    Refused(&'static str),
}

/// Returns what an export of a cluster stands for.
pub(super) fn of(inventory: &Inventory, cluster: &ClusterInventory, export: &Export) -> Standing {
    let key = &export.key();
    if let Some(why) = refusal(inventory, cluster, key) {
        return Standing::Refused(why);
    }
    let Some(service) = cluster.services().get(key) else { return Standing::NoService };
    if service.external {
        return Standing::InvalidType;
    }
    let unused = service
        .node_local
        .then_some("the Service has internalTrafficPolicy Local, so its endpoints serve their own node alone");
    Standing::Merged { constituent: Box::new(constituent(cluster, service, export)), unused }
}

/// Returns why the mesh never exports a service of this name from this cluster.
fn refusal(inventory: &Inventory, cluster: &ClusterInventory, key: &Key) -> Option<&'static str> {
    if &*key.namespace == "kube-system" {
        return Some("services of namespace kube-system are never exported");
    }
    if &*key.namespace == "default" && &*key.name == "kubernetes" {
        return Some("the API server's own Service is never exported");
    }
    let system = key.namespace == inventory.settings().namespace;
    (system && !cluster.info.own)
        .then_some("services of the components' namespace are not exported from other clusters")
}

fn constituent(cluster: &ClusterInventory, service: &Service, export: &Export) -> Constituent {
    let details = service.details.as_deref();
    Constituent {
        cluster: cluster.info.name.clone(),
        created: export.created,
        headless: service.headless,
        ports: service.declared_ports(),
        affinity: details.filter(|of| of.client_ip).map(|of| Affinity { timeout_seconds: of.timeout_seconds }),
        local: service.node_local,
        distribution: details.and_then(|of| of.traffic_distribution.clone()),
        families: service.ip_families(),
        exported: export.exported.as_deref().cloned().unwrap_or_default(),
    }
}
