//! A network's east-west gateways.
//!
//! As in Istio, a Service labelled `topology.istio.io/network` is a gateway of that network, at its LoadBalancer's and
//! external addresses, on port 15443 or the port of the label `networking.istio.io/gatewayPort`, which it has to expose. A
//! Service without these addresses and with the annotation `traffic.istio.io/nodeSelector` is one at the addresses of the
//! nodes with these labels (`{}`: all), on the port's node port. Only
//! a cluster that may name the network is believed ([`crate::inventory::networks`]). Host names of LoadBalancers are not
//! resolved: a gateway without an address is not used, and a notice reports it.

use std::net::IpAddr;

use prost::Message;
use wire::discovery::{GatewayAddress, Locality, NetworkGateway};
use wire::{Kind, name};

use super::resource::Resource;
use super::workload;
use crate::inventory::{ClusterInventory, Inventory, only_by_name, unreachable_gateway};
use crate::objects::{Key, Node, Record as _, Service, Text};

/// Compiles the gateways of a network. Returns `None` if it has none.
pub(super) fn compile(inventory: &Inventory, network: &Text) -> Option<Resource> {
    let mut found: Vec<(IpAddr, Key, GatewayAddress)> = Vec::new();
    let clusters = inventory.clusters().filter(|of| inventory.networks().may_name(&of.info.name, network));
    for cluster in clusters {
        for service in cluster.gateway_services().filter(|of| of.network.as_ref() == Some(network)) {
            let key = &service.key();
            let port = service.gateway_port();
            if !service.ports.iter().any(|exposed| exposed.number == port) {
                continue;
            }
            if only_by_name(service) {
                tracing::warn!(cluster = %cluster.info.name, "{}", unreachable_gateway(key, service, network));
            }
            found.extend(service.external_ips.iter().map(|ip| (*ip, key.clone(), address(cluster, key, *ip, port))));
            found.extend(at_nodes(cluster, service).map(|address| (address.0, key.clone(), address.1)));
        }
    }
    found.sort_by(|(ip, key, a), (other, of, b)| (ip, a.port, &a.cluster, key).cmp(&(other, b.port, &b.cluster, of)));
    found.dedup_by(|(ip, _, a), (other, _, b)| ip == other && a.port == b.port);
    if found.is_empty() {
        return None;
    }
    let addresses = found.into_iter().map(|(_, _, address)| address).collect();
    let body = NetworkGateway { network: network.to_string(), addresses };
    Some(Resource::for_all(Kind::NetworkGateway, network, body.encode_to_vec()))
}

/// The number of nodes at which one gateway is reached. Clients balance between them; each leads to all of the gateway's pods.
const MAX_NODES: usize = 16;

/// Returns the addresses of a gateway at nodes.
fn at_nodes(cluster: &ClusterInventory, service: &Service) -> impl Iterator<Item = (IpAddr, GatewayAddress)> {
    let port = service.gateway_node_port();
    let mut nodes: Vec<&Node> = port.into_iter().flat_map(|_| cluster.nodes_selected_by(service)).collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes.truncate(MAX_NODES);
    nodes.into_iter().flat_map(move |node| {
        node.addresses.iter().map(move |ip| {
            let Node { region, zone, subzone, .. } = node;
            let locality =
                Locality { region: region.to_string(), zone: zone.to_string(), subzone: subzone.to_string() };
            let address = GatewayAddress {
                ip: name::ip_to_bytes(*ip),
                port: port.unwrap_or_default().into(),
                cluster: cluster.info.name.to_string(),
                locality: Some(locality),
            };
            (*ip, address)
        })
    })
}

/// The gateway has the locality of its first pod.
fn address(cluster: &ClusterInventory, key: &Key, ip: IpAddr, port: u16) -> GatewayAddress {
    let endpoint = cluster.slices_of(key).flat_map(|slice| &slice.endpoints).min_by_key(|endpoint| endpoint.ip);
    let locality = endpoint.map(|endpoint| {
        let pod = endpoint.pod.as_ref().map(|pod| Key { namespace: key.namespace.clone(), name: pod.clone() });
        workload::location(cluster, pod.and_then(|pod| cluster.pods().get(&pod)), Some(endpoint)).locality()
    });
    GatewayAddress { ip: name::ip_to_bytes(ip), port: port.into(), cluster: cluster.info.name.to_string(), locality }
}
