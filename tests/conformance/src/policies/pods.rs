//! The objects of the test bed.

use std::path::Path;

use serde_json::{Value, json};

use crate::bed::pods::program;
use crate::bed::{Mesh, split};
use crate::client::socket;
use crate::places::{CLIENTS, PLACES, PLAIN, SLOTS, slot};

/// The namespaces of servers and clients.
pub(super) fn namespaces(mesh: &Mesh) -> Vec<Value> {
    let injection = if matches!(mesh, Mesh::Isthmus) { "enabled" } else { "disabled" };
    let namespace = |name: String| {
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"istio-injection": injection}},
        })
    };
    let others = ["shop", "bank", "legacy"].map(str::to_owned);
    (0..SLOTS).map(slot).chain(others).map(namespace).collect()
}

/// The service accounts of pods, which must exist before them.
pub(super) fn accounts() -> Vec<Value> {
    let account = |namespace: &str, name: &str| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}});
    let mut accounts: Vec<Value> = CLIENTS.iter().map(|client| account(split(client).0, split(client).1)).collect();
    accounts.extend(crate::places::namespaces_of_servers().iter().map(|namespace| account(namespace, "server")));
    accounts.extend(["shop", "legacy", "istio-system"].map(|namespace| account(namespace, "default")));
    accounts
}

/// The Services of servers and of the authorizer.
pub(super) fn services() -> Vec<Value> {
    let service = |namespace: &str, name: &str, ports: Value| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
            "spec": {"selector": {"app": name}, "ports": ports},
        })
    };
    let port = |name: &str, port: u16, target: u16| json!({"name": name, "port": port, "targetPort": target});
    let ports = json!([
        port("http", 80, 8080),
        port("grpc", 81, 8081),
        port("detected", 82, 8082),
        port("tls", 443, 9443),
        port("tcp", 9000, 9000),
    ]);
    let servers = crate::places::namespaces_of_servers();
    let servers = servers.iter().map(|namespace| service(namespace, "server", ports.clone()));
    servers
        .chain([service("shop", "authorizer", json!([port("http", 8000, 8000), port("http-silent", 8001, 8001)]))])
        .collect()
}

/// The server of a namespace.
pub(super) fn server(directory: &Path, namespace: &str) -> Value {
    let socket = socket(directory, &format!("{namespace}/server"));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "server", "namespace": namespace,
            "labels": {"app": "server", "version": "v1", "slot": namespace, "security.istio.io/tlsMode": "istio"},
        },
        "spec": {
            "serviceAccountName": "server",
            "containers": [{
                "name": "server", "image": "isthmus-conformance",
                "command": [program(directory)],
                "args": ["server", "--name", "server", "--directory", directory, "--socket", socket],
                "readinessProbe": {"exec": {"command": ["test", "-S", socket]}, "periodSeconds": 1},
            }],
        },
    })
}

/// A client, with a sidecar unless it is [`PLAIN`].
pub(super) fn client(directory: &Path, client: &str) -> Value {
    let (namespace, name) = split(client);
    let mut labels = json!({"app": name});
    if client == PLAIN {
        labels["sidecar.istio.io/inject"] = json!("false");
    }
    let account = if client == PLAIN { "default" } else { name };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "serviceAccountName": account,
            "containers": [{
                "name": "client", "image": "isthmus-conformance",
                "command": [program(directory)],
                "args": ["client", "--socket", socket(directory, client)],
                "readinessProbe": {"exec": {"command": ["test", "-S", socket(directory, client)]}, "periodSeconds": 1},
            }],
        },
    })
}

/// The server that policies of action `CUSTOM` ask.
pub(super) fn authorizer(directory: &Path) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "authorizer", "namespace": PLACES[0],
            "labels": {"app": "authorizer", "sidecar.istio.io/inject": "false"},
        },
        "spec": {"containers": [{
            "name": "authorizer", "image": "isthmus-conformance",
            "command": [program(directory)], "args": ["authorizer"],
            "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        }]},
    })
}

/// A policy without effect, by whose name it is known which policies are in force: no request is for its port.
pub(super) fn mark(generation: usize) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name_of_mark(generation), "namespace": "istio-system"},
        "spec": {"action": "DENY", "rules": [{"to": [{"operation": {"ports": ["7777"]}}]}]},
    })
}

/// The name of a mark.
pub(super) fn name_of_mark(generation: usize) -> String {
    format!("mark-{generation:04}")
}
