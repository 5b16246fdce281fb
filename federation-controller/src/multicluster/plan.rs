//! What is to be written in each cluster, from the inventory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::constituents::{self, Standing};
use super::merge::{Merged, merge};
use super::objects::{Condition, ExportStatus, Import};
use super::slices::{self, NamedSlice, SourceSlices};
use crate::compile::address;
use crate::inventory::{ClusterInventory, Inventory, OWN_SERVICES};
use crate::objects::{Export, IpFamily, Key, Record as _, Text};

/// What is to be written in all clusters.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) clusters: BTreeMap<Text, ClusterPlan>,
    /// The clusters whose exports are not known yet. What is written of them stays as it is.
    pub(super) unknown: BTreeSet<Text>,
}

/// What is to be written in one cluster.
#[derive(Debug, Default)]
pub(super) struct ClusterPlan {
    /// Whether another controller of the mesh writes in the cluster: its own one.
    pub(super) written_by_itself: bool,
    pub(super) exports: BTreeMap<Key, ExportStatus>,
    pub(super) imports: BTreeMap<Key, Arc<Import>>,
    pub(super) slices: BTreeMap<Key, Arc<NamedSlice>>,
}

/// Returns the clusters, without objects.
pub(super) fn clusters(inventory: &Inventory) -> Plan {
    let mut plan = Plan::default();
    for cluster in inventory.clusters() {
        let name = cluster.info.name.clone();
        if !cluster.synced() && !cluster.restored {
            plan.unknown.insert(name.clone());
        }
        let written_by_itself = has_own_controller(inventory, cluster);
        plan.clusters.insert(name, ClusterPlan { written_by_itself, ..ClusterPlan::default() });
    }
    plan
}

/// Returns whether a remote cluster has a controller of its own: the Service of one that selects pods. Elsewhere that Service
/// leads to the primary.
fn has_own_controller(inventory: &Inventory, cluster: &ClusterInventory) -> bool {
    let key = Key::new(&inventory.settings().namespace, OWN_SERVICES[0].0);
    !cluster.info.own && cluster.services().get(&key).is_some_and(|service| service.selects)
}

/// Returns the names of all services with a ServiceExport.
pub(super) fn exported(inventory: &Inventory) -> BTreeSet<Key> {
    inventory.clusters().flat_map(|cluster| cluster.exports().values().map(|export| export.key())).collect()
}

/// Adds what is to be written of one service. `address` is the one that was allocated for it.
pub(super) fn add(plan: &mut Plan, inventory: &Inventory, key: &Key, address: Option<Ipv4Addr>) {
    let exports = inventory.clusters().filter_map(|cluster| Some((cluster, cluster.exports().get(key)?)));
    let standings: Vec<_> =
        exports.map(|(cluster, export)| (cluster, export, constituents::of(inventory, cluster, export))).collect();
    let mut services = Services { inventory, key, standings: &standings, known: Vec::new() };
    let importing = inventory.clusters().filter(|cluster| cluster.namespaces().named(&key.namespace).is_some());
    let importers: Vec<(&ClusterInventory, Arc<Shared<'_>>)> =
        importing.filter_map(|cluster| Some((cluster, services.of_consumer(&cluster.info.name)?))).collect();
    let all = merge(standings.iter().filter_map(|(_, _, standing)| standing.constituent().cloned()).collect());
    let mut importing: BTreeMap<&Text, usize> = BTreeMap::new();
    for name in importers.iter().flat_map(|(_, shared)| &shared.merged.clusters) {
        *importing.entry(name).or_default() += 1;
    }
    for (cluster, export, standing) in &standings {
        let left_out = export.exported.as_ref().map_or(0, |of| of.left_out);
        let name = &cluster.info.name;
        let importers = importing.get(name).copied().unwrap_or_default();
        let conditions = conditions(standing, all.as_ref(), address, importers, left_out);
        if let Some(of) = plan.clusters.get_mut(name) {
            of.exports.insert(key.clone(), ExportStatus { uid: export.uid, conditions });
        }
    }
    let mut imports: Vec<(Arc<Import>, ImportOf, Arc<Shared<'_>>)> = Vec::new();
    for (cluster, shared) in importers {
        let Some(of) = plan.clusters.get_mut(&cluster.info.name) else { continue };
        let mut reachable = Vec::new();
        let mut beyond = Vec::new();
        for (source, slices) in &shared.sources {
            let own = source.info.name == cluster.info.name;
            let network = Some(cluster.network().clone()).filter(|network| !network.is_empty());
            let local = shared.merged.local || source.services().get(key).is_some_and(|service| service.node_local);
            let slices = match (own, network, local) {
                (true, ..) => slices.get(&None),
                (false, Some(network), false) => slices.get(&Some(network)),
                _ => None,
            };
            reachable.extend(slices.map(|slices| (&source.info.name, &slices[..])));
            let shares = own || (!cluster.network().is_empty() && cluster.network() == source.network());
            if !shares {
                beyond.push(source);
            }
        }
        slices::withdraw(inventory.leases(), &cluster.info.name, &mut reachable);
        let has_slices = reachable.iter().any(|(_, slices)| !slices.is_empty());
        of.slices.extend(reachable.into_iter().flat_map(|(_, slices)| slices).map(|slice| {
            let name = Key { namespace: key.namespace.clone(), name: slice.name.clone() };
            (name, slice.clone())
        }));
        let beyond = beyond.iter().map(|source| (source.info.name.clone(), source.network().clone())).collect();
        let wanted = ImportOf { families: families(cluster), has_slices, beyond };
        // Most clusters have the same import.
        let known = imports.iter().find(|(_, known, of)| *known == wanted && Arc::ptr_eq(of, &shared));
        let import = match known {
            Some((import, ..)) => import.clone(),
            None => {
                let import = Arc::new(wanted.import(&shared.merged, address));
                imports.push((import.clone(), wanted, shared));
                import
            }
        };
        of.imports.insert(key.clone(), import);
    }
}

/// An export of a cluster, and what it stands for.
type Exported<'a> = (&'a ClusterInventory, &'a Export, Standing);

/// The service of the exports that some clusters may consume.
struct Shared<'a> {
    merged: Merged,
    sources: Vec<(&'a ClusterInventory, SourceSlices)>,
}

/// The service for each set of clusters that may consume the same exports. Without FederationPolicies there is one.
struct Services<'a> {
    inventory: &'a Inventory,
    key: &'a Key,
    standings: &'a [Exported<'a>],
    /// By whether each export is one of them.
    known: Vec<(Vec<bool>, Arc<Shared<'a>>)>,
}

impl<'a> Services<'a> {
    /// Returns the service as a cluster may consume it: its own export, and those of others that permit it. `None`: there is
    /// none.
    fn of_consumer(&mut self, cluster: &Text) -> Option<Arc<Shared<'a>>> {
        let consumed = |(source, _, standing): &Exported<'a>| match standing {
            Standing::Merged { consumers, .. } => source.info.name == *cluster || consumers.include(cluster),
            _ => false,
        };
        let of: Vec<bool> = self.standings.iter().map(consumed).collect();
        if let Some((_, shared)) = self.known.iter().find(|(known, _)| *known == of) {
            return Some(shared.clone());
        }
        let consumed = self.standings.iter().zip(&of).filter(|(_, consumed)| **consumed);
        let merged = merge(consumed.filter_map(|((_, _, standing), _)| standing.constituent().cloned()).collect())?;
        let sources = merged.clusters.iter().filter_map(|name| self.inventory.cluster(name));
        let sources = sources.map(|source| (source, slices::of_source(self.inventory, source, self.key, &merged)));
        let shared = Arc::new(Shared { sources: sources.collect(), merged });
        self.known.push((of, shared.clone()));
        Some(shared)
    }
}

/// What the import of one cluster depends on beside the merged service.
#[derive(PartialEq, Eq)]
struct ImportOf {
    families: Vec<IpFamily>,
    has_slices: bool,
    /// The exporting clusters of other networks, with these.
    beyond: Vec<(Text, Text)>,
}

impl ImportOf {
    fn import(&self, merged: &Merged, address: Option<Ipv4Addr>) -> Import {
        let usable: Vec<IpFamily> =
            merged.families.iter().copied().filter(|family| self.families.contains(family)).collect();
        let of_family = |family: IpFamily, address: Ipv4Addr| match family {
            IpFamily::V4 => IpAddr::from(address),
            IpFamily::V6 => address::ipv6(address),
        };
        let addresses: Vec<(IpFamily, IpAddr)> = match (merged.headless, address) {
            (false, Some(address)) => usable.iter().map(|family| (*family, of_family(*family, address))).collect(),
            _ => Vec::new(),
        };
        Import::new(merged, &addresses, self.has_slices, self.ready(merged, &usable, address))
    }

    fn ready(&self, merged: &Merged, usable: &[IpFamily], address: Option<Ipv4Addr>) -> Condition {
        if usable.is_empty() {
            let families: Vec<&str> = merged.families.iter().map(|family| family.as_str()).collect();
            let message = format!("the service has {} alone, which the cluster has not", families.join(" and "));
            return Condition::new("Ready", "False", "IPFamilyNotSupported", message);
        }
        if merged.local {
            let message = "the service has internalTrafficPolicy Local: no other cluster uses its endpoints";
            return Condition::new("Ready", "False", "Pending", message);
        }
        if !merged.headless && address.is_none() {
            return Condition::new("Ready", "False", "Pending", "no clusterset address is allocated yet");
        }
        let message = match self.beyond.len() {
            0 => String::new(),
            beyond => {
                let shown: Vec<String> =
                    self.beyond.iter().take(SHOWN).map(|(cluster, network)| shown(cluster, network)).collect();
                let more = if beyond > SHOWN { format!(" and {} more", beyond - SHOWN) } else { String::new() };
                format!(
                    "pods with a sidecar reach all endpoints; others do not reach those of {}{more}, which are behind gateways",
                    shown.join(", ")
                )
            }
        };
        Condition::new("Ready", "True", "Ready", message)
    }
}

/// The number of clusters that a message names.
const SHOWN: usize = 3;

fn shown(cluster: &str, network: &str) -> String {
    if network.is_empty() { format!("{cluster} (network unknown)") } else { format!("{cluster} (network {network})") }
}

/// Returns the IP families of a cluster's Services: those of the API server's own, and IPv6 if any Service has it.
fn families(cluster: &ClusterInventory) -> Vec<IpFamily> {
    let api_server = cluster.services().get(&Key::new("default", "kubernetes"));
    let only_ipv6 =
        api_server.is_some_and(|of| !of.cluster_ips.is_empty() && of.cluster_ips.iter().all(IpAddr::is_ipv6));
    let ipv4 = (!only_ipv6).then_some(IpFamily::V4);
    ipv4.into_iter().chain(cluster.uses_ipv6().then_some(IpFamily::V6)).collect()
}

/// Returns the conditions of an export.
fn conditions(
    standing: &Standing,
    merged: Option<&Merged>,
    address: Option<Ipv4Addr>,
    importers: usize,
    left_out: u32,
) -> [Condition; 3] {
    let none = || Condition::new("Conflict", "False", "NoConflicts", "");
    let failed = |why: &str| Condition::new("Ready", "False", "Failed", why);
    let valid = || Condition::new("Valid", "True", "Valid", "");
    match standing {
        Standing::NoService => {
            let why = "the cluster has no Service of this name";
            [Condition::new("Valid", "False", "NoService", why), failed(why), none()]
        }
        Standing::InvalidType => {
            let why = "a Service of type ExternalName cannot be exported";
            [Condition::new("Valid", "False", "InvalidServiceType", why), failed(why), none()]
        }
        Standing::Refused(why) => [valid(), failed(why), none()],
        Standing::Merged { unused, .. } => {
            let ready = match (unused, merged) {
                (Some(why), _) => failed(why),
                (None, Some(merged)) if merged.headless || address.is_some() => {
                    let left_out = match left_out {
                        0 => String::new(),
                        count => format!("; {count} exported labels and annotations are invalid, and left out"),
                    };
                    let message = format!("exported to the mesh, imported by {importers} clusters{left_out}");
                    Condition::new("Ready", "True", "Exported", message)
                }
                _ => Condition::new("Ready", "False", "Pending", "no clusterset address is allocated yet"),
            };
            [valid(), ready, conflict(merged)]
        }
    }
}

fn conflict(merged: Option<&Merged>) -> Condition {
    let conflicts = merged.map(|merged| &merged.conflicts[..]).unwrap_or_default();
    if conflicts.is_empty() {
        return Condition::new("Conflict", "False", "NoConflicts", "");
    }
    let reasons: Vec<&str> = conflicts.iter().map(|of| of.reason).collect();
    let messages: Vec<&str> = conflicts.iter().map(|of| of.message.as_str()).collect();
    Condition::new("Conflict", "True", &reasons.join(","), messages.join(" "))
}

#[cfg(test)]
pub(super) mod tests;
