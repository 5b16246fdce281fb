//! Fields of a pod that a lab accepts and ignores: its containers are processes of this machine, without images,
//! cgroups or a security module. An Event of the pod reports them.

use k8s_openapi::api::core::v1::Pod;

use crate::field_path::FieldCondition::{self, Is, Not, Set};
use crate::field_path::present;

/// Ignored fields of the pod's spec. A pod that relies on one of them behaves differently in a lab.
const OF_POD: [(&str, FieldCondition); 16] = [
    ("activeDeadlineSeconds", Set),
    ("affinity/nodeAffinity/preferredDuringSchedulingIgnoredDuringExecution", Set),
    ("affinity/podAffinity", Set),
    ("affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution", Set),
    ("ephemeralContainers", Set),
    ("hostIPC", Set),
    ("hostPID", Set),
    ("priorityClassName", Set),
    ("runtimeClassName", Set),
    ("securityContext/seLinuxOptions", Set),
    ("securityContext/sysctls", Set),
    ("setHostnameAsFQDN", Set),
    ("shareProcessNamespace", Set),
    ("topologySpreadConstraints", Set),
    ("volumes/*/emptyDir/medium", Set),
    ("volumes/*/emptyDir/sizeLimit", Set),
];

/// Ignored fields of each container.
const OF_CONTAINER: [(&str, FieldCondition); 9] = [
    ("ports/*/hostPort", Set),
    ("securityContext/privileged", Set),
    ("securityContext/procMount", Set),
    ("securityContext/seLinuxOptions", Set),
    ("terminationMessagePath", Not(&["/dev/termination-log"])),
    ("terminationMessagePolicy", Is("FallbackToLogsOnError")),
    ("tty", Set),
    ("volumeDevices", Set),
    ("volumeMounts/*/mountPropagation", Set),
];

/// Restrictions of a container that a lab does not enforce. The container behaves the same without them.
const BOUNDS: [(&str, FieldCondition); 7] = [
    ("resources/limits", Set),
    ("securityContext/allowPrivilegeEscalation", Is("false")),
    ("securityContext/appArmorProfile", Set),
    ("securityContext/capabilities/drop", Set),
    ("securityContext/readOnlyRootFilesystem", Set),
    ("securityContext/runAsNonRoot", Set),
    ("securityContext/seccompProfile", Set),
];

/// The mesh's own containers, which the author of the pod did not write.
const INJECTED: [&str; 3] = ["isthmus-proxy", "istio-proxy", "isthmus-init"];

/// The ignored fields of a pod.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct IgnoredFields {
    /// Fields without effect, for a warning.
    pub without_effect: Vec<String>,
    /// Restrictions that are reported and not enforced.
    pub not_enforced: Vec<String>,
}

impl IgnoredFields {
    /// Returns the ignored fields of a pod.
    pub(super) fn of(pod: &Pod) -> Self {
        let spec = serde_json::to_value(&pod.spec).unwrap_or_default();
        let mut found = Self::default();
        found.without_effect.extend(present(&spec, "spec", &OF_POD));
        for kind in ["initContainers", "containers"] {
            for container in spec[kind].as_array().into_iter().flatten() {
                let name = container["name"].as_str().unwrap_or_default();
                if INJECTED.contains(&name) {
                    continue;
                }
                let at = format!("spec.{kind}{{{name}}}");
                found.without_effect.extend(present(container, &at, &OF_CONTAINER));
                found.not_enforced.extend(present(container, &at, &BOUNDS));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_without_effect_and_restrictions_are_found() {
        let plain = json!({"name": "c", "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "resources": {"requests": {"cpu": "1"}}, "securityContext": {"privileged": false, "allowPrivilegeEscalation": true}});
        let strict = json!({"name": "c", "resources": {"limits": {"cpu": "1"}},
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}});
        let mut injected = strict.clone();
        injected["name"] = json!("isthmus-proxy");
        let cases = [
            (
                json!({"containers": [plain], "hostPID": false, "volumes": [{"name": "v", "emptyDir": {}}]}),
                vec![],
                vec![],
            ),
            (json!({"containers": [injected]}), vec![], vec![]),
            (
                json!({"containers": [strict]}),
                vec![],
                vec![
                    "spec.containers{c}.resources.limits",
                    "spec.containers{c}.securityContext.allowPrivilegeEscalation",
                    "spec.containers{c}.securityContext.capabilities.drop",
                ],
            ),
            (
                json!({"hostPID": true, "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "emptyDir": {"medium": "Memory"}}],
                    "containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}], "terminationMessagePath": "/x"}]}),
                vec![
                    "spec.hostPID",
                    "spec.volumes[*].emptyDir.medium",
                    "spec.containers{c}.ports[*].hostPort",
                    "spec.containers{c}.terminationMessagePath",
                ],
                vec![],
            ),
        ];
        for (spec, without_effect, not_enforced) in cases {
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod");
            let found = IgnoredFields::of(&pod);
            assert_eq!(found.without_effect, without_effect, "{spec}");
            assert_eq!(found.not_enforced, not_enforced, "{spec}");
        }
    }
}
