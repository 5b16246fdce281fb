//! Who may consume an export: the views of a service that is exported to some clusters, the addresses from which gateways accept
//! connections to it, and the clusters whose workloads may call its pods.

use std::collections::{BTreeMap, BTreeSet};

use wire::discovery::{AddressRange, Callers, SourceAddresses};
use wire::name;

use super::resource::Audience;
use crate::inventory::export;
use crate::inventory::{ClusterInventory, Consumers, Definition, Inventory};
use crate::objects::{Key, Record as _, Text};

/// The views of exported definitions, of which not every cluster may consume each.
pub(super) struct Audiences {
    /// One for each set of definitions that some clusters may consume.
    pub(super) groups: Vec<AudienceGroup>,
}

/// The clusters that may consume the same definitions.
pub(super) struct AudienceGroup {
    /// Their proxies.
    pub(super) audience: Audience,
    /// The positions of the definitions.
    pub(super) definitions: Vec<usize>,
    /// The clusters whose endpoints are compiled with the view, each with the proxies that may receive them: of each definition
    /// with one view.
    pub(super) published: Vec<(Text, Audience)>,
}

impl Audiences {
    /// Groups the clusters by the definitions that they may consume, without those that have a definition of their own. A
    /// cluster consumes its own export in any case. `None`: every cluster may consume all of them.
    pub(super) fn of(inventory: &Inventory, exported: &[Definition<'_>], others: &[Text]) -> Option<Audiences> {
        if !inventory.has_federation_policies() {
            return None;
        }
        let consumers: Vec<Consumers> = exported.iter().map(|of| consumers(inventory, *of)).collect();
        if consumers.iter().all(Consumers::is_all) {
            return None;
        }
        let mut visible: BTreeMap<Vec<usize>, Vec<Text>> = BTreeMap::new();
        let mut audiences: Vec<Vec<Text>> = vec![Vec::new(); exported.len()];
        for name in inventory.clusters().map(|cluster| &cluster.info.name).filter(|name| !others.contains(name)) {
            let sees = |at: &usize| exported[*at].cluster.info.name == *name || consumers[*at].include(name);
            let seen: Vec<usize> = (0..exported.len()).filter(sees).collect();
            seen.iter().for_each(|at| audiences[*at].push(name.clone()));
            if !seen.is_empty() {
                visible.entry(seen).or_default().push(name.clone());
            }
        }
        let mut published = BTreeSet::new();
        let groups = visible.into_iter().map(|(definitions, clusters)| {
            let new = definitions.iter().filter(|at| published.insert(**at));
            let published = new.map(|at| {
                let proxies = Audience::Clusters(audiences[*at].as_slice().into());
                (exported[*at].cluster.info.name.clone(), proxies)
            });
            let published = published.collect();
            AudienceGroup { audience: Audience::Clusters(clusters.into()), definitions, published }
        });
        Some(Audiences { groups: groups.collect() })
    }
}

/// Returns the clusters that may consume an exported definition. Every proxy connects to the controller.
fn consumers(inventory: &Inventory, definition: Definition<'_>) -> Consumers {
    let key = definition.service.key();
    match export::is_own(inventory, &key) {
        true => Consumers::All,
        false => inventory.consumers(&definition.cluster.info.name, &key),
    }
}

/// Returns the addresses from which the gateways of a cluster accept connections to an export; `None`: any.
pub(super) fn sources(inventory: &Inventory, cluster: &Text, service: &Key) -> Option<SourceAddresses> {
    if !inventory.has_federation_policies() || export::is_own(inventory, service) {
        return None;
    }
    let blocks = inventory.source_blocks(cluster, &inventory.consumers(cluster, service))?;
    let ranges = |of: &[(std::net::IpAddr, u8)]| -> Vec<AddressRange> {
        of.iter().map(|(ip, length)| AddressRange { ip: name::ip_to_bytes(*ip), length: (*length).into() }).collect()
    };
    Some(SourceAddresses {
        permitted: ranges(&blocks.permitted),
        refused: ranges(&blocks.refused),
        permitted_only: blocks.complete,
    })
}

/// Returns the clusters whose workloads may call a port of a pod that serves these services; `None`: all of them.
///
/// Plaintext proves no cluster. It is accepted where it can only come from the pod's own cluster: no cluster that may not call
/// is on the pod's network, or may be.
pub(super) fn callers(
    inventory: &Inventory,
    cluster: &ClusterInventory,
    network: &Text,
    services: &[Key],
) -> Option<Callers> {
    if !inventory.has_federation_policies() {
        return None;
    }
    let of_mesh = services.iter().filter(|service| !export::is_own(inventory, service));
    let exported = |service: &Key| {
        let definition = cluster.services().get(service).map(|service| Definition { cluster, service });
        let hostname = inventory.settings().hostname(service);
        definition.is_some_and(|of| match export::decide(inventory, of, &hostname) {
            Ok(reason) => reason.is_some(),
            // Limits do not decide who may call, so that a pod of many does not change the others.
            Err((refusal, _)) => refusal.is_limit(),
        })
    };
    let permitted = inventory.callers(cluster, of_mesh.map(|service| (service, exported(service))))?;
    let plaintext = !inventory.shares_network(network, &permitted);
    Some(Callers { clusters: permitted.iter().map(|cluster| cluster.to_string()).collect(), plaintext })
}
