//! A network's east-west gateways, from the Services that say they are.
//!
//! As in Istio, a Service labelled `topology.istio.io/network` is a gateway of that
//! network, at its LoadBalancer's and external addresses, on port 15443 or what `networking.istio.io/gatewayPort` says; it
//! has to expose that port. Only a cluster that may speak for the network is believed ([`crate::inventory::networks`]). Host names of
//! LoadBalancers are not resolved: such a gateway is reported ([`crate::inventory::notices`]) and not used.

use std::net::IpAddr;

use prost::Message;
use wire::discovery::{GatewayAddress, NetworkGateway};
use wire::{Kind, name};

use super::workload;
use crate::inventory::cluster::ClusterIndex;
use crate::inventory::collection::Named as _;
use crate::inventory::networks::Homes;
use crate::inventory::{Key, notices};
use crate::objects::event::Text;
use crate::publish::Resource;

/// The port for mutual TLS between networks where no label says otherwise.
const GATEWAY_PORT: u16 = 15443;

/// What proxies are told of a network's gateways; `None` where it has none.
pub(crate) fn resource<'a>(
    clusters: impl Iterator<Item = &'a ClusterIndex>,
    network: &Text,
    homes: &Homes,
) -> Option<Resource> {
    let mut found: Vec<(IpAddr, Key, GatewayAddress)> = Vec::new();
    for cluster in clusters.filter(|cluster| homes.may_name(&cluster.info.name, network)) {
        for service in cluster.services.values() {
            if service.network.as_ref() != Some(network) {
                continue;
            }
            let key = &service.key();
            let port = service.gateway_port.unwrap_or(GATEWAY_PORT);
            if !service.ports.iter().any(|exposed| exposed.number == port) {
                continue;
            }
            if notices::only_by_name(service) {
                let cluster = &cluster.info.name;
                tracing::warn!(%cluster, "{}", notices::unreachable_gateway(key, service, network));
            }
            found.extend(service.external_ips.iter().map(|ip| (*ip, key.clone(), address(cluster, key, *ip, port))));
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

/// The gateway is where the first of its pods is.
fn address(cluster: &ClusterIndex, key: &Key, ip: IpAddr, port: u16) -> GatewayAddress {
    let endpoint = cluster.slices_of(key).flat_map(|slice| &slice.endpoints).min_by_key(|endpoint| endpoint.ip);
    let locality = endpoint.map(|endpoint| {
        let pod = endpoint.pod.as_ref().map(|pod| Key { namespace: key.namespace.clone(), name: pod.clone() });
        workload::locality(cluster, pod.and_then(|pod| cluster.pods.get(&pod)), Some(endpoint)).to_wire()
    });
    GatewayAddress { ip: name::ip_to_bytes(ip), port: port.into(), cluster: cluster.info.name.to_string(), locality }
}
