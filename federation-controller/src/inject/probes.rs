//! Probes and lifecycle hooks of the application, directed at the sidecar, which makes them from inside the pod.
//!
//! Paths and format are those of Istio's injector and agent.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The port at which the sidecar serves them.
const PORT: u16 = 15020;
/// The handlers within a container: the path to them, where the sidecar serves them, and the last part of that path.
const HANDLERS: [(&[&str], &str, &str); 5] = [
    (&["readinessProbe"], "app-health", "readyz"),
    (&["livenessProbe"], "app-health", "livez"),
    (&["startupProbe"], "app-health", "startupz"),
    (&["lifecycle", "preStop"], "app-lifecycle", "prestopz"),
    (&["lifecycle", "postStart"], "app-lifecycle", "poststartz"),
];
/// The kinds of handlers that open connections. `exec` and `sleep` stay as they are.
const KINDS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// What directs the probes of a pod at its sidecar.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Redirected {
    /// The JSON patch operations. Their paths are those of the pod as its author wrote it.
    pub(super) operations: Vec<Value>,
    /// What the sidecar checks, by path: the value of `ISTIO_KUBE_APP_PROBERS`.
    pub(super) probers: BTreeMap<String, Value>,
}

/// Redirects the probes of all containers that run beside the sidecar.
pub(super) fn redirect(spec: &Value) -> Redirected {
    let mut redirected = Redirected::default();
    for list in ["initContainers", "containers"] {
        for (index, container) in spec[list].as_array().into_iter().flatten().enumerate() {
            // Other init containers have no probes.
            if list == "containers" || container["restartPolicy"] == "Always" {
                redirected.container(container, &format!("/spec/{list}/{index}"));
            }
        }
    }
    redirected
}

impl Redirected {
    fn container(&mut self, container: &Value, at: &str) {
        let Some(name) = container["name"].as_str() else { return };
        for (steps, service, last) in HANDLERS {
            let handler = steps.iter().fold(container, |value, step| &value[*step]);
            let Some((kind, check)) = check_of(handler, container) else { continue };
            let path = format!("/{service}/{name}/{last}");
            let mut replacement = handler.clone();
            if let Some(fields) = replacement.as_object_mut() {
                fields.remove(kind);
                fields.insert("httpGet".into(), json!({"path": path, "port": PORT, "scheme": "HTTP"}));
            }
            let at = format!("{at}/{}", steps.join("/"));
            self.operations.push(json!({"op": "replace", "path": at, "value": replacement}));
            self.probers.insert(path, check);
        }
    }
}

/// Returns the kind of a handler that is to be redirected, and what the sidecar is to check. A handler with a host is directed
/// elsewhere, and one whose port the container does not name stays for the API server or the kubelet to refuse.
fn check_of(handler: &Value, container: &Value) -> Option<(&'static str, Value)> {
    let kind = KINDS.into_iter().find(|kind| handler[*kind].is_object())?;
    let mut wanted = handler[kind].clone();
    if wanted["host"].as_str().is_some_and(|host| !host.is_empty()) {
        return None;
    }
    wanted["port"] = json!(port(&wanted["port"], container)?);
    let mut check = json!({kind: wanted});
    if handler["timeoutSeconds"].is_u64() {
        check["timeoutSeconds"] = handler["timeoutSeconds"].clone();
    }
    Some((kind, check))
}

/// Returns a port by number, or by the name that the container gives it.
fn port(wanted: &Value, container: &Value) -> Option<u16> {
    let number = match wanted.as_str() {
        None => wanted.as_u64(),
        Some(name) => {
            let mut ports = container["ports"].as_array().into_iter().flatten();
            let named = ports.find(|port| port["name"] == name).and_then(|port| port["containerPort"].as_u64());
            named.or_else(|| name.parse().ok())
        }
    };
    number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_and_hooks_of_all_kinds_are_directed_at_the_sidecar() {
        let spec = json!({
            "initContainers": [
                {"name": "migrate", "readinessProbe": {"tcpSocket": {"port": 1}}},
                {"name": "helper", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 7000}}},
            ],
            "containers": [{
                "name": "db",
                "ports": [{"name": "sql", "containerPort": 5432}],
                "readinessProbe": {"tcpSocket": {"port": "sql"}, "periodSeconds": 3, "timeoutSeconds": 2},
                "livenessProbe": {"httpGet": {"path": "/up", "port": 9080, "scheme": "HTTPS",
                                              "httpHeaders": [{"name": "Host", "value": "db"}]}},
                "startupProbe": {"grpc": {"port": 9090, "service": "db"}},
                "lifecycle": {"preStop": {"httpGet": {"path": "bye", "port": "9080"}},
                              "postStart": {"exec": {"command": ["true"]}}},
            }],
        });
        let redirected = redirect(&spec);
        let at = |path: &str| json!({"path": path, "port": 15020, "scheme": "HTTP"});
        let replace = |path: &str, value: Value| json!({"op": "replace", "path": path, "value": value});
        assert_eq!(
            redirected.operations,
            [
                replace("/spec/initContainers/1/startupProbe", json!({"httpGet": at("/app-health/helper/startupz")})),
                replace(
                    "/spec/containers/0/readinessProbe",
                    json!({"httpGet": at("/app-health/db/readyz"), "periodSeconds": 3, "timeoutSeconds": 2})
                ),
                replace("/spec/containers/0/livenessProbe", json!({"httpGet": at("/app-health/db/livez")})),
                replace("/spec/containers/0/startupProbe", json!({"httpGet": at("/app-health/db/startupz")})),
                replace("/spec/containers/0/lifecycle/preStop", json!({"httpGet": at("/app-lifecycle/db/prestopz")})),
            ]
        );
        let checks = json!({
            "/app-health/db/livez": {"httpGet": {"path": "/up", "port": 9080, "scheme": "HTTPS",
                                                 "httpHeaders": [{"name": "Host", "value": "db"}]}},
            "/app-health/db/readyz": {"tcpSocket": {"port": 5432}, "timeoutSeconds": 2},
            "/app-health/db/startupz": {"grpc": {"port": 9090, "service": "db"}},
            "/app-health/helper/startupz": {"tcpSocket": {"port": 7000}},
            "/app-lifecycle/db/prestopz": {"httpGet": {"path": "bye", "port": 9080}},
        });
        assert_eq!(json!(redirected.probers), checks);
    }

    #[test]
    fn what_opens_no_connection_to_the_pod_stays() {
        let probe = |handler: Value| json!({"containers": [{"name": "a", "readinessProbe": handler}]});
        for handler in [
            json!({"exec": {"command": ["true"]}}),
            json!({"httpGet": {"port": 80, "host": "other.example"}}),
            json!({"tcpSocket": {"port": "unknown"}}),
            json!({"tcpSocket": {"port": 0}}),
            json!({"tcpSocket": {"port": 70000}}),
            json!({}),
        ] {
            assert_eq!(redirect(&probe(handler.clone())), Redirected::default(), "{handler}");
        }
        assert_eq!(redirect(&json!({})), Redirected::default());
    }
}
