use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::yaml;

/// Returns the objects of a folder's files, and the codes that comments in them expect, by file and line.
fn read(folder: &Path, objects: &mut Vec<Object>, expected: &mut BTreeSet<(String, u64, String)>) {
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            read(&path, objects, expected);
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("text");
        let file: Arc<str> = path.file_name().expect("a name").to_string_lossy().into();
        for (number, line) in text.lines().enumerate() {
            let codes = line.split_once("# IST").map(|(_, codes)| format!("IST{codes}")).unwrap_or_default();
            for code in codes.split_whitespace() {
                expected.insert((file.to_string(), number as u64 + 1, code.to_owned()));
            }
        }
        for document in yaml::documents(&text) {
            for found in Object::of_document(document.expect("YAML"), &file, "default") {
                match found {
                    Ok(object) => objects.push(object),
                    // The command reports it.
                    Err((line, _)) => {
                        assert!(expected.remove(&(file.to_string(), line, "IST0106".to_owned())), "{line}");
                    }
                }
            }
        }
    }
}

#[test]
fn every_mistake_is_found_in_its_line() {
    let (mut objects, mut expected) = (Vec::new(), BTreeSet::new());
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mistakes"), &mut objects, &mut expected);
    let found: BTreeSet<_> = analyze(&objects, &[])
        .into_iter()
        .map(|message| (message.file.expect("a file"), message.line.expect("a line"), message.code.to_owned()))
        .collect();
    let missing: Vec<_> = expected.difference(&found).collect();
    let more: Vec<_> = found.difference(&expected).collect();
    assert!(missing.is_empty() && more.is_empty(), "missing: {missing:#?}\nnot expected: {more:#?}");
    assert!(expected.len() >= 42, "{}", expected.len());
    let codes: BTreeSet<_> = expected.iter().map(|(_, _, code)| code).collect();
    assert!(codes.len() >= 26, "{codes:?}");
}

fn messages(text: &str) -> Vec<Message> {
    let path: Arc<str> = "a.yaml".into();
    let documents = yaml::documents(text).into_iter().map(|document| document.expect("YAML"));
    let objects = documents.flat_map(|document| Object::of_document(document, &path, "shop"));
    analyze(&objects.collect::<Result<Vec<_>, _>>().expect("objects"), &[])
}

/// The configurations that users have lack what they refer to, and nothing else.
#[test]
fn objects_that_users_have_are_valid() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../install/tests/accepted");
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        let found = messages(&std::fs::read_to_string(&path).expect("text"));
        let known = ["IST0101", "IST0174"];
        let errors: Vec<_> =
            found.iter().filter(|of| of.level == Severity::Error && !known.contains(&of.code)).collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
    }
}

/// A field that has no effect is named with its file and line.
#[test]
fn a_tolerated_field_has_a_line() {
    let text = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n  host: '*'\n  \
                trafficPolicy:\n    outlierDetection:\n      interval: 1s\n      minRequestVolume: 10\n";
    let found = messages(text);
    assert!(found.iter().any(|of| of.reference() == "a.yaml:9" && of.level == Severity::Warning), "{found:#?}");
}

#[test]
fn objects_of_clusters_and_suppressed_messages() {
    let cluster: Arc<str> = "west".into();
    let service = |name: &str, cluster: &Arc<str>| {
        let object = serde_json::json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews"}}]}], "unknown": 1},
        });
        Object::of_cluster(object, cluster)
    };
    // The same object of two clusters is no conflict, and a field that is stored is no error.
    let same = [service("a", &cluster), service("a", &"east".into())];
    let found = analyze(&same, &[]);
    let codes: Vec<_> = found.iter().map(|of| (of.reference(), of.code, of.level)).collect();
    let of = |cluster: &str| {
        [(cluster.to_owned(), "IST0101", Severity::Error), (cluster.to_owned(), "IST0106", Severity::Warning)]
    };
    assert_eq!(codes, [of("east"), of("west")].concat());
    assert_eq!(found[0].origin(), "VirtualService shop/a");

    let both = [service("a", &cluster), service("b", &cluster)];
    let suppressions = ["IST0101=VirtualService shop/*", "IST0109=*b"].map(|text| text.parse().expect("valid"));
    let found = analyze(&both, &suppressions);
    let codes: Vec<_> = found.iter().map(|of| (of.name.as_str(), of.code)).collect();
    assert_eq!(codes, [("shop/a", "IST0109"), ("shop/a", "IST0106"), ("shop/b", "IST0106")]);
    assert!("IST0101".parse::<Suppression>().is_err());
}

/// Returns the codes of what is wrong with objects of clusters, with their places.
fn codes_of(objects: &[(&str, serde_json::Value)]) -> Vec<(String, &'static str)> {
    let objects: Vec<Object> =
        objects.iter().map(|(cluster, object)| Object::of_cluster(object.clone(), &(*cluster).into())).collect();
    analyze(&objects, &[]).into_iter().map(|of| (format!("{} {}", of.reference(), of.origin()), of.code)).collect()
}

#[test]
fn services_that_differ_between_clusters_are_found() {
    let service = |name: &str, spec: serde_json::Value| serde_json::json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": spec});
    let ports = |number: u32| serde_json::json!({"ports": [{"name": "http", "port": number, "targetPort": number, "nodePort": number}]});
    let headless = serde_json::json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]});
    let balanced = serde_json::json!({"type": "LoadBalancer", "ports": [{"name": "http", "port": 80}]});
    let own = serde_json::json!({"ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080, "nodePort": 30000}]});
    let found = codes_of(&[
        ("east", service("same", own)),
        ("west", service("same", ports(80))),
        ("north", service("ports", ports(80))),
        ("east", service("ports", ports(81))),
        ("west", service("ports", ports(81))),
        ("east", service("headless", ports(80))),
        ("west", service("headless", headless)),
        ("east", service("type", ports(80))),
        ("west", service("type", balanced)),
        ("west", service("alone", ports(80))),
    ]);
    let expected = ["north Service shop/ports", "west Service shop/headless", "west Service shop/type"];
    assert_eq!(found, expected.map(|place| (place.to_owned(), "IST0170")));
}

#[test]
fn a_pod_without_a_sidecar_in_a_namespace_of_the_mesh_is_found() {
    let namespace = |label: &str| serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"istio-injection": label}}});
    let pod = |name: &str, labels: serde_json::Value, annotations: serde_json::Value| serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "labels": labels, "annotations": annotations}});
    let none = || serde_json::json!({});
    let found = codes_of(&[
        ("west", namespace("enabled")),
        ("west", pod("old", none(), none())),
        ("west", pod("injected", none(), serde_json::json!({"sidecar.istio.io/status": "{}"}))),
        ("west", pod("out", serde_json::json!({"sidecar.istio.io/inject": "false"}), none())),
        // Another cluster has a label of its own.
        ("east", namespace("disabled")),
        ("east", pod("old", none(), none())),
    ]);
    assert_eq!(found, [("west Pod shop/old".to_owned(), "IST0103")]);
}

/// Services select pods of their own cluster.
#[test]
fn services_of_other_clusters_do_not_conflict() {
    let service = |name: &str, port: u32| serde_json::json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": {"selector": {"app": "a"}, "ports": [{"name": "http", "port": port, "targetPort": 8080}]}});
    let workload = serde_json::json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "shop"}, "spec": {"template": {"metadata": {"labels": {"app": "a", "version": "v1"}}}}});
    let both = |cluster| [("west", workload.clone()), ("west", service("a", 80)), (cluster, service("b", 81))];
    assert_eq!(codes_of(&both("west")), [("west Deployment shop/a".to_owned(), "IST0137")]);
    assert!(codes_of(&both("east")).is_empty());
}

#[test]
fn the_secret_of_a_gateway_is_looked_for_where_its_pods_are() {
    let found = |secret: &str| -> Vec<String> {
        let text = format!(
            "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: public}}
spec:
  selector: {{app: gw}}
  servers:
    - port: {{number: 443, name: https, protocol: HTTPS}}
      hosts: ['*']
      tls: {{mode: SIMPLE, credentialName: cert}}
---
apiVersion: v1
kind: Pod
metadata: {{name: gw-1, namespace: ingress, labels: {{app: gw}}}}
spec: {{containers: []}}
{secret}"
        );
        let about = messages(&text).into_iter().filter(|message| message.message.contains("Secret"));
        about.map(|message| format!("{} {}", message.code, message.message)).collect()
    };
    let of = |namespace: &str| {
        format!("---\napiVersion: v1\nkind: Secret\nmetadata: {{name: cert, namespace: {namespace}}}\n")
    };
    assert_eq!(found(""), [""; 0], "nothing is known of Secrets");
    assert_eq!(found(&of("ingress")), [""; 0]);
    let missing = found(&of("shop"));
    assert!(missing[0].starts_with("IST0101 ") && missing[0].contains("gateway (ingress)"), "{missing:?}");
}
