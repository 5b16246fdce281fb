//! From a pod: where it is, what telemetry calls it, who it is, and its own inbound side.

use prost::Message;
use wire::discovery::{InboundPort, PeerAuthentication, PeerMode, Protocol, Workload, WorkloadLabels};
use wire::{Kind, name};

use crate::compile::endpoint::Place;
use crate::inventory::cluster::{ClusterIndex, slice_service};
use crate::inventory::networks::Homes;
use crate::inventory::{Key, hostname};
use crate::objects::event::{Labels, Node, Pod, SliceEndpoint, Template, Text};
use crate::publish::Resource;

/// The label by which the injector says that a pod accepts the mesh's mutual TLS.
const TLS_MODE: &str = "security.istio.io/tlsMode";

/// Whether its pods have a sidecar that accepts the mesh's mutual TLS.
pub(crate) fn mutual_tls(template: &Template) -> bool {
    template.labels.get(TLS_MODE).is_some_and(|mode| &**mode == "istio")
}

/// Whether the pod holds a proxy of ours, which may ask for its own side: it is injected, or a gateway.
pub(crate) fn has_proxy(pod: &Pod, system: &Text) -> bool {
    mutual_tls(pod) || pod.namespace == *system
}

/// Where an endpoint is: what its pod's label says, else its node's labels, else the zone that its slice names.
pub(crate) fn locality(cluster: &ClusterIndex, pod: Option<&Pod>, endpoint: Option<&SliceEndpoint>) -> Place {
    let labelled = |pod: &Pod| {
        let label = pod.labels.get("topology.istio.io/locality").or_else(|| pod.labels.get("istio-locality"))?;
        // Label values cannot hold slashes; dots stand for them.
        let mut parts = label.split(['/', '.']);
        let mut next = || parts.next().unwrap_or_default().into();
        Some(Place { region: next(), zone: next(), subzone: next(), node: Text::default() })
    };
    if let Some(locality) = pod.and_then(labelled) {
        return locality;
    }
    let name = endpoint.and_then(|endpoint| endpoint.node.as_ref()).or_else(|| pod.map(|pod| &pod.node));
    match name.and_then(|name| cluster.nodes.get(name)) {
        Some(node) => {
            let Node { region, zone, subzone, .. } = node.clone();
            Place { region, zone, subzone, node: Text::default() }
        }
        None => {
            let zone = endpoint.and_then(|endpoint| endpoint.zone.clone()).unwrap_or_default();
            Place { zone, ..Default::default() }
        }
    }
}

/// The SPIFFE id of its pods; empty where it cannot be one.
pub(crate) fn identity(trust_domain: &str, template: &Template) -> String {
    match identity::SpiffeId::new(trust_domain, &template.namespace, &template.service_account) {
        Ok(id) => id.to_string(),
        Err(_) => String::new(),
    }
}

/// What telemetry says of a pod. The canonical names fall back as Istio's do.
pub(crate) fn labels(namespace: &str, workload: &str, labels: &Labels) -> WorkloadLabels {
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

/// The pod's own inbound side, for its proxy.
pub(crate) fn inbound(cluster: &ClusterIndex, key: &Key, pod: &Pod, homes: &Homes, domain: &str) -> Workload {
    let mut ports: Vec<InboundPort> = Vec::new();
    for slice in cluster.slices_with(key) {
        let service = slice_service(slice);
        let Some(definition) = cluster.services.get(&service) else { continue };
        for (name, number) in &slice.ports {
            let Some(port) = definition.ports.iter().find(|port| port.name == *name) else { continue };
            ports.push(InboundPort {
                number: (*number).into(),
                protocol: port.protocol.into(),
                service: hostname(&service, domain),
                service_port: port.number.into(),
                limits: None,
            });
        }
    }
    // Where several services meet at one port, one that declares the protocol goes first, then the first by name.
    ports.sort_by(|a, b| {
        let rank = |port: &InboundPort| (port.number, port.protocol == Protocol::Unspecified as i32);
        rank(a).cmp(&rank(b)).then_with(|| (&a.service, a.service_port).cmp(&(&b.service, b.service_port)))
    });
    ports.dedup_by_key(|port| port.number);
    Workload {
        cluster: cluster.info.name.to_string(),
        network: homes.network(cluster, Some(pod)).unwrap_or_else(|| cluster.network()).to_string(),
        namespace: pod.namespace.to_string(),
        pod: pod.name.to_string(),
        service_account: pod.service_account.to_string(),
        locality: Some(locality(cluster, Some(pod), None).to_wire()),
        labels: Some(labels(&pod.namespace, &pod.workload, &pod.labels)),
        ports,
        node: pod.node.to_string(),
        peer_authentication: name::MESH.to_owned(),
        // No policies are read from Kubernetes yet.
        authorization_policies: Vec::new(),
    }
}

/// The mesh's peer authentication while no object says otherwise: plaintext is permitted, which is Istio's default.
pub(crate) fn default_authentication() -> Resource {
    let permissive = PeerAuthentication { mode: PeerMode::Permissive.into(), ports: Default::default() };
    Resource::for_all(Kind::PeerAuthentication, name::MESH, permissive.encode_to_vec())
}
