//! What the server says of itself: `api-resources`, `api-versions`, `explain`, `version`, `cluster-info`.

use crate::Test;
use crate::bench::{Bench, rows};

pub(crate) const TESTS: &[Test] = &[
    ("discover::resources_and_versions", resources_and_versions),
    ("discover::explains_fields", explains_fields),
    ("discover::documents", documents),
];

fn resources_and_versions() {
    let bench = Bench::start();
    let said = bench.run(&["api-resources"], "", &[]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    let table = rows(&said.stdout);
    assert_eq!(table[0], ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"]);
    for row in [
        vec!["deployments", "deploy", "apps/v1", "true", "Deployment"],
        vec!["nodes", "no", "v1", "false", "Node"],
        vec!["endpointslices", "discovery.k8s.io/v1", "true", "EndpointSlice"],
        vec!["customresourcedefinitions", "crd,crds", "apiextensions.k8s.io/v1", "false", "CustomResourceDefinition"],
    ] {
        assert!(table.contains(&row), "no {row:?} in {}", said.stdout);
    }
    let versions = bench.kubectl("api-versions");
    for version in ["v1", "apps/v1", "rbac.authorization.k8s.io/v1"] {
        assert!(versions.lines().any(|line| line == version), "{versions}");
    }
    assert!(bench.kubectl("version").contains("Server Version: v1."));
    assert!(bench.kubectl("cluster-info").contains("is running at"));
    assert!(bench.kubectl("api-resources --api-group=apps -o name").contains("deployments.apps"));
    assert!(bench.kubectl("api-resources --namespaced=false --verbs=list -o name").contains("namespaces"));
}

fn explains_fields() {
    let bench = Bench::start();
    let deployment = bench.kubectl("explain deployment");
    for part in ["GROUP:      apps", "KIND:       Deployment", "VERSION:    v1", "spec\t<DeploymentSpec>"] {
        assert!(deployment.contains(part), "no {part:?} in {deployment}");
    }
    let field = bench.kubectl("explain pod.spec.containers.imagePullPolicy");
    assert!(field.contains("FIELD: imagePullPolicy <string>") && field.contains("Image pull policy."), "{field}");
    let list = bench.kubectl("explain service.spec.ports");
    assert!(list.contains("FIELD: ports <[]ServicePort>") && list.contains("targetPort\t<IntOrString>"), "{list}");
    let wrong = bench.refused("explain pod.spec.nonsense", "");
    assert!(wrong.contains("field \"nonsense\" does not exist"), "{wrong}");
    assert!(bench.kubectl("explain configmap --recursive").contains("ownerReferences\t<[]OwnerReference>"));
}

fn documents() {
    let bench = Bench::start();
    let index: serde_json::Value = serde_json::from_str(&bench.kubectl("get --raw /openapi/v3")).expect("JSON");
    let address = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("an address").to_owned();
    let document: serde_json::Value =
        serde_json::from_str(&bench.kubectl_with(&["get", "--raw", &address], "")).expect("JSON");
    assert_eq!(document["openapi"], "3.0.0");
    let second: serde_json::Value = serde_json::from_str(&bench.kubectl("get --raw /openapi/v2")).expect("JSON");
    assert_eq!(second["swagger"], "2.0");
}
