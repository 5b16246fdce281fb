//! `kubectl edit`, `patch`, `label`, `annotate`, `replace` and `set`.

use serde_json::json;

use crate::KubectlTest;
use crate::server::TestServer;

pub(crate) const TESTS: &[KubectlTest] = &[
    ("edit::edits_with_an_editor", edits_with_an_editor),
    ("edit::patches_of_three_types", patches_of_three_types),
    ("edit::labels_and_annotates", labels_and_annotates),
    ("edit::replaces_and_conflicts", replaces_and_conflicts),
    ("edit::sets_images_and_variables", sets_images_and_variables),
];

fn edits_with_an_editor() {
    let server = TestServer::start();
    server.kubectl("create configmap c --from-literal=color=red");
    let editor = server.file("editor.sh", "#!/bin/sh\nsed -i 's/color: red/color: blue/' \"$1\"\n");
    let edit = |editor: &str| server.run(&["edit", "configmap", "c"], "", &[("KUBE_EDITOR", editor)]);
    let output = edit(&format!("sh {editor}"));
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), "configmap/c edited\n"), "{}", output.stderr);
    assert_eq!(server.object("configmap c")["data"]["color"], "blue");
    let nothing = edit("true");
    assert!(nothing.stderr.contains("Edit cancelled, no changes made"), "{}", nothing.stderr);
    server.kubectl("create deployment d --image=i");
    let editor = server.file("scale.sh", "#!/bin/sh\nsed -i 's/replicas: 1$/replicas: 4/' \"$1\"\n");
    let output = server.run(&["edit", "deployment", "d"], "", &[("KUBE_EDITOR", &format!("sh {editor}"))]);
    assert_eq!(output.stdout, "deployment.apps/d edited\n", "{}", output.stderr);
    assert_eq!(server.object("deployment d")["spec"]["replicas"], 4);
}

fn patches_of_three_types() {
    let server = TestServer::start();
    server.kubectl("create deployment d --image=one");
    let patch = |type_: &str, patch: &str| {
        server.kubectl_with(&["patch", "deployment", "d", &format!("--type={type_}"), "-p", patch], "")
    };
    let strategic = r#"{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"two"}]}}}}"#;
    assert_eq!(patch("strategic", strategic), "deployment.apps/d patched\n");
    assert_eq!(
        server.object("deployment d")["spec"]["template"]["spec"]["containers"].as_array().map(Vec::len),
        Some(2)
    );
    let removed = r#"{"spec":{"template":{"spec":{"containers":[{"$patch":"delete","name":"one"}]}}}}"#;
    patch("strategic", removed);
    let containers = server.object("deployment d")["spec"]["template"]["spec"]["containers"].clone();
    assert_eq!((containers.as_array().map(Vec::len), &containers[0]["name"]), (Some(1), &json!("side")));
    patch("merge", r#"{"metadata":{"labels":{"app":null,"tier":"x"}}}"#);
    assert_eq!(server.object("deployment d")["metadata"]["labels"], json!({"tier": "x"}));
    patch(
        "json",
        r#"[{"op":"test","path":"/spec/replicas","value":1},{"op":"replace","path":"/spec/replicas","value":7}]"#,
    );
    assert_eq!(server.object("deployment d")["spec"]["replicas"], 7);
    assert_eq!(patch("merge", r#"{"spec":{"replicas":7}}"#), "deployment.apps/d patched (no change)\n");
    let wrong = server.run(
        &["patch", "deployment", "d", "--type=json", "-p", r#"[{"op":"test","path":"/spec/replicas","value":1}]"#],
        "",
        &[],
    );
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.stderr.contains("is invalid"), "{}", wrong.stderr);
    let status = server.kubectl_with(
        &["patch", "deployment", "d", "--subresource=status", "--type=merge", "-p", r#"{"status":{"replicas":3}}"#],
        "",
    );
    assert_eq!(status, "deployment.apps/d patched\n");
    assert_eq!(server.object("deployment d")["status"]["replicas"], 3);
}

fn labels_and_annotates() {
    let server = TestServer::start();
    server.kubectl("create configmap c");
    assert_eq!(server.kubectl("label configmap c tier=front"), "configmap/c labeled\n");
    let again = server.refused("label configmap c tier=back", "");
    assert!(again.contains("'tier' already has a value (front), and --overwrite is false"), "{again}");
    server.kubectl("label configmap c tier=back --overwrite");
    assert_eq!(server.kubectl("annotate configmap c note=hello"), "configmap/c annotated\n");
    let object = server.object("configmap c");
    assert_eq!(
        (&object["metadata"]["labels"]["tier"], &object["metadata"]["annotations"]["note"]),
        (&json!("back"), &json!("hello"))
    );
    assert_eq!(server.kubectl("label configmap c tier-"), "configmap/c unlabeled\n");
    assert!(server.object("configmap c")["metadata"]["labels"]["tier"].is_null());
    let wrong = server.refused("label configmap c a=b/c", "");
    assert!(wrong.contains("a valid label must be an empty string or consist of alphanumeric characters"), "{wrong}");
    server.kubectl("label namespace default istio-injection=enabled");
    assert_eq!(server.kubectl("get namespaces -l istio-injection=enabled -o name"), "namespace/default\n");
}

fn replaces_and_conflicts() {
    let server = TestServer::start();
    server.kubectl("create configmap c --from-literal=a=1");
    let read = server.kubectl("get configmap c -o json");
    assert_eq!(
        server.kubectl_with(&["replace", "-f", "-"], &read.replace("\"a\": \"1\"", "\"a\": \"2\"")),
        "configmap/c replaced\n"
    );
    let stale = server.refused("replace -f -", &read.replace("\"a\": \"1\"", "\"a\": \"3\""));
    assert!(
        stale.contains("Operation cannot be fulfilled on configmaps \"c\": the object has been modified; please apply your changes to the latest version and try again"),
        "{stale}"
    );
    let replaced = server
        .kubectl_with(&["replace", "--force", "-f", "-"], "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n");
    assert!(replaced.contains("configmap/c replaced"), "{replaced}");
}

fn sets_images_and_variables() {
    let server = TestServer::start();
    server.kubectl("create deployment d --image=one");
    assert_eq!(server.kubectl("set image deployment/d one=two"), "deployment.apps/d image updated\n");
    assert_eq!(server.kubectl("set env deployment/d A=1"), "deployment.apps/d env updated\n");
    let container = server.object("deployment d")["spec"]["template"]["spec"]["containers"][0].clone();
    assert_eq!((&container["image"], &container["env"][0]["value"]), (&json!("two"), &json!("1")));
    assert_eq!(server.object("deployment d")["metadata"]["generation"], 3);
}
