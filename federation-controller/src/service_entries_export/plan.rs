//! Which ServiceEntries each cluster is to have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::service_entry_export::{EXPORT_TO_CLUSTERS, ExportSettings, ExportedService, objects};
use serde_json::Value;

use super::facts::{self, Unreachable};
use crate::inventory::{ClusterInventory, Inventory, NoticedKind, OWN_SERVICES, ObjectNotice};
use crate::objects::{Export, Key, Kind, MAX_TARGETS, Record as _, Text};
use crate::publish::Store;

/// The number of services that one cluster may have written to another one.
const SERVICES: usize = 1_000;
/// The number of notices of one cluster.
const NOTICES: usize = 100;

/// What one cluster is to have.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Wanted {
    /// A ServiceEntry and a DestinationRule, by their namespace and name.
    pub(crate) objects: BTreeMap<Key, [Value; 2]>,
    /// The names of objects that stay as they are: their services are exported and cannot be reached now.
    pub(crate) kept: BTreeSet<Key>,
    /// What is known of the clusters that objects are exported from.
    pub(crate) known: Arc<Known>,
}

impl Wanted {
    /// Returns whether the cluster is to have nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.kept.is_empty()
    }

    /// Returns the names of the objects.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Key> {
        self.objects.keys().chain(&self.kept)
    }
}

/// Which clusters are joined, and which of them are known in full.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// Whether all joined clusters are known.
    pub(crate) listed: bool,
    /// The joined clusters, each with whether it has been listed in full since the start.
    pub(crate) joined: BTreeMap<Text, bool>,
}

impl Known {
    /// Returns whether it is certain that a cluster exports nothing but what is known.
    pub(crate) fn is_certain(&self, cluster: &str) -> bool {
        self.joined.get(cluster).copied().unwrap_or(self.listed)
    }
}

/// What all clusters are to have.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    targets: BTreeMap<Text, Wanted>,
    known: Arc<Known>,
    /// The exports that are not written.
    refused: BTreeSet<ObjectNotice>,
    /// The exports that an object is of, by cluster, namespace and name.
    exports: BTreeMap<(Text, Key), Vec<(Text, Key)>>,
}

impl Plan {
    /// Returns what a cluster is to have.
    pub(crate) fn of(&self, target: &Text) -> Wanted {
        let nothing = || Wanted { known: self.known.clone(), ..Wanted::default() };
        self.targets.get(target).cloned().unwrap_or_else(nothing)
    }

    /// Returns the notices: what is refused, and what could not be written, by cluster and object.
    pub(crate) fn notices(&self, failed: &BTreeMap<(Text, Key), String>) -> BTreeSet<ObjectNotice> {
        let mut all = self.refused.clone();
        for (written, why) in failed {
            for (cluster, export) in self.exports.get(written).into_iter().flatten() {
                all.insert(notice(cluster, export, &written.0, why));
            }
        }
        let mut counts: BTreeMap<Text, usize> = BTreeMap::new();
        all.retain(|notice| {
            let count = counts.entry(notice.cluster.clone()).or_default();
            *count += 1;
            *count <= NOTICES
        });
        all
    }

    fn refuse(&mut self, cluster: &Text, export: &Key, target: &str, why: &str) {
        self.refused.insert(notice(cluster, export, target, why));
    }
}

fn notice(cluster: &Text, export: &Key, target: &str, why: &str) -> ObjectNotice {
    ObjectNotice {
        cluster: cluster.clone(),
        kind: NoticedKind::Watched(Kind::Export),
        object: export.clone(),
        message: format!("ServiceExport {export}: no ServiceEntry of it is kept in cluster {target}: {why}"),
    }
}

/// Returns what each cluster is to have. What `known` says of a cluster is published.
pub(crate) fn plan(inventory: &Inventory, store: &Store, known: Known) -> Plan {
    let mut plan = Plan { known: Arc::new(known), ..Plan::default() };
    let mut found: BTreeMap<(Text, Key), Vec<Option<ExportedService>>> = BTreeMap::new();
    for cluster in inventory.clusters().filter(|cluster| !has_controller(inventory, cluster)) {
        let name = &cluster.info.name;
        let mut counts: BTreeMap<&Text, usize> = BTreeMap::new();
        let mut exports: Vec<&Export> = cluster.exports().values().filter(|export| !export.to.is_empty()).collect();
        exports.sort_by_key(|export| export.key());
        for (key, target) in
            exports.iter().flat_map(|export| export.to.iter().map(move |target| (export.key(), target)))
        {
            let count = counts.entry(target).or_default();
            let why = match refusal(inventory, cluster, &key, target) {
                None if *count == SERVICES => {
                    Some(format!("cluster {name} has {SERVICES} other services written there, which is the limit"))
                }
                refused => refused,
            };
            if let Some(why) = why {
                plan.refuse(name, &key, target, &why);
                continue;
            }
            let service = match facts::exported(inventory, store, cluster, &key, Some(target)) {
                Some(Ok(service)) => Some(service),
                Some(Err(Unreachable::For(why))) => {
                    plan.refuse(name, &key, target, &why);
                    None
                }
                Some(Err(Unreachable::NotPermitted)) => {
                    plan.refuse(name, &key, target, "that cluster is not permitted to use the service");
                    continue;
                }
                // Another notice says why the cluster does not export it.
                None => continue,
            };
            *count += 1;
            let of = (target.clone(), key.clone());
            plan.exports.entry(of.clone()).or_default().push((name.clone(), key));
            found.entry(of).or_default().push(service);
        }
    }
    plan.add(inventory, found);
    plan
}

impl Plan {
    /// Adds the objects of services, and gives the exports of each the name of its objects.
    fn add(&mut self, inventory: &Inventory, found: BTreeMap<(Text, Key), Vec<Option<ExportedService>>>) {
        let own = &inventory.settings().cluster;
        let mut exports = BTreeMap::new();
        for ((target, key), services) in found {
            let wanted = self
                .targets
                .entry(target.clone())
                .or_insert_with(|| Wanted { known: self.known.clone(), ..Wanted::default() });
            let named = ExportedService {
                namespace: key.namespace.to_string(),
                name: key.name.to_string(),
                ..ExportedService::default()
            };
            let name = Key::new(&key.namespace, &ExportSettings::of_controller(&named, own).object_name);
            match ExportedService::merged(services.into_iter().flatten()) {
                Some(service) => {
                    let settings = ExportSettings::of_controller(&service, own);
                    wanted.objects.insert(name.clone(), objects(&service, &settings));
                }
                None => drop(wanted.kept.insert(name.clone())),
            }
            if let Some(of) = self.exports.remove(&(target.clone(), key)) {
                exports.insert((target, name), of);
            }
        }
        self.exports = exports;
    }
}

/// Returns whether another cluster has a controller of its own, which keeps the ServiceEntries of its exports.
fn has_controller(inventory: &Inventory, cluster: &ClusterInventory) -> bool {
    let controller = Key::new(&inventory.settings().namespace, OWN_SERVICES[0].0);
    // In a cluster without one, a Service of this name has no selector: it is the way to the primary's.
    !cluster.info.own && cluster.services().get(&controller).is_some_and(|service| service.selects)
}

/// Returns why a service is not written to a cluster, whatever its endpoints are.
fn refusal(inventory: &Inventory, cluster: &ClusterInventory, key: &Key, target: &Text) -> Option<String> {
    if *target == cluster.info.name {
        return Some("it is the cluster that exports it".into());
    }
    if cluster
        .exports()
        .get(key)
        .is_some_and(|export| export.to.iter().position(|of| of == target) >= Some(MAX_TARGETS))
    {
        return Some(format!("the annotation {EXPORT_TO_CLUSTERS} names more than {MAX_TARGETS} clusters"));
    }
    let Some(importing) = inventory.cluster(target) else {
        let joined: Vec<&str> = inventory.clusters().map(|cluster| &*cluster.info.name).take(20).collect();
        return Some(format!("no cluster of that name is joined; joined are {}", joined.join(", ")));
    };
    importing.services().get(key).map(|_| {
        format!(
            "it has a Service {key} of its own, whose pods the DestinationRule would apply to as well; delete that Service"
        )
    })
}
