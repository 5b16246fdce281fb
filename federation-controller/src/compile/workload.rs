//! A pod: its location, identity and labels in telemetry, and its workload.

use std::collections::BTreeMap;

use prost::Message;
use wire::discovery::{InboundPort, Protocol, Workload, WorkloadLabels};
use wire::{Kind, name};

use super::endpoint::Location;
use super::entry;
use super::federation::callers;
use super::policies;
use super::probe;
use super::resource::{Audience, Resource};
use super::scope;
use crate::inventory::{ClusterInventory, Inventory};
use crate::objects::{Key, Labels, Node, Pod, SliceEndpoint, Template, Text};

/// Compiles the workload of a pod. Returns `None` if the pod has no proxy, or its proxy is not connected.
pub(super) fn compile(inventory: &Inventory, cluster: &Text, key: &Key) -> Option<Resource> {
    if !inventory.is_connected(cluster, key) {
        return None;
    }
    let cluster = inventory.cluster(cluster)?;
    let pod = cluster.pods().get(key)?;
    // Injected, or a gateway.
    let is_gateway = pod.namespace == inventory.settings().namespace || inventory.is_router(&cluster.info.name, key);
    if !pod.accepts_mutual_tls() && !is_gateway {
        return None;
    }
    Some(Resource {
        kind: Kind::Workload,
        name: name::workload(&cluster.info.name, &key.namespace, &key.name).into(),
        keys: Box::default(),
        audience: Audience::Workload(pod.service_account.clone()),
        body: workload(inventory, cluster, key, pod).encode_to_vec().into(),
    })
}

fn workload(inventory: &Inventory, cluster: &ClusterInventory, key: &Key, pod: &Pod) -> Workload {
    let network = inventory.networks().of_pod(cluster, Some(pod)).unwrap_or_else(|| cluster.network());
    let mut workload = Workload {
        cluster: cluster.info.name.to_string(),
        network: network.to_string(),
        namespace: pod.namespace.to_string(),
        pod: pod.name.to_string(),
        service_account: pod.service_account.to_string(),
        locality: Some(location(cluster, Some(pod), None).locality()),
        labels: Some(labels(&pod.namespace, &pod.workload, &pod.labels)),
        ports: inbound_ports(inventory, cluster, network, key),
        node: pod.node.to_string(),
        pod_labels: pod.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        ..Workload::default()
    };
    if let Some(entry) = cluster.entry_of_pod(key) {
        workload.pod = entry.name.to_string();
        let group = cluster.group_of(entry).and_then(|group| group.spec.as_deref());
        workload.probe = group.and_then(|group| group.probe.as_ref()).and_then(probe::compile);
    }
    policies::refer(inventory, cluster, pod, &mut workload);
    if let Some(sidecar) = scope::of(inventory, &pod.namespace, &pod.labels) {
        scope::apply(inventory, sidecar, &mut workload);
    }
    workload
}

/// Returns the pod's ports that serve services.
fn inbound_ports(inventory: &Inventory, cluster: &ClusterInventory, network: &Text, key: &Key) -> Vec<InboundPort> {
    let mut ports: Vec<InboundPort> = Vec::new();
    let mut services: BTreeMap<u32, Vec<Key>> = BTreeMap::new();
    for slice in cluster.slices_with(key) {
        let service = slice.service_key();
        let Some(definition) = cluster.services().get(&service) else { continue };
        for (name, number) in &slice.ports {
            let Some(port) = definition.ports.iter().find(|port| port.name == *name) else { continue };
            let opaque = inventory.is_opaque(&service, port.number);
            services.entry((*number).into()).or_default().push(service.clone());
            ports.push(InboundPort {
                number: (*number).into(),
                protocol: if opaque { Protocol::Tcp } else { port.protocol }.into(),
                service: inventory.settings().hostname(&service),
                service_port: port.number.into(),
                ..InboundPort::default()
            });
        }
    }
    if let Some(pod) = cluster.pods().get(key).filter(|_| cluster.info.own) {
        ports.extend(entry::inbound_ports(cluster, key, pod));
    }
    // Of several services on one port, one that declares the protocol takes precedence, then the first by name.
    ports.sort_by(|a, b| {
        let rank = |port: &InboundPort| (port.number, port.protocol == Protocol::Unspecified as i32);
        rank(a).cmp(&rank(b)).then_with(|| (&a.service, a.service_port).cmp(&(&b.service, b.service_port)))
    });
    ports.dedup_by_key(|port| port.number);
    for port in &mut ports {
        let served = services.get(&port.number).map(Vec::as_slice).unwrap_or_default();
        port.callers = callers(inventory, cluster, network, served);
    }
    ports
}

/// Returns the location of an endpoint: by its pod's label, else its node's labels, else the zone in its slice and what all
/// nodes of its cluster have in common.
pub(super) fn location(cluster: &ClusterInventory, pod: Option<&Pod>, endpoint: Option<&SliceEndpoint>) -> Location {
    let labelled = |pod: &Pod| {
        let label = pod.labels.get("topology.istio.io/locality").or_else(|| pod.labels.get("istio-locality"))?;
        // Label values cannot have slashes, so dots replace them.
        let mut parts = label.split(['/', '.']);
        let mut next = || parts.next().unwrap_or_default().into();
        Some(Location { region: next(), zone: next(), subzone: next(), node: Text::default() })
    };
    if let Some(location) = pod.and_then(labelled) {
        return location;
    }
    let node = endpoint.and_then(|endpoint| endpoint.node.as_ref()).or_else(|| pod.map(|pod| &pod.node));
    match node.and_then(|name| cluster.nodes().named(name)) {
        Some(node) => {
            let Node { region, zone, subzone, .. } = node.clone();
            Location { region, zone, subzone, node: Text::default() }
        }
        None => {
            let (region, zone) = cluster.locality();
            let zone = endpoint.and_then(|endpoint| endpoint.zone.clone()).unwrap_or(zone);
            Location { region, zone, ..Location::default() }
        }
    }
}

/// Returns the SPIFFE ID of pods of a template; empty if namespace or account cannot be part of one.
pub(super) fn identity(trust_domain: &str, template: &Template) -> String {
    match identity::SpiffeId::new(trust_domain, &template.namespace, &template.service_account) {
        Ok(id) => id.to_string(),
        Err(_) => String::new(),
    }
}

/// Returns the labels of a workload in telemetry. The canonical names have the same fallbacks as in Istio.
pub(super) fn labels(namespace: &str, workload: &str, labels: &Labels) -> WorkloadLabels {
    let first = |keys: &[&str], otherwise: &str| {
        keys.iter().find_map(|key| labels.get(key)).map_or(otherwise, |value| value).to_string()
    };
    let workload = first(&["service.istio.io/workload-name"], workload);
    WorkloadLabels {
        namespace: namespace.to_owned(),
        app: first(&["app", "app.kubernetes.io/name"], ""),
        version: first(&["version", "app.kubernetes.io/version"], ""),
        canonical_service: first(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"], &workload),
        canonical_revision: first(
            &["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"],
            "latest",
        ),
        workload,
    }
}
