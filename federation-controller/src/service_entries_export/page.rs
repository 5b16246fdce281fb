//! The page `/debug/exports`, from which `isthmus export` makes ServiceEntries.

use api::service_entry_export::ExportedService;
use serde::{Deserialize, Serialize};

use super::facts::{self, Unreachable};
use crate::inventory::Inventory;
use crate::objects::Record as _;
use crate::publish::Store;

/// The page `/debug/exports`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExportsPage {
    /// The controller's own cluster.
    pub cluster: String,
    /// The names of all clusters.
    pub clusters: Vec<String>,
    /// The exported services, by cluster, namespace and name, without those of the controller itself.
    pub exports: Vec<ExportRow>,
}

/// A service that a cluster exports.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExportRow {
    /// The cluster.
    pub cluster: String,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// How others reach it; `None` if they cannot.
    pub service: Option<ExportedService>,
    /// Why others cannot reach it, and what to do.
    pub problem: Option<String>,
}

/// Returns the page.
pub(crate) fn page(inventory: &Inventory, store: &Store) -> ExportsPage {
    let mut exports = Vec::new();
    for cluster in inventory.clusters() {
        let mut keys: Vec<_> = cluster.services().values().map(|service| service.key()).collect();
        keys.sort();
        for key in keys {
            let Some(found) = facts::exported(inventory, store, cluster, &key, None) else { continue };
            let (service, problem) = match found {
                Ok(service) => (Some(service), None),
                Err(Unreachable::For(why)) => (None, Some(why)),
                // Without an importer nothing is refused.
                Err(Unreachable::NotPermitted) => continue,
            };
            exports.push(ExportRow {
                cluster: cluster.info.name.to_string(),
                namespace: key.namespace.to_string(),
                name: key.name.to_string(),
                service,
                problem,
            });
        }
    }
    ExportsPage {
        cluster: inventory.settings().cluster.to_string(),
        clusters: inventory.clusters().map(|cluster| cluster.info.name.to_string()).collect(),
        exports,
    }
}
