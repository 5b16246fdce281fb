//! Sidecars: the scope of a workload's proxy, and the ports of its application.
//!
//! One Sidecar is for a workload: the oldest that selects its pod by labels, else that of its namespace, else that of
//! the root namespace, as in Istio. What it says of the application's ports is part of the workload; the rest is a
//! resource that all workloads share.

use std::net::IpAddr;

use api::networking::SidecarSpec;
use api::networking::sidecar::{DefaultEndpoint, EgressHost, EgressListener, IngressListener, OutboundMode};
use api::networking::traffic_policy::ConnectionPool;
use wire::discovery::{EgressProxy, HostPattern, InboundLimits, InboundPort, Protocol, Scope, ScopeListener, Workload};
use wire::{Kind as ResourceKind, name};

use super::entry;
use super::policies::{name_of, resource};
use super::resource::Resource;
use crate::inventory::rules::full_host;
use crate::inventory::{ClusterInventory, Inventory};
use crate::objects::{Key, Labels, Record as _, Sidecar, Text};

/// Returns the Sidecar that is for a pod.
pub(crate) fn of<'a>(inventory: &'a Inventory, namespace: &'a Text, labels: &'a Labels) -> Option<&'a Sidecar> {
    let own = inventory.primary()?;
    let root = &inventory.settings().root_namespace;
    let rank = |sidecar: &Sidecar| match (sidecar.selects_by_labels(), sidecar.namespace == *namespace) {
        (true, true) => Some(0),
        // One with a selector is for its own namespace, also in the root namespace.
        (true, false) => None,
        (false, true) => Some(1),
        (false, false) => Some(2),
    };
    let selecting = own.sidecars().selecting(&[namespace, root], labels);
    let ranked = selecting.filter_map(|sidecar| Some((rank(sidecar)?, sidecar)));
    ranked.min_by_key(|(rank, sidecar)| (*rank, sidecar.age())).map(|(_, sidecar)| sidecar)
}

/// Compiles the scope of a Sidecar.
pub(super) fn compile(inventory: &Inventory, cluster: &ClusterInventory, key: &Key) -> Option<Resource> {
    let spec = cluster.sidecars().get(key)?.spec.as_ref()?;
    let outbound = spec.outbound_traffic_policy.as_ref();
    let proxy = outbound.and_then(|of| of.egress_proxy.as_ref()).and_then(|proxy| {
        let hostname = full_host(&proxy.host, &key.namespace, &inventory.settings().cluster_domain).to_string();
        let port = proxy.port.as_ref()?.number;
        Some(EgressProxy { hostname, port, subset: proxy.subset.clone() })
    });
    let message = Scope {
        source: key.to_string(),
        listeners: listeners(&spec.egress),
        registry_only: outbound.map(|of| of.mode == OutboundMode::RegistryOnly),
        egress_proxy: proxy,
    };
    Some(resource(inventory, cluster, key, ResourceKind::Scope, &message))
}

fn listeners(egress: &[EgressListener]) -> Vec<ScopeListener> {
    let pattern = |text: &String| {
        let EgressHost { namespace, host, exclude } = EgressHost::parse(text)?;
        Some(HostPattern { namespace: namespace.to_owned(), host: host.to_ascii_lowercase(), exclude })
    };
    let listener = |of: &EgressListener| ScopeListener {
        port: of.port.as_ref().map_or(0, |port| port.number),
        hosts: of.hosts.iter().filter_map(pattern).collect(),
    };
    match egress {
        // Without a list, all hosts.
        [] => {
            let all = HostPattern { namespace: "*".to_owned(), host: "*".to_owned(), exclude: false };
            vec![ScopeListener { port: 0, hosts: vec![all] }]
        }
        // Proxies do not listen at Unix sockets.
        egress => {
            egress.iter().filter(|of| of.port.as_ref().is_none_or(|port| port.number != 0)).map(listener).collect()
        }
    }
}

/// Applies a Sidecar to the workload that it is for.
pub(super) fn apply(inventory: &Inventory, sidecar: &Sidecar, workload: &mut Workload) {
    let (Some(own), Some(spec)) = (inventory.primary(), sidecar.spec.as_deref()) else { return };
    workload.scope = name_of(own, &sidecar.key());
    if !spec.ingress.is_empty() {
        workload.ports = ingress_ports(spec, std::mem::take(&mut workload.ports));
    }
    for port in &mut workload.ports {
        let listener = spec.ingress.iter().find(|of| of.port.as_ref().is_some_and(|of| of.number == port.number));
        let pool = listener.and_then(|of| of.connection_pool.as_ref()).or(spec.inbound_connection_pool.as_ref());
        port.limits = pool.and_then(|pool| limits(pool, port.protocol()));
    }
}

/// Returns the ports that a Sidecar lists, in order. A port that serves a Service keeps it.
fn ingress_ports(spec: &SidecarSpec, served: Vec<InboundPort>) -> Vec<InboundPort> {
    let port = |listener: &IngressListener| {
        let declared = listener.port.as_ref()?;
        let known = served.iter().find(|port| port.number == declared.number).cloned();
        let mut port = InboundPort { number: declared.number, ..known.unwrap_or_default() };
        port.protocol = entry::protocol(&declared.protocol).into();
        match DefaultEndpoint::parse(&listener.default_endpoint) {
            Ok(DefaultEndpoint::Loopback(address)) => {
                port.target_ip = name::ip_to_bytes(address.ip());
                port.target_port = address.port().into();
            }
            Ok(DefaultEndpoint::SameAddress(target)) => {
                port.target_ip = name::ip_to_bytes(IpAddr::from([0; 4]));
                port.target_port = target.into();
            }
            Ok(DefaultEndpoint::Unix(path)) => port.target_path = path.to_owned(),
            // None is written.
            Ok(DefaultEndpoint::Nowhere) | Err(_) => {}
        }
        Some(port)
    };
    let mut ports: Vec<InboundPort> = spec.ingress.iter().filter_map(port).collect();
    ports.sort_by_key(|port| port.number);
    ports.dedup_by_key(|port| port.number);
    ports
}

/// Returns the limits of what is carried to a port; `None` without limits. Connections are limited on opaque ports
/// alone: on others, clients keep connections that carry nothing.
fn limits(pool: &ConnectionPool, protocol: Protocol) -> Option<InboundLimits> {
    let number = |number: i32| u32::try_from(number).unwrap_or_default();
    let limits = match protocol {
        Protocol::Tcp | Protocol::Tls => InboundLimits {
            max_connections: pool.tcp.as_ref().map_or(0, |tcp| number(tcp.max_connections)),
            max_requests: 0,
        },
        _ => InboundLimits {
            max_connections: 0,
            max_requests: pool.http.as_ref().map_or(0, |http| number(http.http2_max_requests)),
        },
    };
    (limits != InboundLimits::default()).then_some(limits)
}
