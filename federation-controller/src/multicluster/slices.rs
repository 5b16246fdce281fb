//! The endpoints of exporting clusters as EndpointSlices in the clusters that import them (KEP-1645, "using EndpointSlice
//! objects to track endpoints").
//!
//! A slice has endpoints of one cluster. It is written in the exporting cluster itself, and in the clusters of the same network,
//! where the addresses are reachable. Other networks reach the endpoints through gateways, by sidecars, and have no slice.
//! Where the lease of the exporting cluster is over, the others keep its slices as long as they are the last with a ready
//! endpoint of a port.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::merge::Merged;
use super::objects::{ImportedSlice, SliceConditions, SliceMember, SlicePort, digest};
use crate::inventory::{ClusterInventory, Inventory};
use crate::leases::Leases;
use crate::objects::{DeclaredPort, Key, Slice, SliceEndpoint, Text, Transport};

/// A slice with its name and digest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct NamedSlice {
    pub(super) name: Text,
    pub(super) content: String,
    pub(super) slice: ImportedSlice,
}

/// The slices of one exporting cluster by the network in which they are reachable; under `None` those for the cluster itself.
pub(super) type SourceSlices = BTreeMap<Option<Text>, Vec<Arc<NamedSlice>>>;

/// The slices of an exporting cluster that are reachable in another one.
pub(super) type Reachable<'a> = (&'a Text, &'a [Arc<NamedSlice>]);

/// Removes the slices of clusters whose leases are over, unless they have the last ready endpoints of a port. Those of the
/// importing cluster itself stay.
pub(super) fn withdraw(leases: &Leases, importing: &Text, reachable: &mut Vec<Reachable<'_>>) {
    if !leases.any_expired() {
        return;
    }
    let is_over = |source: &Text| source != importing && leases.is_expired(source);
    let live = reachable.iter().filter(|(source, _)| !is_over(source));
    let live: HashSet<Offer> = live.flat_map(|(_, slices)| offers(slices)).collect();
    reachable.retain(|(source, slices)| !is_over(source) || offers(slices).any(|offer| !live.contains(&offer)));
}

/// A port of which a slice has a ready endpoint: its name and the family of addresses.
type Offer = (Text, &'static str);

fn offers(slices: &[Arc<NamedSlice>]) -> impl Iterator<Item = Offer> {
    let ready = slices.iter().filter(|of| of.slice.endpoints.iter().any(|endpoint| endpoint.conditions.ready));
    ready.flat_map(|of| of.slice.ports.iter().map(|port| (port.name.clone(), of.slice.family)))
}

/// Returns the slices of one exporting cluster.
pub(super) fn of_source(inventory: &Inventory, source: &ClusterInventory, key: &Key, merged: &Merged) -> SourceSlices {
    let Some(service) = source.services().get(key) else { return SourceSlices::new() };
    let declared = service.declared_ports();
    let mut found = SourceSlices::new();
    let mut slices: Vec<&Slice> = source.slices_of(key).collect();
    slices.sort_by(|a, b| a.name.cmp(&b.name));
    for slice in slices {
        let ports = ports(slice, &declared, merged);
        let mut by_network: BTreeMap<Option<Text>, Vec<SliceMember>> = BTreeMap::new();
        for endpoint in &slice.endpoints {
            let pod = endpoint.pod.as_ref().map(|pod| Key { namespace: key.namespace.clone(), name: pod.clone() });
            let pod = pod.and_then(|pod| source.pods().get(&pod));
            let Some(network) = inventory.networks().of_pod(source, pod) else { continue };
            let member = member(endpoint);
            if !network.is_empty() {
                by_network.entry(Some(network.clone())).or_default().push(member.clone());
            }
            by_network.entry(None).or_default().push(member);
        }
        for (network, endpoints) in by_network {
            let family = if endpoints.first().is_some_and(|of| of.addresses[0].is_ipv6()) { "IPv6" } else { "IPv4" };
            let slice_of = ImportedSlice {
                service: key.name.clone(),
                source: source.info.name.clone(),
                family,
                ports: ports.clone(),
                endpoints,
            };
            found.entry(network).or_default().push(Arc::new(named(key, source, slice, slice_of)));
        }
    }
    found
}

/// Returns a slice with its name: the service's, the cluster's, and a hash of both with the original's, so that it is found
/// again.
fn named(key: &Key, source: &ClusterInventory, of: &Slice, slice: ImportedSlice) -> NamedSlice {
    let hash = digest(&(&*key.name, &*source.info.name, &*of.name));
    let start: String = format!("{}-{}", key.name, source.info.name).chars().take(200).collect();
    NamedSlice { name: format!("{start}-{}", &hash[..8]).into(), content: digest(&slice), slice }
}

/// Returns the ports of a slice that are ports of the merged service. A port of this cluster that lost a clash is none.
fn ports(slice: &Slice, declared: &[DeclaredPort], merged: &Merged) -> Vec<SlicePort> {
    let tcp = slice.ports.iter().map(|(name, number)| (name, Transport::Tcp, *number));
    let others = slice.other_ports.iter().flatten().map(|of| (&of.name, of.transport, of.number));
    let all = tcp.chain(others);
    let used = all.filter_map(|(name, transport, number)| {
        let own = declared.iter().find(|of| of.name == *name && of.transport == transport)?;
        let of_service = merged.ports.iter().find(|of| **of == *own)?;
        Some(SlicePort {
            name: name.clone(),
            protocol: transport.as_str(),
            port: number,
            app_protocol: of_service.app_protocol.clone(),
        })
    });
    used.collect()
}

fn member(endpoint: &SliceEndpoint) -> SliceMember {
    SliceMember {
        addresses: [endpoint.ip],
        conditions: SliceConditions {
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
        },
        hostname: endpoint.hostname().cloned(),
        zone: endpoint.zone.clone(),
    }
}
