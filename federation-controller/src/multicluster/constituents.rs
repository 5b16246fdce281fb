//! What each ServiceExport stands for: an export that is merged with those of other clusters, or the reason why it is not.

use std::borrow::Cow;

use super::merge::{Affinity, Constituent};
use crate::inventory::{ClusterInventory, Consumers, Inventory, RefusedExport, never_exported};
use crate::objects::{Export, Key, Record as _, Service};

/// What an export stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// It is one of the exports that are merged, for the clusters that may consume it. `unused` says why no other cluster uses
    /// its endpoints.
    Merged { constituent: Box<Constituent>, consumers: Consumers, unused: Option<&'static str> },
    /// The cluster has no Service of its name.
    NoService,
    /// The Service has a type that cannot be exported.
    InvalidType,
    /// The mesh exports no such service, or a FederationPolicy refuses the export.
    Refused(Cow<'static, str>),
}

impl Standing {
    /// Returns the export that is merged.
    pub(super) fn constituent(&self) -> Option<&Constituent> {
        match self {
            Standing::Merged { constituent, .. } => Some(constituent),
            _ => None,
        }
    }
}

/// Returns what an export of a cluster stands for.
pub(super) fn of(inventory: &Inventory, cluster: &ClusterInventory, export: &Export) -> Standing {
    let key = &export.key();
    if let Some(why) = refusal(inventory, cluster, key) {
        return Standing::Refused(why.into());
    }
    let Some(service) = cluster.services().get(key) else { return Standing::NoService };
    if service.external {
        return Standing::InvalidType;
    }
    let hostname = inventory.settings().hostname(key);
    if let Err((refusal, policy)) = inventory.may_export(cluster, service, &hostname) {
        let refused = RefusedExport { cluster: cluster.info.name.clone(), service: key.clone(), refusal, policy };
        return Standing::Refused(refused.text().into());
    }
    let unused = service
        .node_local
        .then_some("the Service has internalTrafficPolicy Local, so its endpoints serve their own node alone");
    let consumers = inventory.consumers(&cluster.info.name, key);
    Standing::Merged { constituent: Box::new(constituent(cluster, service, export)), consumers, unused }
}

/// Returns why the mesh never exports a service of this name from this cluster.
fn refusal(inventory: &Inventory, cluster: &ClusterInventory, key: &Key) -> Option<&'static str> {
    if never_exported(key) {
        return Some("services of namespace kube-system and default/kubernetes are never exported");
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
