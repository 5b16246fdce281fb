//! Fields of a pod that are accepted here and have no effect: a lab's containers are processes of this machine, without images,
//! cgroups or a security module. Whoever sets one is told so in an Event of the pod.

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

/// What makes a field worth telling of.
#[derive(Debug, Clone, Copy)]
enum When {
    /// It is there, and not false or empty.
    Set,
    /// It has this value.
    Is(&'static str),
    /// It has another value than the one that Kubernetes gives by itself.
    Not(&'static str),
}

use When::{Is, Not, Set};

/// Of the pod's spec: a pod that counts on one of these behaves otherwise in a lab.
const OF_POD: [(&str, When); 16] = [
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

/// The same of each container.
const OF_CONTAINER: [(&str, When); 10] = [
    ("ports/*/hostPort", Set),
    ("securityContext/privileged", Set),
    ("securityContext/procMount", Set),
    ("securityContext/seLinuxOptions", Set),
    ("stdin", Set),
    ("terminationMessagePath", Not("/dev/termination-log")),
    ("terminationMessagePolicy", Is("FallbackToLogsOnError")),
    ("tty", Set),
    ("volumeDevices", Set),
    ("volumeMounts/*/mountPropagation", Set),
];

/// Bounds on a container that nothing here enforces; without them it behaves the same.
const BOUNDS: [(&str, When); 7] = [
    ("resources/limits", Set),
    ("securityContext/allowPrivilegeEscalation", Is("false")),
    ("securityContext/appArmorProfile", Set),
    ("securityContext/capabilities/drop", Set),
    ("securityContext/readOnlyRootFilesystem", Set),
    ("securityContext/runAsNonRoot", Set),
    ("securityContext/seccompProfile", Set),
];

/// The mesh's own containers: that they are bounded elsewhere is no news to who wrote the pod.
const INJECTED: [&str; 2] = ["isthmus-proxy", "isthmus-init"];

/// What there is to tell about a pod's fields.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ignored {
    /// Fields without effect, for a warning.
    pub without_effect: Vec<String>,
    /// Bounds that are reported and not enforced.
    pub not_enforced: Vec<String>,
}

impl Ignored {
    /// Looks through a pod.
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

fn present(of: &Value, at: &str, table: &[(&str, When)]) -> Vec<String> {
    let told = |path: &str| format!("{at}.{}", path.replace("/*/", "[*].").replace('/', "."));
    table.iter().filter(|(path, when)| holds(of, path, *when)).map(|(path, _)| told(path)).collect()
}

fn holds(of: &Value, path: &str, when: When) -> bool {
    match path.split_once('/') {
        Some(("*", rest)) => of.as_array().into_iter().flatten().any(|one| holds(one, rest, when)),
        Some((field, rest)) => holds(&of[field], rest, when),
        None => {
            let value = &of[path];
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let set = !matches!(text.as_str(), "null" | "false" | "" | "[]" | "{}");
            match when {
                Set => set,
                Is(wanted) => text == wanted,
                Not(usual) => set && text != usual,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_told() {
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
            let found = Ignored::of(&pod);
            assert_eq!(found.without_effect, without_effect, "{spec}");
            assert_eq!(found.not_enforced, not_enforced, "{spec}");
        }
    }
}
