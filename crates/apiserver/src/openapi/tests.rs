use super::*;
use crate::kinds::by_kind;

fn document(path: &str) -> Value {
    serde_json::from_slice(&v3(path, &[]).expect("a built-in group")).expect("JSON")
}

/// Every reference of the document leads somewhere.
fn assert_closed(value: &Value, document: &Value, prefix: &str) {
    match value {
        Value::Object(fields) => {
            if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
                let pointer = target.strip_prefix('#').expect("a local reference");
                assert!(target.starts_with(prefix) && document.pointer(pointer).is_some(), "{target} leads nowhere");
            }
            fields.values().for_each(|value| assert_closed(value, document, prefix));
        }
        Value::Array(list) => list.iter().for_each(|value| assert_closed(value, document, prefix)),
        _ => {}
    }
}

#[test]
fn the_index_lists_every_group() {
    let index = v3_index(&[]);
    for kind in BUILTIN.iter() {
        let address = index["paths"][path_of(kind)]["serverRelativeURL"].as_str().expect("an address");
        assert!(address.starts_with(&format!("/openapi/v3/{}?hash=", path_of(kind))), "{address}");
    }
    assert_eq!(index, v3_index(&[]), "hashes are stable");
    assert!(v3("apis/none.example/v1", &[]).is_none());
}

#[test]
fn documents_are_complete_and_bounded() {
    const MAX_BYTES: usize = 1_500_000;
    let paths: std::collections::BTreeSet<String> = BUILTIN.iter().map(path_of).collect();
    for path in paths {
        let bytes = v3(&path, &[]).expect("a built-in group");
        assert!(bytes.len() < MAX_BYTES, "{path} has {} bytes", bytes.len());
        let document: Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_closed(&document, &document, "#/components/schemas/");
    }
    let second: Value = serde_json::from_slice(&v2(&[])).expect("JSON");
    assert_closed(&second, &second, "#/definitions/");
    assert_eq!(
        second["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]["x-kubernetes-patch-merge-key"],
        "name"
    );
}

#[test]
fn patches_have_field_validation_and_merge_keys() {
    let document = document("apis/apps/v1");
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    let parameters = patch["parameters"].as_array().expect("parameters");
    assert!(parameters.iter().any(|parameter| parameter["name"] == "fieldValidation"));
    assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
    let schemas = &document["components"]["schemas"];
    let ports = &schemas["io.k8s.api.core.v1.Container"]["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "containerPort");
    assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["containerPort", "protocol"]));
    let strategy = &schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"];
    assert_eq!(strategy["x-kubernetes-patch-strategy"], "retainKeys");
    assert_eq!(strategy["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy");
    let scale = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["patch"];
    assert_eq!(scale["x-kubernetes-group-version-kind"]["group"], "autoscaling");
}

#[test]
fn custom_resources_have_documents() {
    let kind = ResourceKind {
        group: "shop.example.com".into(),
        kind: "Widget".into(),
        list_kind: "WidgetList".into(),
        plural: "widgets".into(),
        subresources: Vec::new(),
        ..by_kind("", "v1", "Pod").expect("pod").clone()
    };
    let schema = json!({"type": "object", "description": "A widget.", "properties": {"spec": {"type": "object"}}});
    let custom = [CustomResourceSchema { kind: &kind, schema: Some(&schema) }];
    let index = v3_index(&custom);
    let address = index["paths"]["apis/shop.example.com/v1"].clone();
    assert!(address.is_object());
    let document: Value =
        serde_json::from_slice(&v3("apis/shop.example.com/v1", &custom).expect("served")).expect("JSON");
    assert_closed(&document, &document, "#/components/schemas/");
    let widget = &document["components"]["schemas"]["com.example.shop.v1.Widget"];
    assert_eq!(widget["description"], "A widget.");
    assert_eq!(widget["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
    let patch = &document["paths"]["/apis/shop.example.com/v1/namespaces/{namespace}/widgets/{name}"]["patch"];
    assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_null());
    let changed = json!({"type": "object"});
    let other = v3_index(&[CustomResourceSchema { kind: &kind, schema: Some(&changed) }]);
    assert_ne!(other["paths"]["apis/shop.example.com/v1"], address, "a changed schema has another address");
}
