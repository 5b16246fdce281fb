//! What only other meshes have: kinds, and labels and annotations of namespaces, workloads and Services.

use super::{Note, Object};
use crate::analyze::object::texts;
use crate::linkerd::ServiceAnnotations;

/// A kind that only another mesh has, and what to use instead. An empty kind is every kind of the group.
const KINDS: &[(&str, &str, &str)] = &[
    (
        "policy.linkerd.io",
        "Server",
        "describe the protocol by the name or appProtocol of the Service's port, and write an AuthorizationPolicy (security.istio.io) for the workload",
    ),
    (
        "policy.linkerd.io",
        "ServerAuthorization",
        "write an AuthorizationPolicy (security.istio.io) with the client's principals",
    ),
    (
        "policy.linkerd.io",
        "AuthorizationPolicy",
        "write an AuthorizationPolicy of security.istio.io for the workloads of the target",
    ),
    (
        "policy.linkerd.io",
        "MeshTLSAuthentication",
        "write the identities into source.principals of an AuthorizationPolicy (security.istio.io)",
    ),
    (
        "policy.linkerd.io",
        "NetworkAuthentication",
        "write the networks into source.ipBlocks of an AuthorizationPolicy (security.istio.io)",
    ),
    (
        "policy.linkerd.io",
        "HTTPRoute",
        "write a VirtualService for routes, and the paths into an AuthorizationPolicy (security.istio.io)",
    ),
    (
        "policy.linkerd.io",
        "HTTPLocalRateLimitPolicy",
        "there are no rate limits; limit the workload by connectionPool of a DestinationRule",
    ),
    (
        "policy.linkerd.io",
        "EgressNetwork",
        "set outboundTrafficPolicy in the mesh settings, and write ServiceEntries for what may be reached",
    ),
    ("multicluster.linkerd.io", "", "join the cluster with `isthmus join`, and export its services with ServiceExport"),
    ("linkerd.io", "", "it configures Linkerd itself"),
    ("access.smi-spec.io", "", "write an AuthorizationPolicy (security.istio.io)"),
    ("specs.smi-spec.io", "TCPRoute", "write the port into an AuthorizationPolicy or a VirtualService"),
    ("specs.smi-spec.io", "UDPRoute", "the mesh does not carry UDP"),
    ("metrics.smi-spec.io", "", "read Istio's metrics from the proxies"),
    (
        "gateway.networking.k8s.io",
        "",
        "write a VirtualService (networking.istio.io) for routes in the mesh; there are no ingress gateways",
    ),
    ("rbac.istio.io", "", "Istio has dropped it; write an AuthorizationPolicy"),
    ("authentication.istio.io", "", "Istio has dropped it; write a PeerAuthentication and a RequestAuthentication"),
    ("config.istio.io", "", "Istio has dropped it; write an AuthorizationPolicy, and read the standard metrics"),
];

/// Labels and annotations, and what to use instead.
const MARKERS: &[(&str, &str)] = &[
    (
        "istio.io/rev",
        "selects a revision of Istio, which injects nothing here; label the namespace istio-injection=enabled",
    ),
    ("istio.io/dataplane-mode", "is of Istio's ambient mode; label the namespace istio-injection=enabled for sidecars"),
    ("istio.io/use-waypoint", "is of Istio's ambient mode; sidecars enforce routes and policies"),
    (
        "linkerd.io/inject",
        "injects nothing here; label the namespace istio-injection=enabled, or the pod sidecar.istio.io/inject=true",
    ),
    ("config.linkerd.io/opaque-ports", "has no effect; name the Service's port tcp-…, or set appProtocol: tcp"),
    ("config.linkerd.io/skip-outbound-ports", "has no effect; write traffic.sidecar.istio.io/excludeOutboundPorts"),
    ("config.linkerd.io/skip-inbound-ports", "has no effect; write traffic.sidecar.istio.io/excludeInboundPorts"),
    (
        "config.linkerd.io/default-inbound-policy",
        "has no effect; write a PeerAuthentication and an AuthorizationPolicy",
    ),
    ("mirror.linkerd.io/exported", "exports nothing; write a ServiceExport of the Service's name"),
    ("mirror.linkerd.io/federated", "federates nothing; write a ServiceExport of the Service's name in each cluster"),
];

/// Labels and annotations that have effect.
const EFFECTIVE: &[&str] = &[
    "istio-injection",
    "sidecar.istio.io/",
    "traffic.sidecar.istio.io/",
    "topology.istio.io/",
    "proxy.istio.io/config",
    crate::names::EXPORT_TO_ANNOTATION,
];

/// Returns notes about Linkerd's annotations of a Service that have no effect, and whether it has such annotations.
fn annotations(object: &Object) -> (bool, Vec<Note>) {
    let annotations = texts(&object.value["metadata"]["annotations"]);
    let read = ServiceAnnotations::read(&annotations).filter(|_| (object.group(), object.kind()) == ("", "Service"));
    let note = |text: String| Note { field: "metadata.annotations".to_owned(), line: None, text };
    (read.is_some(), read.map_or_else(Vec::new, |read| read.problems.into_iter().map(note).collect()))
}

/// Returns what to use instead of a kind of another mesh.
pub(super) fn instead(group: &str, kind: &str) -> Option<&'static str> {
    // Kinds that have effect, or a line of their own in the table of kinds without effect, are none of these.
    if crate::compatibility::kinds::find(group, kind).is_some() || HAVE_EFFECT.contains(&(group, kind)) {
        return None;
    }
    KINDS.iter().find(|(of, name, _)| *of == group && (name.is_empty() || *name == kind)).map(|(.., instead)| *instead)
}

/// Kinds of groups in the table that have effect.
const HAVE_EFFECT: &[(&str, &str)] = &[("linkerd.io", "ServiceProfile"), ("split.smi-spec.io", "TrafficSplit")];

/// Returns whether an object of Kubernetes has marks of a mesh, and notes about those without effect.
pub(super) fn markers(object: &Object) -> (bool, Vec<Note>) {
    let (mut concerns, mut notes) = annotations(object);
    let templates = ["", "spec.template.", "spec.jobTemplate.spec.template."];
    for place in templates.iter().flat_map(|of| ["labels", "annotations"].map(|part| format!("{of}metadata.{part}"))) {
        let pointer = format!("/{}", place.replace('.', "/"));
        let marks = object.value.pointer(&pointer).and_then(|marks| marks.as_object());
        for key in marks.into_iter().flatten().map(|(key, _)| key) {
            concerns |= EFFECTIVE.iter().any(|prefix| key.starts_with(prefix));
            if let Some((_, text)) = MARKERS.iter().find(|(name, _)| name == key) {
                notes.push(Note { field: place.clone(), line: None, text: format!("{key} {text}") });
            }
        }
    }
    (concerns, notes)
}
