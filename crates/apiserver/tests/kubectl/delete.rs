//! `kubectl delete`, with its ways of treating what belongs to the object.

use serde_json::json;

use crate::Test;
use crate::bench::Bench;

pub(crate) const TESTS: &[Test] = &[
    ("delete::by_name_label_and_file", by_name_label_and_file),
    ("delete::cascades", cascades),
    ("delete::finalizers_hold", finalizers_hold),
    ("delete::namespaces_empty_themselves", namespaces_empty_themselves),
];

fn by_name_label_and_file() {
    let bench = Bench::start();
    for name in ["a", "b", "c"] {
        bench.kubectl(&format!("create configmap {name}"));
        bench.kubectl(&format!("label configmap {name} name={name}"));
    }
    assert_eq!(bench.kubectl("delete configmap a"), "configmap \"a\" deleted\n");
    assert_eq!(bench.kubectl("delete configmap -l name=b"), "configmap \"b\" deleted\n");
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n";
    assert_eq!(bench.kubectl_with(&["delete", "-f", "-"], manifest), "configmap \"c\" deleted\n");
    assert!(
        bench.refused("delete configmap c", "").contains("Error from server (NotFound): configmaps \"c\" not found")
    );
    assert_eq!(bench.kubectl("delete configmap c --ignore-not-found"), "");
    bench.kubectl("create configmap d");
    assert_eq!(bench.kubectl("delete configmap d --dry-run=server"), "configmap \"d\" deleted (server dry run)\n");
    bench.kubectl("delete configmaps --all");
    assert!(bench.refused("get configmap d", "").contains("not found"));
}

/// A deployment and a replica set of it, without a controller that would make another.
fn family(bench: &Bench) {
    bench.kubectl("create deployment d --image=i");
    let owner = bench.object("deployment d");
    let child = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "d-1", "ownerReferences": [{
            "apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": owner["metadata"]["uid"],
            "controller": true, "blockOwnerDeletion": true,
        }]},
        "spec": {"selector": owner["spec"]["selector"], "template": owner["spec"]["template"]},
    });
    bench.kubectl_with(&["create", "-f", "-"], &child.to_string());
}

fn cascades() {
    for (mode, survives) in [("background", false), ("foreground", false), ("orphan", true)] {
        let bench = Bench::start();
        family(&bench);
        bench.kubectl(&format!("delete deployment d --cascade={mode}"));
        if survives {
            let child = bench.object("replicaset d-1");
            assert!(child["metadata"]["ownerReferences"].is_null(), "{mode}: {child}");
        } else {
            bench.kubectl("wait replicaset/d-1 --for=delete --timeout=20s");
        }
    }
}

fn finalizers_hold() {
    let bench = Bench::start();
    bench.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: held, finalizers: [example.com/hold]}\n");
    bench.kubectl("delete configmap held --wait=false");
    assert!(bench.object("configmap held")["metadata"]["deletionTimestamp"].is_string());
    bench
        .kubectl_with(&["patch", "configmap", "held", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#], "");
    assert!(bench.refused("get configmap held", "").contains("not found"));
}

fn namespaces_empty_themselves() {
    let bench = Bench::start();
    assert_eq!(bench.kubectl("create namespace shop"), "namespace/shop created\n");
    bench.kubectl("create configmap c -n shop");
    bench.kubectl("create deployment d --image=i -n shop");
    assert_eq!(bench.kubectl("delete namespace shop --timeout=30s"), "namespace \"shop\" deleted\n");
    assert!(bench.refused("get namespace shop", "").contains("namespaces \"shop\" not found"));
    assert_eq!(bench.kubectl("get deployments -A -o name"), "");
}
