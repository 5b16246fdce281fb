//! `kubectl get`, `describe` and watching.

use serde_json::json;

use crate::Test;
use crate::bench::{Bench, rows};

pub(crate) const TESTS: &[Test] = &[
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

fn pod(bench: &Bench, name: &str) {
    bench.apply(&POD.replace("NAME", name));
}

fn tables() {
    let bench = Bench::with_account();
    let namespaces = bench.kubectl("get namespaces");
    assert_eq!(rows(&namespaces)[0], ["NAME", "STATUS", "AGE"]);
    assert!(rows(&namespaces).iter().any(|row| row[..2] == ["default", "Active"]), "{namespaces}");
    pod(&bench, "web");
    let status = json!({"phase": "Running", "podIP": "10.244.0.9", "podIPs": [{"ip": "10.244.0.9"}],
        "containerStatuses": [{"name": "app", "ready": true, "restartCount": 0, "image": "i", "imageID": "", "state": {"running": {}}}]});
    bench.set_status("pod/web", &status);
    let pods = bench.kubectl("get pods");
    assert_eq!(rows(&pods)[0], ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(rows(&pods)[1][..4], ["web", "1/1", "Running", "0"]);
    let everywhere = bench.kubectl("get pods -A");
    assert_eq!(rows(&everywhere)[1][..2], ["default", "web"]);
    let services = bench.kubectl("get services");
    assert_eq!(rows(&services)[0], ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]);
    assert_eq!(rows(&services)[1][..5], ["kubernetes", "ClusterIP", "10.96.0.1", "<none>", "443/TCP"]);
    assert!(bench.refused("get pod nobody", "").contains("Error from server (NotFound): pods \"nobody\" not found"));
    let empty = bench.run(&["get", "pods", "-n", "kube-system"], "", &[]);
    assert_eq!(empty.stderr.trim(), "No resources found in kube-system namespace.");
    assert!(bench.refused("get nonsense", "").contains("the server doesn't have a resource type \"nonsense\""));
}

fn wide_tables_and_labels() {
    let bench = Bench::with_account();
    pod(&bench, "web");
    let wide = bench.kubectl("get pods -o wide");
    let header = "NAME   READY   STATUS    RESTARTS   AGE";
    assert!(wide.starts_with(header), "{wide}");
    for column in ["IP", "NODE", "NOMINATED NODE", "READINESS GATES"] {
        assert!(wide.contains(column), "{wide}");
    }
    assert!(rows(&wide)[1].contains(&"n1"));
    let labels = bench.kubectl("get pods --show-labels");
    assert!(rows(&labels)[1].contains(&"app=web"), "{labels}");
    let column = bench.kubectl("get pods -L app --no-headers");
    assert_eq!(rows(&column)[0].last(), Some(&"web"));
    let names = bench.kubectl("get pods -o name");
    assert_eq!(names, "pod/web\n");
    let custom = bench.kubectl("get pods -o custom-columns=N:.metadata.name,I:.spec.containers[*].image");
    assert_eq!(rows(&custom), [["N", "I"], ["web", "i"]]);
}

fn structured_output() {
    let bench = Bench::with_account();
    pod(&bench, "web");
    let yaml = bench.kubectl("get pod web -o yaml");
    assert!(
        yaml.starts_with("apiVersion: v1\nkind: Pod\nmetadata:\n") && yaml.contains("\n  restartPolicy: Always\n"),
        "{yaml}"
    );
    let object = bench.object("pod web");
    assert_eq!(object["spec"]["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(object["status"]["phase"], "Pending");
    let list = bench.object("pods");
    assert_eq!((&list["kind"], &list["items"][0]["metadata"]["name"]), (&json!("List"), &json!("web")));
    assert_eq!(bench.kubectl("get pod web -o jsonpath={.spec.containers[0].name}"), "app");
    assert_eq!(bench.kubectl("get pods -o jsonpath={range.items[*]}{.metadata.name}{end}"), "web");
    let raw = bench.kubectl("get --raw /api/v1/namespaces/default/pods/web");
    assert!(raw.contains("\"kind\":\"Pod\""), "{raw}");
    assert_eq!(bench.kubectl("get --raw /readyz"), "ok");
}

fn selectors() {
    let bench = Bench::with_account();
    for name in ["web", "db", "cache"] {
        pod(&bench, name);
    }
    bench.set_status("pod/db", &json!({"phase": "Running"}));
    let names = |selector: &str| bench.kubectl(&format!("get pods -o name {selector}"));
    assert_eq!(names("-l app=web"), "pod/web\n");
    assert_eq!(names("-l app!=web"), "pod/cache\npod/db\n");
    assert_eq!(names("--selector=app"), "pod/cache\npod/db\npod/web\n");
    assert_eq!(bench.kubectl_with(&["get", "pods", "-o", "name", "-l", "app in (web, db)"], ""), "pod/db\npod/web\n");
    assert_eq!(names("--field-selector=status.phase=Running"), "pod/db\n");
    assert_eq!(names("--field-selector=metadata.name=cache"), "pod/cache\n");
    assert_eq!(names("--field-selector=spec.nodeName=n1,status.phase!=Running"), "pod/cache\npod/web\n");
    assert!(
        bench.refused("get pods --field-selector=spec.image=i", "").contains("field label not supported: spec.image")
    );
    assert_eq!(names("--sort-by=.metadata.name"), "pod/cache\npod/db\npod/web\n");
}

fn watches() {
    let bench = Bench::with_account();
    pod(&bench, "web");
    let watch = bench.spawn("get pods --watch");
    watch.line_with("web");
    bench.set_status("pod/web", &json!({"phase": "Running"}));
    assert!(watch.line_with("Running").starts_with("web"));
    pod(&bench, "later");
    watch.line_with("later");
    bench.kubectl("delete pod web --force --grace-period=0 --wait=false");
    watch.line_with("web");
    let events = bench.spawn("get pods --watch-only --output-watch-events -v=6");
    events.watches();
    bench.kubectl("label pod later color=blue");
    assert!(events.line_with("MODIFIED").contains("later"));
}

fn all() {
    let bench = Bench::with_account();
    pod(&bench, "web");
    let said = bench.run(&["get", "all"], "", &[]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    assert!(said.stdout.contains("pod/web") && said.stdout.contains("service/kubernetes"), "{}", said.stdout);
}

fn pages() {
    let bench = Bench::start();
    let manifest: String = (0..12)
        .map(|index| {
            format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c-{index:02}, labels: {{page: \"yes\"}}}}\n---\n"
            )
        })
        .collect();
    bench.apply(&manifest);
    let names = bench.kubectl("get configmaps -l page=yes -o name --chunk-size=5");
    assert_eq!(names.lines().count(), 12, "{names}");
    let first = bench.kubectl("get --raw /api/v1/namespaces/default/configmaps?limit=5&labelSelector=page%3Dyes");
    let first: serde_json::Value = serde_json::from_str(&first).expect("JSON");
    assert_eq!(first["metadata"]["remainingItemCount"].as_i64().unwrap_or(7), 7);
    assert!(first["metadata"]["continue"].as_str().is_some_and(|token| !token.is_empty()), "{first}");
}

fn describes() {
    let bench = Bench::with_account();
    pod(&bench, "web");
    bench.apply("apiVersion: v1\nkind: Event\nmetadata: {name: web.1}\ninvolvedObject: {apiVersion: v1, kind: Pod, name: web, namespace: default}\ntype: Normal\nreason: Started\nmessage: Started container app\nsource: {component: node-agent}\n");
    let described = bench.kubectl("describe pod web");
    for part in [
        "Name:             web",
        "Node:             n1/",
        "Containers:\n  app:\n    Image:",
        "Status:           Pending",
    ] {
        assert!(described.contains(part), "no {part:?} in {described}");
    }
    let uid = bench.kubectl("get pod web -o jsonpath={.metadata.uid}");
    let patch = json!({"involvedObject": {"uid": uid}}).to_string();
    bench.kubectl_with(&["patch", "event", "web.1", "--type=merge", "-p", &patch], "");
    let described = bench.kubectl("describe pod web");
    assert!(described.contains("Started container app"), "{described}");
    let service = bench.kubectl("describe service kubernetes");
    assert!(
        service.contains("IP:                       10.96.0.1") || service.contains("IP:                10.96.0.1"),
        "{service}"
    );
    let namespace = bench.kubectl("describe namespace default");
    assert!(namespace.contains("Status:       Active") && namespace.contains("No resource quota."), "{namespace}");
    bench.apply("apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n");
    assert!(bench.kubectl("describe node n1").contains("Non-terminated Pods:"));
    bench.kubectl("create deployment shop --image=i");
    assert!(bench.kubectl("describe deployment shop").contains("StrategyType:           RollingUpdate"));
    bench.kubectl("create configmap c --from-literal=a=b");
    assert!(bench.kubectl("describe configmap c").contains("a:\n----\nb"));
}
