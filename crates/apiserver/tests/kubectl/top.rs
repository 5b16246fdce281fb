//! `kubectl top`, and the API `metrics.k8s.io` that it reads.

use serde_json::{Value, json};

use crate::KubectlTest;
use crate::server::{TestServer, rows};

pub(crate) const TESTS: &[KubectlTest] = &[
    ("top::pods_and_containers", pods_and_containers),
    ("top::nodes", nodes),
    ("top::objects_and_selectors", objects_and_selectors),
    ("top::roles", roles),
];

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: NAME, labels: {app: NAME}}\nspec: {nodeName: n1, containers: [{name: app, image: i}, {name: proxy, image: i}]}\n";

/// A server with pods `web` and `db`, of which the agent has measured `web`, and nodes `n1` and `n2`, of which it has measured
/// `n1`.
fn measured() -> TestServer {
    let server = TestServer::with_account();
    server.apply("apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {zone: a}}\n");
    server.apply("apiVersion: v1\nkind: Node\nmetadata: {name: n2}\n");
    for node in ["node/n1", "node/n2"] {
        server.set_status(node, &json!({"allocatable": {"cpu": "2", "memory": "4Gi"}}));
    }
    server.apply(&POD.replace("NAME", "web"));
    server.apply(&POD.replace("NAME", "db"));
    let uid = server.object("pod web")["metadata"]["uid"].as_str().expect("a UID").to_owned();
    let usage = json!({
        "timestamp": "2026-01-02T03:04:05Z", "window": "5.004s",
        "nodes": {"n1": {"cpu": 500_000_000, "memory": 1 << 30}},
        "pods": {
            uid: {"app": {"cpu": 250_000_000, "memory": 3 << 20}, "proxy": {"cpu": 1_234_567, "memory": 2560 << 10}},
            "of a pod that is gone": {"app": {"cpu": 1, "memory": 1}},
        },
    });
    server.file("usage.json", &usage.to_string());
    server
}

fn pods_and_containers() {
    let server = measured();
    let pods = server.kubectl("top pods");
    assert_eq!(rows(&pods), [vec!["NAME", "CPU(cores)", "MEMORY(bytes)"], vec!["web", "252m", "5Mi"]]);
    let containers = server.kubectl("top pods --containers --no-headers");
    assert_eq!(rows(&containers), [["web", "app", "250m", "3Mi"], ["web", "proxy", "2m", "2Mi"]]);
    assert_eq!(rows(&server.kubectl("top pod web --no-headers")), [["web", "252m", "5Mi"]]);
    assert_eq!(rows(&server.kubectl("top pods -A -l app=web --no-headers")), [["default", "web", "252m", "5Mi"]]);
    assert!(server.refused("top pod db", "").contains("podmetrics.metrics.k8s.io \"default/db\" not found"));
    assert!(server.refused("top pod nobody", "").contains("pods \"nobody\" not found"));
    let other = server.run(&["top", "pods", "-n", "kube-system"], "", &[]);
    assert_eq!(other.stderr.trim(), "No resources found in kube-system namespace.");

    server.file("usage.json", &json!({"timestamp": "", "window": "", "nodes": {}, "pods": {}}).to_string());
    let early = server.refused("top pods", "");
    assert!(early.contains("metrics not available yet"), "{early}");
}

fn nodes() {
    let server = measured();
    let nodes = server.kubectl("top nodes --no-headers");
    assert_eq!(rows(&nodes)[0], ["n1", "500m", "25%", "1024Mi", "25%"], "{nodes}");
    assert!(rows(&nodes)[1..].iter().all(|row| row[0] == "n2" && row[1] == "<unknown>"), "{nodes}");
    assert_eq!(rows(&server.kubectl("top node n1 --no-headers"))[0][0], "n1");
    assert_eq!(rows(&server.kubectl("top nodes -l zone=a --no-headers")).len(), 1);
}

fn objects_and_selectors() {
    let server = measured();
    let resources = server.kubectl("api-resources --api-group=metrics.k8s.io --no-headers");
    let expected = [
        ["nodes", "metrics.k8s.io/v1beta1", "false", "NodeMetrics"],
        ["pods", "metrics.k8s.io/v1beta1", "true", "PodMetrics"],
    ];
    assert_eq!(rows(&resources), expected);
    assert_eq!(server.object("pods")["items"][0]["kind"], "Pod", "`pods` are those of the core group");

    let pod = server.object("podmetrics web");
    assert_eq!((&pod["apiVersion"], &pod["kind"]), (&json!("metrics.k8s.io/v1beta1"), &json!("PodMetrics")));
    assert_eq!(pod["metadata"]["labels"], json!({"app": "web"}));
    assert_eq!((&pod["timestamp"], &pod["window"]), (&json!("2026-01-02T03:04:05Z"), &json!("5.004s")));
    let containers = json!([
        {"name": "app", "usage": {"cpu": "250m", "memory": "3Mi"}},
        {"name": "proxy", "usage": {"cpu": "1234567n", "memory": "2560Ki"}},
    ]);
    assert_eq!(pod["containers"], containers);
    assert_eq!(server.object("nodes.metrics.k8s.io n1")["usage"], json!({"cpu": "500m", "memory": "1Gi"}));
    let table = server.kubectl("get pods.metrics.k8s.io");
    assert_eq!(rows(&table), [["NAME", "CPU", "MEMORY", "WINDOW"], ["web", "251234567n", "5632Ki", "5.004s"]]);

    let raw = "/apis/metrics.k8s.io/v1beta1";
    let names = |query: &str| -> Vec<String> {
        let list = server.kubectl_with(&["get", "--raw", &format!("{raw}/{query}")], "");
        let list: Value = serde_json::from_str(&list).expect("JSON");
        let names = list["items"].as_array().expect("a list").iter();
        names.map(|item| item["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names("pods"), ["web"]);
    assert_eq!(names("namespaces/default/pods?labelSelector=app%3Dweb"), ["web"]);
    assert_eq!(names("pods?fieldSelector=metadata.namespace%3Ddefault%2Cmetadata.name%3Dweb"), ["web"]);
    assert!(names("pods?labelSelector=app%3Ddb").is_empty());
    assert!(names("pods?fieldSelector=metadata.name%3Ddb").is_empty());
    assert!(names("nodes?labelSelector=zone%3Db").is_empty());
    let refused = |query: &str| server.refused(&format!("get --raw {raw}/{query}"), "");
    let field = refused("pods?fieldSelector=spec.nodeName%3Dn1");
    assert!(field.contains("field label not supported: spec.nodeName"), "{field}");
    let watch = refused("pods?watch=true");
    assert!(watch.contains("watch is not supported on resources of kind \"pods.metrics.k8s.io\""), "{watch}");
    let absent = refused("namespaces/default/pods/db");
    assert!(absent.contains("podmetrics.metrics.k8s.io \"default/db\" not found"), "{absent}");
    let delete = server.refused(&format!("delete --raw {raw}/namespaces/default/pods/web"), "");
    assert!(delete.contains("the server does not allow this method on the requested resource"), "{delete}");
    assert!(server.kubectl("explain podmetrics.containers").contains("usage\t<map[string]Quantity>"));
}

fn roles() {
    let server = measured();
    server.kubectl("create rolebinding readers --clusterrole=view --user=reader");
    assert_eq!(rows(&server.kubectl("top pods --no-headers --as=reader")), [["web", "252m", "5Mi"]]);
    assert!(server.refused("top nodes --as=reader", "").contains("nodes.metrics.k8s.io is forbidden"));
    assert!(server.refused("top pods --as=stranger", "").contains("pods.metrics.k8s.io is forbidden"));
    let role = server.object("clusterrole system:aggregated-metrics-reader");
    assert_eq!(role["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"], "true");
}
