//! `kubectl get`, `describe` and watches.

use serde_json::json;

use crate::KubectlTest;
use crate::server::{TestServer, rows};

pub(crate) const TESTS: &[KubectlTest] = &[
    ("get::tables", tables),
    ("get::wide_tables_and_labels", wide_tables_and_labels),
    ("get::structured_output", structured_output),
    ("get::selectors", selectors),
    ("get::watches", watches),
    ("get::all", all),
    ("get::pages", pages),
    ("get::describes", describes),
];

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: NAME, labels: {app: NAME}}\nspec: {nodeName: n1, containers: [{name: app, image: i}]}\n";

fn pod(server: &TestServer, name: &str) {
    server.apply(&POD.replace("NAME", name));
}

fn tables() {
    let server = TestServer::with_account();
    let namespaces = server.kubectl("get namespaces");
    assert_eq!(rows(&namespaces)[0], ["NAME", "STATUS", "AGE"]);
    assert!(rows(&namespaces).iter().any(|row| row[..2] == ["default", "Active"]), "{namespaces}");
    pod(&server, "web");
    let status = json!({"phase": "Running", "podIP": "10.244.0.9", "podIPs": [{"ip": "10.244.0.9"}],
        "containerStatuses": [{"name": "app", "ready": true, "restartCount": 0, "image": "i", "imageID": "", "state": {"running": {}}}]});
    server.set_status("pod/web", &status);
    let pods = server.kubectl("get pods");
    assert_eq!(rows(&pods)[0], ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(rows(&pods)[1][..4], ["web", "1/1", "Running", "0"]);
    let everywhere = server.kubectl("get pods -A");
    assert_eq!(rows(&everywhere)[1][..2], ["default", "web"]);
    let services = server.kubectl("get services");
    assert_eq!(rows(&services)[0], ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]);
    assert_eq!(rows(&services)[1][..5], ["kubernetes", "ClusterIP", "10.96.0.1", "<none>", "443/TCP"]);
    assert!(server.refused("get pod nobody", "").contains("Error from server (NotFound): pods \"nobody\" not found"));
    let empty = server.run(&["get", "pods", "-n", "kube-system"], "", &[]);
    assert_eq!(empty.stderr.trim(), "No resources found in kube-system namespace.");
    assert!(server.refused("get nonsense", "").contains("the server doesn't have a resource type \"nonsense\""));
}

fn wide_tables_and_labels() {
    let server = TestServer::with_account();
    pod(&server, "web");
    let wide = server.kubectl("get pods -o wide");
    let header = "NAME   READY   STATUS    RESTARTS   AGE";
    assert!(wide.starts_with(header), "{wide}");
    for column in ["IP", "NODE", "NOMINATED NODE", "READINESS GATES"] {
        assert!(wide.contains(column), "{wide}");
    }
    assert!(rows(&wide)[1].contains(&"n1"));
    let labels = server.kubectl("get pods --show-labels");
    assert!(rows(&labels)[1].contains(&"app=web"), "{labels}");
    let column = server.kubectl("get pods -L app --no-headers");
    assert_eq!(rows(&column)[0].last(), Some(&"web"));
    let names = server.kubectl("get pods -o name");
    assert_eq!(names, "pod/web\n");
    let custom = server.kubectl("get pods -o custom-columns=N:.metadata.name,I:.spec.containers[*].image");
    assert_eq!(rows(&custom), [["N", "I"], ["web", "i"]]);
}

fn structured_output() {
    let server = TestServer::with_account();
    pod(&server, "web");
    let yaml = server.kubectl("get pod web -o yaml");
    assert!(
        yaml.starts_with("apiVersion: v1\nkind: Pod\nmetadata:\n") && yaml.contains("\n  restartPolicy: Always\n"),
        "{yaml}"
    );
    let object = server.object("pod web");
    assert_eq!(object["spec"]["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(object["status"]["phase"], "Pending");
    let list = server.object("pods");
    assert_eq!((&list["kind"], &list["items"][0]["metadata"]["name"]), (&json!("List"), &json!("web")));
    assert_eq!(server.kubectl("get pod web -o jsonpath={.spec.containers[0].name}"), "app");
    assert_eq!(server.kubectl("get pods -o jsonpath={range.items[*]}{.metadata.name}{end}"), "web");
    let raw = server.kubectl("get --raw /api/v1/namespaces/default/pods/web");
    assert!(raw.contains("\"kind\":\"Pod\""), "{raw}");
    assert_eq!(server.kubectl("get --raw /readyz"), "ok");
}

fn selectors() {
    let server = TestServer::with_account();
    for name in ["web", "db", "cache"] {
        pod(&server, name);
    }
    server.set_status("pod/db", &json!({"phase": "Running"}));
    let names = |selector: &str| server.kubectl(&format!("get pods -o name {selector}"));
    assert_eq!(names("-l app=web"), "pod/web\n");
    assert_eq!(names("-l app!=web"), "pod/cache\npod/db\n");
    assert_eq!(names("--selector=app"), "pod/cache\npod/db\npod/web\n");
    assert_eq!(server.kubectl_with(&["get", "pods", "-o", "name", "-l", "app in (web, db)"], ""), "pod/db\npod/web\n");
    assert_eq!(names("--field-selector=status.phase=Running"), "pod/db\n");
    assert_eq!(names("--field-selector=metadata.name=cache"), "pod/cache\n");
    assert_eq!(names("--field-selector=spec.nodeName=n1,status.phase!=Running"), "pod/cache\npod/web\n");
    assert!(
        server.refused("get pods --field-selector=spec.image=i", "").contains("field label not supported: spec.image")
    );
    assert_eq!(names("--sort-by=.metadata.name"), "pod/cache\npod/db\npod/web\n");
}

fn watches() {
    let server = TestServer::with_account();
    pod(&server, "web");
    let watch = server.spawn("get pods --watch");
    watch.line_with("web");
    server.set_status("pod/web", &json!({"phase": "Running"}));
    assert!(watch.line_with("Running").starts_with("web"));
    pod(&server, "later");
    watch.line_with("later");
    server.kubectl("delete pod web --force --grace-period=0 --wait=false");
    watch.line_with("web");
    let events = server.spawn("get pods --watch-only --output-watch-events -v=6");
    events.watches();
    server.kubectl("label pod later color=blue");
    assert!(events.line_with("MODIFIED").contains("later"));
}

fn all() {
    let server = TestServer::with_account();
    pod(&server, "web");
    let output = server.run(&["get", "all"], "", &[]);
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
    assert!(output.stdout.contains("pod/web") && output.stdout.contains("service/kubernetes"), "{}", output.stdout);
}

fn pages() {
    let server = TestServer::start();
    let manifest: String = (0..12)
        .map(|index| {
            format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c-{index:02}, labels: {{page: \"yes\"}}}}\n---\n"
            )
        })
        .collect();
    server.apply(&manifest);
    let names = server.kubectl("get configmaps -l page=yes -o name --chunk-size=5");
    assert_eq!(names.lines().count(), 12, "{names}");
    let first = server.kubectl("get --raw /api/v1/namespaces/default/configmaps?limit=5&labelSelector=page%3Dyes");
    let first: serde_json::Value = serde_json::from_str(&first).expect("JSON");
    assert_eq!(first["metadata"]["remainingItemCount"].as_i64().unwrap_or(7), 7);
    assert!(first["metadata"]["continue"].as_str().is_some_and(|token| !token.is_empty()), "{first}");
}

fn describes() {
    let server = TestServer::with_account();
    pod(&server, "web");
    server.apply("apiVersion: v1\nkind: Event\nmetadata: {name: web.1}\ninvolvedObject: {apiVersion: v1, kind: Pod, name: web, namespace: default}\ntype: Normal\nreason: Started\nmessage: Started container app\nsource: {component: node-agent}\n");
    let described = server.kubectl("describe pod web");
    for part in [
        "Name:             web",
        "Node:             n1/",
        "Containers:\n  app:\n    Image:",
        "Status:           Pending",
    ] {
        assert!(described.contains(part), "no {part:?} in {described}");
    }
    let uid = server.kubectl("get pod web -o jsonpath={.metadata.uid}");
    let patch = json!({"involvedObject": {"uid": uid}}).to_string();
    server.kubectl_with(&["patch", "event", "web.1", "--type=merge", "-p", &patch], "");
    let described = server.kubectl("describe pod web");
    assert!(described.contains("Started container app"), "{described}");
    let service = server.kubectl("describe service kubernetes");
    assert!(
        service.contains("IP:                       10.96.0.1") || service.contains("IP:                10.96.0.1"),
        "{service}"
    );
    let namespace = server.kubectl("describe namespace default");
    assert!(namespace.contains("Status:       Active") && namespace.contains("No resource quota."), "{namespace}");
    server.apply("apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n");
    assert!(server.kubectl("describe node n1").contains("Non-terminated Pods:"));
    server.kubectl("create deployment shop --image=i");
    assert!(server.kubectl("describe deployment shop").contains("StrategyType:           RollingUpdate"));
    server.kubectl("create configmap c --from-literal=a=b");
    assert!(server.kubectl("describe configmap c").contains("a:\n----\nb"));
}
