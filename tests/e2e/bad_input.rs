//! Wrong input of users and of other clusters: errors say what, where and what to do, and everything else keeps
//! working.

use std::time::Duration;

use crate::support::{Lab, TestDirectory, User, eventually};

/// Runs `isthmus lab up` with a wrong topology and returns its error.
fn refused(directory: &TestDirectory, name: &str, topology: &str) -> String {
    let file = directory.path("topologies").join(name);
    std::fs::write(&file, topology).expect("written");
    let output = directory.isthmus().args(["lab", "up"]).arg(&file).output().expect("isthmus lab up");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    text
}

#[test]
fn a_wrong_topology_is_reported_with_line_and_hint() {
    let directory = TestDirectory::new(User::Own);
    let good = std::fs::read_to_string(directory.path("topologies/primary-remote.yaml")).expect("read");

    let text = refused(&directory, "network.yaml", &good.replacen("network: net-east", "network: net-esat", 1));
    assert!(text.contains("network.yaml:") && text.contains("Did you mean \"net-east\"?"), "{text}");
    let text = refused(&directory, "field.yaml", &good.replacen("region: us-east", "regoin: us-east", 1));
    assert!(text.contains("field.yaml:") && text.contains("regoin"), "{text}");
    let text = refused(&directory, "twice.yaml", &good.replacen("- name: east", "- name: west", 1));
    assert!(text.contains("twice.yaml:") && text.contains("\"west\""), "{text}");
    let text =
        refused(&directory, "manifest.yaml", &format!("{good}\n  manifests:\n    - path: nowhere/at-all.yaml\n"));
    assert!(text.contains("manifest.yaml:") && text.contains("nowhere/at-all.yaml"), "{text}");
    std::fs::write(directory.path("topologies/half.yaml"), "kind: ConfigMap\nmetadata: {name: a}\n").expect("written");
    let text = refused(&directory, "half-used.yaml", &format!("{good}\n  manifests:\n    - path: half.yaml\n"));
    assert!(
        text.contains("half-used.yaml:") && text.contains("\"half.yaml\"") && text.contains("no apiVersion"),
        "{text}"
    );
    let text = refused(&directory, "name.yaml", &good.replacen("name: primary-remote", "name: ../evil", 1));
    assert!(text.contains("name.yaml:") && text.contains("\"../evil\" is not a valid lab name"), "{text}");
    let text = refused(&directory, "broken.yaml", "kind: [Topology\n");
    assert!(text.contains("broken.yaml:"), "{text}");

    let output = directory.isthmus().args(["lab", "up", "topologies/absent.yaml"]).output().expect("run");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("absent.yaml"), "{text}");
    directory.assert_nothing_left();
}

fn remote_secret(name: &str, cluster: &str, kubeconfig: Option<&str>) -> String {
    let mut secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "namespace": "istio-system", "labels": {"istio/multiCluster": "true"}},
        "stringData": {},
    });
    if let Some(kubeconfig) = kubeconfig {
        secret["stringData"][cluster] = kubeconfig.into();
    }
    secret.to_string()
}

fn kubeconfig(server: &str, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts: [{{name: x, context: {{cluster: x, user: x}}}}]\n\
         clusters: [{{name: x, cluster: {{server: '{server}', insecure-skip-tls-verify: true}}}}]\n\
         users: [{{name: x, user: {user}}}]\n"
    )
}

/// The status names every wrong remote secret, and ratings keeps answering.
#[test]
fn a_wrong_remote_secret_is_reported_and_disturbs_nothing() {
    let lab = Lab::up("primary-remote.yaml", User::Own);
    let token = "{token: not-a-token}";
    lab.apply("west", &remote_secret("empty", "nothing", None));
    lab.apply("west", &remote_secret("broken", "broken", Some("{ this is: [not a kubeconfig")));
    lab.apply(
        "west",
        &remote_secret(
            "program",
            "program",
            Some(&kubeconfig(
                "https://203.0.113.2:6443",
                "{exec: {command: sh, apiVersion: client.authentication.k8s.io/v1}}",
            )),
        ),
    );
    lab.apply(
        "west",
        &remote_secret("unreachable", "unreachable", Some(&kubeconfig("https://203.0.113.99:6443", token))),
    );
    lab.apply("west", &remote_secret("refusing", "refusing", Some(&kubeconfig("https://203.0.113.2:6443", token))));
    lab.apply("west", &remote_secret("itself", "west", Some(&kubeconfig("https://203.0.113.1:6443", token))));
    lab.apply("west", &remote_secret("twice", "east", Some(&kubeconfig("https://203.0.113.2:6443", token))));

    let status = eventually(Duration::from_secs(30), || {
        let status = lab.isthmus(&["status", "-o", "json"]).json().to_string();
        let names = ["broken", "program", "unreachable", "refusing", "itself", "twice", "empty"];
        match names.iter().find(|name| !status.contains(**name)) {
            None => Ok(status),
            Some(name) => Err(format!("{name} is not reported: {status}")),
        }
    })
    .expect("each is reported");
    println!("{status}");
    let answer = lab.get("west/default/frontend", "http://ratings:9080/").expect("ratings answers");
    assert_eq!(answer["cluster"], "east");
    lab.down();
}
