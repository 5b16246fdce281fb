use serde_json::json;

use super::*;
use crate::status::StatusCause;

fn widget_schema() -> Value {
    json!({
        "type": "object",
        "required": ["spec"],
        "properties": {
            "spec": {
                "type": "object",
                "required": ["color"],
                "properties": {
                    "color": {"type": "string", "enum": ["red", "blue"]},
                    "size": {"type": "integer", "minimum": 1, "maximum": 9, "default": 3},
                    "name": {"type": "string", "pattern": "^[a-z]+$"},
                    "parts": {"type": "array", "maxItems": 2, "items": {"type": "object", "properties": {"id": {"type": "integer"}}}},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    "port": {"x-kubernetes-int-or-string": true}
                }
            }
        }
    })
}

#[test]
fn unknown_fields_are_pruned_unless_preserved() {
    let mut object = json!({
        "apiVersion": "x/v1", "kind": "Widget", "metadata": {"name": "a"}, "extra": 1,
        "spec": {"color": "red", "colour": "red", "parts": [{"id": 1, "x": 2}], "labels": {"a": "b"}, "free": {"a": {"b": 1}}}
    });
    let unknown = prune::prune(&widget_schema(), &mut object);
    assert_eq!(
        unknown,
        ["unknown field \"extra\"", "unknown field \"spec.colour\"", "unknown field \"spec.parts[0].x\""]
    );
    assert_eq!(object["spec"]["free"], json!({"a": {"b": 1}}));
    assert_eq!(object["spec"]["labels"], json!({"a": "b"}));
    assert_eq!(object["metadata"], json!({"name": "a"}));
}

#[test]
fn defaults_are_applied_to_absent_fields() {
    let mut object = json!({"spec": {"color": "red"}});
    prune::default(&widget_schema(), &mut object);
    assert_eq!(object["spec"]["size"], 3);
}

#[test]
fn errors_name_field_and_rule() {
    let findings = |spec: Value| -> Vec<String> {
        let mut causes: Vec<StatusCause> = Vec::new();
        validate::validate(&widget_schema(), &json!({"spec": spec}), &mut causes);
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    };
    assert!(findings(json!({"color": "red", "size": 1, "name": "a", "port": "http", "free": {"x": [1]}})).is_empty());
    assert_eq!(findings(json!({})), ["spec.color: Required value"]);
    assert_eq!(
        findings(json!({"color": "green"})),
        ["spec.color: Unsupported value: \"green\": supported values: \"red\", \"blue\""]
    );
    assert_eq!(
        findings(json!({"color": "red", "size": "3"})),
        ["spec.size: Invalid value: \"3\": spec.size in body must be of type integer: \"string\""]
    );
    assert_eq!(
        findings(json!({"color": "red", "size": 0})),
        ["spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"]
    );
    assert_eq!(findings(json!({"color": "red", "name": "A"})).len(), 1);
    assert_eq!(
        findings(json!({"color": "red", "parts": [{}, {}, {}]})),
        ["spec.parts: Too many: 3: must have at most 2 items"]
    );
    assert_eq!(findings(json!({"color": "red", "port": 1.5})).len(), 1);
}

#[test]
fn a_definition_with_free_names_is_established() {
    let store = ObjectStore::new(0, 16);
    let mut definition = json!({
        "metadata": {"name": "widgets.x.io"},
        "spec": {
            "group": "x.io", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [
                {"name": "v1beta1", "served": true, "storage": false},
                {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}}, "schema": {"openAPIV3Schema": widget_schema()}}
            ]
        }
    });
    complete(&store, &mut definition);
    assert_eq!(definition["spec"]["names"]["singular"], "widget");
    assert_eq!(definition["status"]["storedVersions"], json!(["v1"]));
    assert!(has_condition(&definition, "Established") && has_condition(&definition, "NamesAccepted"));
    store.insert(&stored(), definition.clone()).expect("new");
    let served = served(&store);
    assert_eq!(served.iter().map(|served| &*served.kind.version).collect::<Vec<_>>(), ["v1", "v1beta1"]);
    assert!(served[0].kind.has(Subresource::Status));

    let mut second = definition.clone();
    second["metadata"]["name"] = json!("gadgets.x.io");
    second["spec"]["names"]["plural"] = json!("gadgets");
    second["status"] = json!({});
    complete(&store, &mut second);
    assert!(!has_condition(&second, "Established"));
}
