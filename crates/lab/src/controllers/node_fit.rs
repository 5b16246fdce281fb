//! Whether a pod may run on a node: taints, and node affinity.

use k8s_openapi::api::core::v1::{Node, PodSpec, Taint, Toleration};
use kube::ResourceExt as _;

use super::selector;

/// Taint of a node that is not ready.
pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of a node that is cordoned.
pub(super) const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Returns the first taint with one of these effects that the pod does not tolerate.
pub(super) fn untolerated(pod: &PodSpec, node: &Node, effects: &[&str]) -> Option<Taint> {
    let tolerations = pod.tolerations.as_deref().unwrap_or_default();
    let repels =
        |taint: &Taint| effects.contains(&taint.effect.as_str()) && !tolerations.iter().any(|t| tolerates(t, taint));
    taints(node).into_iter().find(repels)
}

/// Returns the taints of a node, with those that Kubernetes derives from its state.
fn taints(node: &Node) -> Vec<Taint> {
    let spec = node.spec.as_ref();
    let derived = |key: &str| Taint { key: key.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
    let mut taints = Vec::new();
    if spec.and_then(|spec| spec.unschedulable).unwrap_or(false) {
        taints.push(derived(UNSCHEDULABLE));
    }
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    if conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status != "True") {
        taints.push(derived(NOT_READY));
    }
    taints.extend(spec.and_then(|spec| spec.taints.clone()).unwrap_or_default());
    taints
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let empty_or =
        |field: &Option<String>, value: &str| field.as_ref().is_none_or(|own| own.is_empty() || own == value);
    empty_or(&toleration.key, &taint.key)
        && empty_or(&toleration.effect, &taint.effect)
        && (toleration.operator.as_deref() == Some("Exists")
            || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default())
}

/// Reports whether a node meets the pod's node selector and required node affinity.
pub(super) fn meets_affinity(pod: &PodSpec, node: &Node) -> bool {
    let labels = node.labels();
    let selected = pod.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = pod.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected
        && required.is_none_or(|required| {
            required.node_selector_terms.iter().any(|term| selector::node_meets(term, labels, &node.name_any()))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn taints_of_a_nodes_state_are_tolerated_like_others() {
        let node = |spec: Value, ready: &str| -> Node {
            let status = json!({"conditions": [{"type": "Ready", "status": ready}]});
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec, "status": status})).expect("a node")
        };
        let gpu = json!({"taints": [{"key": "gpu", "value": "big", "effect": "NoExecute"}]});
        let cases = [
            (json!([]), node(json!({}), "True"), None),
            (json!([]), node(json!({}), "Unknown"), Some(NOT_READY)),
            (json!([{"key": NOT_READY, "operator": "Exists"}]), node(json!({}), "Unknown"), None),
            (
                json!([{"key": NOT_READY, "operator": "Exists", "effect": "NoExecute"}]),
                node(json!({}), "False"),
                Some(NOT_READY),
            ),
            (json!([]), node(json!({"unschedulable": true}), "True"), Some(UNSCHEDULABLE)),
            (json!([{"operator": "Exists"}]), node(json!({"unschedulable": true}), "False"), None),
            (json!([{"key": "gpu", "value": "small"}]), node(gpu.clone(), "True"), Some("gpu")),
            (json!([{"key": "gpu", "operator": "Equal", "value": "big"}]), node(gpu, "True"), None),
        ];
        for (tolerations, node, expected) in cases {
            let pod: PodSpec =
                serde_json::from_value(json!({"containers": [], "tolerations": tolerations})).expect("a spec");
            let found = untolerated(&pod, &node, &["NoSchedule", "NoExecute"]);
            assert_eq!(found.map(|taint| taint.key).as_deref(), expected, "{tolerations}");
        }
    }
}
