//! The objects of the test bed.

use std::path::Path;

use serde_json::{Value, json};

use super::Mesh;
use crate::client::socket;

/// A server's pod.
pub(super) struct ServerPod {
    pub(super) namespace: &'static str,
    pub(super) pod: &'static str,
    app: &'static str,
    version: &'static str,
    /// What the server answers with.
    name: &'static str,
    refuse: bool,
    /// `topology.istio.io/locality`, if it is not the node's.
    locality: Option<&'static str>,
}

const fn server(namespace: &'static str, app: &'static str, version: &'static str, name: &'static str) -> ServerPod {
    ServerPod { namespace, pod: name, app, version, name, refuse: false, locality: None }
}

/// Returns a server of cases about localities.
const fn zoned(name: &'static str, locality: &'static str) -> ServerPod {
    ServerPod { locality: Some(locality), ..server("shop", "zoned", name, name) }
}

/// The locality of clients.
const LOCALITY: &str = "us-west.us-west-1a";

/// All servers. The third version refuses connections to the second HTTP port.
pub(super) const SERVERS: [ServerPod; 10] = [
    server("shop", "server", "v1", "v1"),
    server("shop", "server", "v2", "v2"),
    ServerPod { refuse: true, ..server("shop", "server", "v3", "v3") },
    server("shop", "other", "v1", "other"),
    server("bank", "server", "v1", "bank-v1"),
    server("bank", "server", "v2", "bank-v2"),
    zoned("near", LOCALITY),
    zoned("zone", "us-west.us-west-1b"),
    zoned("region", "us-east.us-east-1a"),
    zoned("far", "eu-north.eu-north-1a"),
];

/// The servers that have the clients' label `team`.
const OF_TEAM: [&str; 2] = ["region", "far"];

/// The namespaces of servers and clients.
pub(super) fn namespaces(mesh: &Mesh) -> Vec<Value> {
    let injection = if matches!(mesh, Mesh::Isthmus) { "enabled" } else { "disabled" };
    let namespace = |name| {
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"istio-injection": injection}},
        })
    };
    ["shop", "bank"].map(namespace).into()
}

/// The service accounts of pods, which must exist before them.
pub(super) fn accounts() -> Vec<Value> {
    let account = |namespace| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}});
    ["shop", "bank", "istio-system"].map(account).into()
}

/// Istio's clients have no certificates for inbound connections, and receive none.
pub(crate) fn plaintext() -> Vec<Value> {
    vec![json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "default", "namespace": "istio-system"}, "spec": {"mtls": {"mode": "DISABLE"}},
    })]
}

/// The servers' pods, which have no sidecar: what arrives is what the client's proxy sent.
pub(crate) fn servers(directory: &Path) -> Vec<Value> {
    let pod = |server: &ServerPod| {
        let mut command = vec!["server".to_owned(), "--name".to_owned(), server.name.to_owned()];
        command.extend(["--directory".to_owned(), directory.display().to_string()]);
        command.extend(server.refuse.then(|| "--refuse".to_owned()));
        let mut labels = json!({"app": server.app, "version": server.version, "sidecar.istio.io/inject": "false"});
        if let Some(locality) = server.locality {
            labels["topology.istio.io/locality"] = json!(locality);
        }
        if OF_TEAM.contains(&server.name) {
            labels["team"] = json!("web");
        }
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": server.pod, "namespace": server.namespace, "labels": labels},
            "spec": {"containers": [{
                "name": "server", "image": "isthmus-conformance",
                "command": [program(directory)], "args": command,
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1},
            }]},
        })
    };
    SERVERS.iter().map(pod).collect()
}

/// A client's pod, whose sidecar is injected.
pub(super) fn client(directory: &Path, client: &str) -> Value {
    let (namespace, name) = client.split_once('/').unwrap_or(("default", client));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace,
            "labels": {"app": name, "version": "v1", "team": "web", "topology.istio.io/locality": LOCALITY},
        },
        "spec": {"containers": [{
            "name": "client", "image": "isthmus-conformance",
            "command": [program(directory)],
            "args": ["client", "--socket", socket(directory, client)],
            "readinessProbe": {"exec": {"command": ["test", "-S", socket(directory, client)]}, "periodSeconds": 1},
        }]},
    })
}

/// A Service, and a route of it that answers with a mark.
pub(super) fn sentinel(mark: &str) -> Vec<Value> {
    vec![
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "sentinel", "namespace": "shop"},
            "spec": {"selector": {"app": "server"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        }),
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "sentinel", "namespace": "shop"},
            "spec": {"hosts": ["sentinel"], "http": [{"directResponse": {"status": 200, "body": {"string": mark}}}]},
        }),
    ]
}

/// The program of the pods.
pub(crate) fn program(directory: &Path) -> String {
    directory.join("isthmus-conformance").display().to_string()
}
