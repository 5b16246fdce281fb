//! The pods of a DaemonSet.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PodTemplateSpec, Toleration,
};
use kube::ResourceExt as _;

use crate::controllers::node_fit::{NOT_READY, UNSCHEDULABLE};
use crate::controllers::revision::REVISION_HASH;
use crate::controllers::template::pod_of;

const NODE_NAME: &str = "metadata.name";

/// Taints that pods of a DaemonSet tolerate, as in Kubernetes. A lab's nodes have only some of them.
const TOLERATED: [(&str, &str); 6] = [
    (NOT_READY, "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    (UNSCHEDULABLE, "NoSchedule"),
];

/// Returns the spec of a pod with the tolerations of a DaemonSet's pods.
pub(super) fn tolerant(mut spec: PodSpec) -> PodSpec {
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    spec
}

/// Returns the DaemonSet's pod for a node.
pub(super) fn new_pod(set: &DaemonSet, template: &PodTemplateSpec, node: &str, hash: &str) -> Pod {
    let mut pod = pod_of(set, template);
    pod.metadata.generate_name = Some(format!("{}-", set.name_any()));
    pod.labels_mut().insert(REVISION_HASH.to_owned(), hash.to_owned());
    let mut spec = tolerant(pod.spec.take().unwrap_or_default());
    let own = NodeSelectorRequirement {
        key: NODE_NAME.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![own]), match_expressions: None };
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
    pod.spec = Some(spec);
    pod
}

/// Returns the node that a pod is on, or is to be on.
pub(super) fn node_of(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_ref().filter(|node| !node.is_empty()) {
        return Some(node.clone());
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let field =
        terms.iter().flat_map(|term| term.match_fields.iter().flatten()).find(|field| field.key == NODE_NAME)?;
    field.values.as_ref()?.first().cloned()
}
