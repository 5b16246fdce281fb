//! The endpoints of exporting clusters as EndpointSlices in the clusters that import them (KEP-1645, "using EndpointSlice
//! objects to track endpoints").
//!
//! A slice has endpoints of one cluster. It is written in the exporting cluster itself, and in the clusters of the same network,
//! where the addresses are reachable. Other networks reach the endpoints through gateways, by sidecars, and have no slice.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::merge::Merged;
use super::objects::{ImportedSlice, SliceConditions, SliceMember, SlicePort, digest};
use crate::inventory::{ClusterInventory, Inventory};
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
