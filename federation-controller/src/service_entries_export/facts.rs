//! What other networks know of a service that a cluster exports: summaries of its endpoints, and the gateways before them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::service_entry_export::{ExportedPort, ExportedService, GatewayEndpoint};
use wire::delta::{Body, Found as _};
use wire::discovery::{self, Locality, Protocol, endpoint};
use wire::{Kind, name};

use crate::inventory::export::Reason;
use crate::inventory::{ClusterInventory, Inventory};
use crate::objects::{Key, Text};
use crate::publish::{Found, Store};

/// Why an exported service cannot be given to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unreachable {
    /// It has no gateway or no endpoint that one forwards to; with what to do.
    For(String),
    /// The cluster that would import it may not use it.
    NotPermitted,
}

/// Returns what others need to reach a service of a cluster; `None` if the cluster does not export it. `importer` is the cluster that
/// would use it, if one does.
pub(super) fn exported(
    inventory: &Inventory,
    store: &Store,
    cluster: &ClusterInventory,
    key: &Key,
    importer: Option<&Text>,
) -> Option<Result<ExportedService, Unreachable>> {
    let hostname = inventory.settings().hostname(key);
    let name = &cluster.info.name;
    let exports = &store.facts(&hostname)?.exports;
    exports.iter().find(|(of, reason)| of == name && *reason != Reason::Own)?;
    Some(reachable(store, cluster, key, &hostname, importer))
}

fn reachable(
    store: &Store,
    cluster: &ClusterInventory,
    key: &Key,
    hostname: &str,
    importer: Option<&Text>,
) -> Result<ExportedService, Unreachable> {
    let name = &cluster.info.name;
    let summaries = || store.summaries_of(hostname).filter(move |found| found.is_in(name));
    if summaries().next().is_none() {
        return Err(Unreachable::For(without_summary(cluster, key)));
    }
    let permitted = |found: &Found<'_>| importer.is_none_or(|importer| found.audience().includes_cluster(importer));
    let summaries: Vec<Summary> = summaries().filter(permitted).filter_map(|found| Summary::of(&found)).collect();
    if summaries.is_empty() {
        return Err(Unreachable::NotPermitted);
    }
    let whole = || summaries.iter().filter(|summary| summary.subset.is_empty());
    let identities: BTreeSet<&String> = whole().flat_map(|summary| &summary.identities).collect();
    if identities.is_empty() {
        return Err(Unreachable::For("its pods have no service account by which callers could know them".into()));
    }
    let mut endpoints: Vec<GatewayEndpoint> = Vec::new();
    for summary in whole() {
        let gateways = gateways(store, &summary.network, name);
        endpoints.extend(gateways.into_iter().map(|(address, port)| GatewayEndpoint {
            cluster: name.to_string(),
            address,
            port,
            locality: summary.locality.clone(),
            ready: summary.ready,
        }));
    }
    if endpoints.is_empty() {
        let network = whole().next().map(|summary| &*summary.network).unwrap_or_default();
        return Err(Unreachable::For(format!(
            "network {network} has no east-west gateway with an address in cluster {name}: label a Service of type LoadBalancer with topology.istio.io/network={network}"
        )));
    }
    endpoints.sort();
    let ports = ports(store, hostname, name, whole());
    if ports.is_empty() {
        return Err(Unreachable::For("its pods serve none of its ports by the mesh's mutual TLS".into()));
    }
    let subsets: BTreeSet<&String> = summaries.iter().map(|of| &of.subset).filter(|of| !of.is_empty()).collect();
    Ok(ExportedService {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        hostname: hostname.to_owned(),
        ports,
        identities: identities.into_iter().cloned().collect(),
        endpoints,
        subsets: subsets.into_iter().cloned().collect(),
    })
}

/// Says why other networks have no summary of an exported service.
fn without_summary(cluster: &ClusterInventory, key: &Key) -> String {
    let name = &cluster.info.name;
    if cluster.network().is_empty() {
        return format!(
            "the network of cluster {name} is unknown: label its root namespace with topology.istio.io/network"
        );
    }
    match cluster.slices_of(key).flat_map(|slice| &slice.endpoints).next() {
        None => format!("it has no endpoint in cluster {name}"),
        Some(_) => format!("no endpoint in cluster {name} has a sidecar, and a gateway forwards mutual TLS only"),
    }
}

/// The summary of the endpoints of one locality and subset.
struct Summary {
    network: String,
    locality: String,
    subset: String,
    ready: u32,
    identities: Vec<String>,
    ports: Vec<u32>,
}

impl Summary {
    fn of(found: &Found<'_>) -> Option<Self> {
        let Ok(Body::Endpoint(of)) = Body::decode(Kind::Endpoint, Kind::Endpoint.url(), found.body()) else {
            return None;
        };
        let Some(endpoint::Kind::Summary(summary)) = of.kind else { return None };
        Some(Summary {
            network: of.network,
            locality: of.locality.map(|at| locality(&at)).unwrap_or_default(),
            subset: summary.subset,
            ready: summary.ready,
            identities: summary.identities,
            ports: summary.ports,
        })
    }
}

fn locality(of: &Locality) -> String {
    [&*of.region, &of.zone, &of.subzone].join("/").trim_end_matches('/').to_owned()
}

/// Returns the gateways of a network in one cluster. A gateway forwards to pods of its own cluster only.
fn gateways(store: &Store, network: &str, cluster: &str) -> Vec<(IpAddr, u16)> {
    let Some(found) = store.get(Kind::NetworkGateway, network) else { return Vec::new() };
    let decoded = Body::decode(Kind::NetworkGateway, Kind::NetworkGateway.url(), found.body());
    let Ok(Body::NetworkGateway(gateway)) = decoded else { return Vec::new() };
    let own = gateway.addresses.iter().filter(|at| at.cluster == cluster);
    own.filter_map(|at| Some((name::ip_of_bytes(&at.ip)?, u16::try_from(at.port).ok()?))).collect()
}

/// Returns the ports of a service that are reachable through the gateway.
fn ports<'a>(
    store: &Store,
    hostname: &str,
    cluster: &str,
    summaries: impl Iterator<Item = &'a Summary> + Clone,
) -> Vec<ExportedPort> {
    let decode = |found: Found<'_>| match Body::decode(Kind::Service, Kind::Service.url(), found.body()) {
        Ok(Body::Service(service)) => Some(service),
        _ => None,
    };
    // Clusters that do not export the name have a definition of their own.
    let exporting = |service: &discovery::Service| service.exports.iter().any(|export| export.cluster == cluster);
    let services = store.named(Kind::Service, hostname).into_iter().filter_map(decode);
    let Some(service) = services.into_iter().find(exporting) else { return Vec::new() };
    // Without ready endpoints a summary names no ports.
    let served = |number: u32| summaries.clone().any(|of| of.ports.is_empty() || of.ports.contains(&number));
    let ports = service.ports.iter().filter(|port| served(port.number)).filter_map(|port| {
        let number = u16::try_from(port.number).ok()?;
        Some(ExportedPort { number, name: port.name.clone(), protocol: protocol(port.protocol()).to_owned() })
    });
    let mut ports: Vec<ExportedPort> = ports.collect();
    ports.sort();
    ports
}

/// Returns the word for a protocol in a ServiceEntry; empty for one that is detected.
fn protocol(of: Protocol) -> &'static str {
    match of {
        Protocol::Http => "HTTP",
        Protocol::Http2 => "HTTP2",
        Protocol::Grpc => "GRPC",
        Protocol::Tls => "TLS",
        Protocol::Tcp => "TCP",
        Protocol::Unspecified => "",
    }
}
