//! `kubectl apply`, client-side and server-side.

use crate::KubectlTest;
use crate::server::TestServer;

pub(crate) const TESTS: &[KubectlTest] = &[
    ("apply::creates_updates_and_prunes_fields", creates_updates_and_prunes_fields),
    ("apply::merges_lists_by_key", merges_lists_by_key),
    ("apply::server_side_tracks_owners", server_side_tracks_owners),
    ("apply::rejects_invalid_manifests", rejects_invalid_manifests),
    ("apply::dry_runs_and_diffs", dry_runs_and_diffs),
    ("apply::applies_several_documents", applies_several_documents),
    ("apply::prunes_objects_that_left_the_manifest", prunes_objects_that_left_the_manifest),
];

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {tier: front}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: app
        image: isthmus/testapp
        args: [--verbose]
        ports: [{containerPort: 9080, name: http}]
        env: [{name: A, value: "1"}, {name: B, value: "2"}]
"#;

fn creates_updates_and_prunes_fields() {
    let server = TestServer::start();
    assert_eq!(server.apply(DEPLOYMENT), "deployment.apps/web created\n");
    assert_eq!(server.apply(DEPLOYMENT), "deployment.apps/web unchanged\n");
    let first = server.object("deployment web");
    assert_eq!(first["metadata"]["generation"], 1);
    assert_eq!(first["spec"]["strategy"]["type"], "RollingUpdate");

    let changed = DEPLOYMENT.replace("replicas: 2", "replicas: 3").replace("        args: [--verbose]\n", "");
    let changed = changed.replace("labels: {tier: front}", "labels: {owner: me}");
    assert_eq!(server.apply(&changed), "deployment.apps/web configured\n");
    let second = server.object("deployment web");
    assert_eq!(second["spec"]["replicas"], 3);
    assert!(second["spec"]["template"]["spec"]["containers"][0].get("args").is_none(), "args were not pruned");
    assert_eq!(second["metadata"]["labels"], serde_json::json!({"owner": "me"}));
    assert_eq!(second["metadata"]["generation"], 2);
    assert_eq!(second["metadata"]["uid"], first["metadata"]["uid"]);
}

fn merges_lists_by_key() {
    let server = TestServer::start();
    server.apply(DEPLOYMENT);
    // Another client adds a container and a variable. The next apply keeps both, because it never listed them.
    let other = r#"{"spec":{"template":{"spec":{"containers":[{"name":"proxy","image":"p"},{"name":"app","env":[{"name":"C","value":"3"}]}]}}}}"#;
    server.kubectl_with(&["patch", "deployment", "web", "-p", other], "");
    server.apply(&DEPLOYMENT.replace(r#"{name: B, value: "2"}"#, r#"{name: D, value: "4"}"#));
    let template = server.object("deployment web")["spec"]["template"]["spec"].clone();
    let names = |list: &serde_json::Value| -> Vec<String> {
        let mut names: Vec<String> = list
            .as_array()
            .expect("a list")
            .iter()
            .map(|item| item["name"].as_str().expect("a name").to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&template["containers"]), ["app", "proxy"]);
    let app =
        template["containers"].as_array().expect("a list").iter().find(|item| item["name"] == "app").expect("app");
    assert_eq!(names(&app["env"]), ["A", "C", "D"]);
}

fn server_side_tracks_owners() {
    let server = TestServer::start();
    let config = |value: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata: {{{value}}}\n");
    let apply = |manager: &str, manifest: &str, more: &str| {
        let field_manager = format!("--field-manager={manager}");
        let mut arguments = vec!["apply", "--server-side", &field_manager, "-f", "-"];
        arguments.extend(more.split_whitespace());
        server.run(&arguments, manifest, &[])
    };
    let first = apply("one", &config("a: old, b: old"), "");
    assert_eq!(first.stdout, "configmap/c serverside-applied\n", "{}", first.stderr);
    let second = apply("two", &config("c: new"), "");
    assert_eq!(second.stdout, "configmap/c serverside-applied\n", "{}", second.stderr);
    let conflict = apply("two", &config("a: taken, c: new"), "");
    assert_eq!(conflict.code, Some(1));
    assert!(conflict.stderr.contains("conflict with \"one\": .data.a"), "{}", conflict.stderr);
    apply("two", &config("a: taken, c: new"), "--force-conflicts");
    // `b` is removed with its only owner; `a` belongs to the other manager.
    apply("one", &config("d: more"), "");
    assert_eq!(server.object("configmap c")["data"], serde_json::json!({"a": "taken", "c": "new", "d": "more"}));
    let managed = server.kubectl("get configmap c -o yaml --show-managed-fields");
    assert!(managed.contains("manager: one") && managed.contains("f:data:"), "{managed}");
}

fn rejects_invalid_manifests() {
    let server = TestServer::start();
    let unknown = server.refused("apply -f -", &DEPLOYMENT.replace("replicas: 2", "replica: 2"));
    assert!(unknown.contains(r#"strict decoding error: unknown field "spec.replica""#), "{unknown}");
    let typed = server.refused("apply -f -", &DEPLOYMENT.replace("replicas: 2", "replicas: two"));
    assert!(
        typed.contains("json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"),
        "{typed}"
    );
    let mismatch =
        server.refused("apply -f -", &DEPLOYMENT.replace("matchLabels: {app: web}", "matchLabels: {app: other}"));
    assert!(
        mismatch.contains("The Deployment \"web\" is invalid: spec.template.metadata.labels: Invalid value:"),
        "{mismatch}"
    );
    let named = server.refused("apply -f -", &DEPLOYMENT.replace("name: web", "name: Web"));
    assert!(named.contains("a lowercase RFC 1123 subdomain must consist of"), "{named}");
    let namespace = server.refused("apply -n absent -f -", DEPLOYMENT);
    assert!(namespace.contains("namespaces \"absent\" not found"), "{namespace}");
    let kind = server.refused("apply -f -", "apiVersion: example.com/v1\nkind: Nothing\nmetadata: {name: a}\n");
    assert!(kind.contains("no matches for kind \"Nothing\" in version \"example.com/v1\""), "{kind}");
    server.apply(DEPLOYMENT);
    let moved = DEPLOYMENT.replace("app: web", "app: moved");
    let immutable = server.refused("apply -f -", &moved);
    assert!(immutable.contains("field is immutable"), "{immutable}");
    // Unknown fields are warnings with --validate=warn.
    let warned =
        server.run(&["apply", "--validate=warn", "-f", "-"], &DEPLOYMENT.replace("replicas: 2", "replica: 2"), &[]);
    assert_eq!(warned.code, Some(0), "{}", warned.stderr);
    assert!(warned.stderr.contains("Warning: unknown field \"spec.replica\""), "{}", warned.stderr);
}

fn dry_runs_and_diffs() {
    let server = TestServer::start();
    let dry = server.kubectl_with(&["apply", "--dry-run=server", "-f", "-"], DEPLOYMENT);
    assert_eq!(dry, "deployment.apps/web created (server dry run)\n");
    assert!(server.refused("get deployment web", "").contains("deployments.apps \"web\" not found"));
    server.apply(DEPLOYMENT);
    assert_eq!(server.kubectl_with(&["diff", "-f", "-"], DEPLOYMENT), "");
    let diff = server.run(&["diff", "-f", "-"], &DEPLOYMENT.replace("replicas: 2", "replicas: 5"), &[]);
    assert_eq!(diff.code, Some(1), "{}", diff.stderr);
    assert!(diff.stdout.contains("-  replicas: 2") && diff.stdout.contains("+  replicas: 5"), "{}", diff.stdout);
}

fn applies_several_documents() {
    let server = TestServer::start();
    let manifest = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n\
        apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: cart, namespace: shop}\n---\n\
        apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\nspec: {ports: [{port: 80, targetPort: http}], selector: {app: cart}}\n";
    assert_eq!(server.apply(manifest), "namespace/shop created\nserviceaccount/cart created\nservice/cart created\n");
    let service = server.object("service cart -n shop");
    assert!(service["spec"]["clusterIP"].as_str().is_some_and(|ip| ip.starts_with("10.96.")), "{service}");
    assert_eq!(
        server.apply(manifest),
        "namespace/shop unchanged\nserviceaccount/cart unchanged\nservice/cart unchanged\n"
    );
    let pruned = manifest.split_once("---").expect("documents").0;
    assert_eq!(server.apply(pruned), "namespace/shop unchanged\n");
}

fn prunes_objects_that_left_the_manifest() {
    let server = TestServer::start();
    let one =
        |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{set: a}}}}\n---\n");
    let apply = |manifest: &str| server.kubectl_with(&["apply", "--prune", "-l", "set=a", "-f", "-"], manifest);
    apply(&[one("first"), one("second")].concat());
    server.kubectl("create configmap bystander");
    let output = apply(&one("first"));
    assert!(output.contains("configmap/second pruned"), "{output}");
    assert!(server.refused("get configmap second", "").contains("not found"));
    server.kubectl("get configmap first bystander");
}
