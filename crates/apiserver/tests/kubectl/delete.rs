//! `kubectl delete` and its cascading modes.

use serde_json::json;

use crate::KubectlTest;
use crate::server::TestServer;

pub(crate) const TESTS: &[KubectlTest] = &[
    ("delete::by_name_label_and_file", by_name_label_and_file),
    ("delete::cascades", cascades),
    ("delete::finalizers_delay_deletion", finalizers_delay_deletion),
    ("delete::namespaces_are_emptied", namespaces_are_emptied),
];

fn by_name_label_and_file() {
    let server = TestServer::start();
    for name in ["a", "b", "c"] {
        server.kubectl(&format!("create configmap {name}"));
        server.kubectl(&format!("label configmap {name} name={name}"));
    }
    assert_eq!(server.kubectl("delete configmap a"), "configmap \"a\" deleted\n");
    assert_eq!(server.kubectl("delete configmap -l name=b"), "configmap \"b\" deleted\n");
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n";
    assert_eq!(server.kubectl_with(&["delete", "-f", "-"], manifest), "configmap \"c\" deleted\n");
    assert!(
        server.refused("delete configmap c", "").contains("Error from server (NotFound): configmaps \"c\" not found")
    );
    assert_eq!(server.kubectl("delete configmap c --ignore-not-found"), "");
    server.kubectl("create configmap d");
    assert_eq!(server.kubectl("delete configmap d --dry-run=server"), "configmap \"d\" deleted (server dry run)\n");
    server.kubectl("delete configmaps --all");
    assert!(server.refused("get configmap d", "").contains("not found"));
}

/// Creates a deployment and a replica set that it owns.
fn family(server: &TestServer) {
    server.kubectl("create deployment d --image=i");
    let owner = server.object("deployment d");
    let child = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "d-1", "ownerReferences": [{
            "apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": owner["metadata"]["uid"],
            "controller": true, "blockOwnerDeletion": true,
        }]},
        "spec": {"selector": owner["spec"]["selector"], "template": owner["spec"]["template"]},
    });
    server.kubectl_with(&["create", "-f", "-"], &child.to_string());
}

fn cascades() {
    for (mode, survives) in [("background", false), ("foreground", false), ("orphan", true)] {
        let server = TestServer::start();
        family(&server);
        server.kubectl(&format!("delete deployment d --cascade={mode}"));
        if survives {
            let child = server.object("replicaset d-1");
            assert!(child["metadata"]["ownerReferences"].is_null(), "{mode}: {child}");
        } else {
            server.kubectl("wait replicaset/d-1 --for=delete --timeout=20s");
        }
    }
}

fn finalizers_delay_deletion() {
    let server = TestServer::start();
    server.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: held, finalizers: [example.com/hold]}\n");
    server.kubectl("delete configmap held --wait=false");
    assert!(server.object("configmap held")["metadata"]["deletionTimestamp"].is_string());
    server
        .kubectl_with(&["patch", "configmap", "held", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#], "");
    assert!(server.refused("get configmap held", "").contains("not found"));
}

fn namespaces_are_emptied() {
    let server = TestServer::start();
    assert_eq!(server.kubectl("create namespace shop"), "namespace/shop created\n");
    server.kubectl("create configmap c -n shop");
    server.kubectl("create deployment d --image=i -n shop");
    assert_eq!(server.kubectl("delete namespace shop --timeout=30s"), "namespace \"shop\" deleted\n");
    assert!(server.refused("get namespace shop", "").contains("namespaces \"shop\" not found"));
    assert_eq!(server.kubectl("get deployments -A -o name"), "");
}
