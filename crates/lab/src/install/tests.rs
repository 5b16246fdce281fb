use std::path::Path;

use super::*;

fn topology(name: &str) -> Topology {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../topologies").join(name);
    Topology::load(&path).unwrap_or_else(|error| panic!("{error}"))
}

fn installed(topology: &Topology, cluster: &str) -> Vec<Value> {
    let authorities = Authorities::generate(topology).expect("authorities");
    mesh(topology, topology.cluster(cluster).expect("a cluster"), &authorities)
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> Option<&'a Value> {
    objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
}

#[test]
fn primary_has_controller_and_every_intermediate() {
    let topology = topology("three-regions.yaml");
    let objects = installed(&topology, "west");
    assert!(find(&objects, "Deployment", CONTROLLER).is_some());
    for secret in ["cacerts", "cacerts-east", "cacerts-central"] {
        let secret = find(&objects, "Secret", secret).expect(secret);
        let entries = &secret["stringData"];
        for entry in ["ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem"] {
            assert!(entries[entry].as_str().is_some_and(|text| text.starts_with("-----BEGIN")), "{entry}");
        }
    }
    let gateway = find(&objects, "Service", GATEWAY).expect("a gateway");
    assert_eq!(gateway["spec"]["loadBalancerIP"], "203.0.113.10");
    assert_eq!(gateway["metadata"]["labels"]["topology.istio.io/network"], "net-west");
}

#[test]
fn remote_reaches_its_primary_through_the_gateway() {
    let topology = topology("primary-remote.yaml");
    let objects = installed(&topology, "east");
    assert!(find(&objects, "Deployment", CONTROLLER).is_none());
    assert!(find(&objects, "Secret", "cacerts").is_none(), "signing keys stay with the primary");
    for (service, slice) in [(CONTROLLER, "isthmus-controller-of-west"), (WEBHOOKS, "isthmus-webhooks-of-west")] {
        let found = find(&objects, "Service", service).expect(service);
        assert!(found["spec"]["selector"].is_null());
        let slice = find(&objects, "EndpointSlice", slice).expect(slice);
        assert_eq!(slice["endpoints"][0]["addresses"][0], "203.0.113.10");
        assert_eq!(slice["ports"][0]["name"], found["spec"]["ports"][0]["name"]);
        assert_eq!(slice["ports"][0]["port"], 15443);
    }
    let hook = find(&objects, "MutatingWebhookConfiguration", "isthmus-sidecar-injector").expect("a webhook");
    assert_eq!(hook["webhooks"][0]["clientConfig"]["service"]["path"], "/inject/cluster/east/net/net-east");
}

#[test]
fn two_primaries_share_a_root_but_no_intermediate() {
    let topology = topology("multi-primary.yaml");
    let authorities = Authorities::generate(&topology).expect("authorities");
    let secret = |cluster: &str| {
        let objects = mesh(&topology, topology.cluster(cluster).expect("a cluster"), &authorities);
        assert!(
            find(&objects, "Secret", "cacerts-east").is_none() && find(&objects, "Secret", "cacerts-west").is_none()
        );
        find(&objects, "Secret", "cacerts").expect("cacerts")["stringData"].clone()
    };
    let (west, east) = (secret("west"), secret("east"));
    assert_eq!(west["root-cert.pem"], east["root-cert.pem"]);
    assert_ne!(west["ca-cert.pem"], east["ca-cert.pem"]);
}

#[test]
fn reader_may_read_no_secret_and_change_no_workload() {
    let topology = topology("primary-remote.yaml");
    let objects = installed(&topology, "east");
    let role = find(&objects, "ClusterRole", READER).expect("a role");
    for rule in role["rules"].as_array().expect("rules") {
        let resources: Vec<&str> =
            rule["resources"].as_array().expect("resources").iter().filter_map(Value::as_str).collect();
        assert!(!resources.contains(&"secrets") && rule["apiGroups"] != json!(["*"]));
        let writes = rule["verbs"]
            .as_array()
            .expect("verbs")
            .iter()
            .any(|verb| !["get", "list", "watch"].contains(&verb.as_str().unwrap_or("")));
        // It writes only what has a name it was given, or asks whose a token is, which changes nothing.
        let named = rule["resourceNames"].as_array().is_some_and(|names| !names.is_empty());
        assert!(!writes || named || resources == ["tokenreviews"], "{rule}");
    }
}

#[test]
fn workloads_are_pinned_exported_and_named() {
    let topology = topology("primary-remote.yaml");
    let west = crate::orchestration::workloads::all(&topology, topology.cluster("west").expect("a cluster"));
    let reviews = find(&west, "Deployment", "reviews").expect("reviews");
    assert_eq!(reviews["spec"]["replicas"], 2);
    assert_eq!(reviews["spec"]["template"]["metadata"]["labels"]["version"], "v1");
    assert!(find(&west, "ServiceExport", "reviews").is_some() && find(&west, "ServiceExport", "ratings").is_none());
    assert!(find(&west, "ServiceAccount", "frontend").is_some());
    let east = crate::orchestration::workloads::all(&topology, topology.cluster("east").expect("a cluster"));
    assert!(find(&east, "ServiceExport", "ratings").is_some() && find(&east, "Deployment", "frontend").is_none());
}

#[test]
fn every_object_is_complete() {
    let topology = topology("three-regions.yaml");
    for cluster in &topology.clusters {
        let mut objects = installed(&topology, &cluster.name);
        objects.extend(crate::orchestration::workloads::all(&topology, cluster));
        let mut seen = std::collections::BTreeSet::new();
        for object in objects {
            let key = format!("{} {} {}", object["kind"], object["metadata"]["namespace"], object["metadata"]["name"]);
            assert!(object["apiVersion"].is_string() && object["metadata"]["name"].is_string(), "{object}");
            assert!(seen.insert(key.clone()), "{key} twice in {}", cluster.name);
        }
    }
}

#[test]
fn manifests_are_read_document_by_document() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("some.yaml");
    std::fs::write(&file, "kind: A\nx: no\n---\n---\nkind: List\nitems: [{kind: B}, {kind: C}]\n").expect("written");
    let objects = apply::read(&file).expect("readable");
    let kinds: Vec<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
    assert_eq!(kinds, ["A", "B", "C"]);
    assert_eq!(objects[0]["x"], "no");
    std::fs::write(&file, "kind: [").expect("written");
    let error = apply::read(&file).expect_err("broken").to_string();
    assert!(error.contains("some.yaml") && error.contains("line"), "{error}");
    assert!(apply::read(&folder.path().join("none.yaml")).is_err());
}
