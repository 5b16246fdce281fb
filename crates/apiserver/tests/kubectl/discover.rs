//! Discovery: `api-resources`, `api-versions`, `explain`, `version`, `cluster-info`.

use crate::KubectlTest;
use crate::server::{TestServer, rows};

pub(crate) const TESTS: &[KubectlTest] = &[
    ("discover::resources_and_versions", resources_and_versions),
    ("discover::explains_fields", explains_fields),
    ("discover::documents", documents),
];

fn resources_and_versions() {
    let server = TestServer::start();
    let output = server.run(&["api-resources"], "", &[]);
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
    let table = rows(&output.stdout);
    assert_eq!(table[0], ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"]);
    for row in [
        vec!["deployments", "deploy", "apps/v1", "true", "Deployment"],
        vec!["nodes", "no", "v1", "false", "Node"],
        vec!["endpointslices", "discovery.k8s.io/v1", "true", "EndpointSlice"],
        vec!["customresourcedefinitions", "crd,crds", "apiextensions.k8s.io/v1", "false", "CustomResourceDefinition"],
    ] {
        assert!(table.contains(&row), "no {row:?} in {}", output.stdout);
    }
    let versions = server.kubectl("api-versions");
    for version in ["v1", "apps/v1", "rbac.authorization.k8s.io/v1"] {
        assert!(versions.lines().any(|line| line == version), "{versions}");
    }
    assert!(server.kubectl("version").contains("Server Version: v1."));
    assert!(server.kubectl("cluster-info").contains("is running at"));
    assert!(server.kubectl("api-resources --api-group=apps -o name").contains("deployments.apps"));
    assert!(server.kubectl("api-resources --namespaced=false --verbs=list -o name").contains("namespaces"));
}

fn explains_fields() {
    let server = TestServer::start();
    let deployment = server.kubectl("explain deployment");
    for part in ["GROUP:      apps", "KIND:       Deployment", "VERSION:    v1", "spec\t<DeploymentSpec>"] {
        assert!(deployment.contains(part), "no {part:?} in {deployment}");
    }
    let field = server.kubectl("explain pod.spec.containers.imagePullPolicy");
    assert!(field.contains("FIELD: imagePullPolicy <string>") && field.contains("Image pull policy."), "{field}");
    let list = server.kubectl("explain service.spec.ports");
    assert!(list.contains("FIELD: ports <[]ServicePort>") && list.contains("targetPort\t<IntOrString>"), "{list}");
    let wrong = server.refused("explain pod.spec.nonsense", "");
    assert!(wrong.contains("field \"nonsense\" does not exist"), "{wrong}");
    assert!(server.kubectl("explain configmap --recursive").contains("ownerReferences\t<[]OwnerReference>"));
}

fn documents() {
    let server = TestServer::start();
    let index: serde_json::Value = serde_json::from_str(&server.kubectl("get --raw /openapi/v3")).expect("JSON");
    let address = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("an address").to_owned();
    let document: serde_json::Value =
        serde_json::from_str(&server.kubectl_with(&["get", "--raw", &address], "")).expect("JSON");
    assert_eq!(document["openapi"], "3.0.0");
    let second: serde_json::Value = serde_json::from_str(&server.kubectl("get --raw /openapi/v2")).expect("JSON");
    assert_eq!(second["swagger"], "2.0");
}
