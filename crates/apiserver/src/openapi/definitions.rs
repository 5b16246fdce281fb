//! The schemas of OpenAPI documents: the built-in kinds' schemas with Kubernetes' extensions, and the custom resources'
//! schemas.

use serde_json::{Map, Value, json};

use crate::kinds::ResourceKind;
use crate::schema::definitions::{PREFIX, name};
use crate::schema::merge_rules::{ListType, PATCH_STRATEGIES, is_atomic_struct, rule};

/// Names of schemas that every document has.
pub(crate) const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
pub(crate) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
pub(crate) const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
pub(crate) const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

pub(crate) const KIND: &str = "x-kubernetes-group-version-kind";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const STRATEGY: &str = "x-kubernetes-patch-strategy";

/// The schema of a custom resource's version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CustomResourceSchema<'a> {
    /// Names and scope.
    pub(crate) kind: &'a ResourceKind,
    /// `openAPIV3Schema`, if the definition has one.
    pub(crate) schema: Option<&'a Value>,
}

/// Adds Kubernetes' extensions to the schemas: the group, version and kind of a schema, and the merge keys of lists.
pub(crate) fn annotate(definitions: &mut Map<String, Value>) {
    for (name, definition) in definitions.iter_mut() {
        if is_atomic_struct(name) {
            definition["x-kubernetes-map-type"] = "atomic".into();
        }
        if let Some(required) = definition["required"].as_array_mut() {
            // `metadata` is not optional in the types of k8s-openapi, but in Kubernetes' schemas.
            required.retain(|field| field != "metadata");
        }
        let properties = definition.get_mut("properties").and_then(Value::as_object_mut);
        for (field, schema) in properties.into_iter().flatten() {
            annotate_field(name, field, schema);
        }
    }
    for kind in crate::kinds::BUILTIN.iter() {
        if let Some(definition) = definitions.get_mut(&name(&kind.group, &kind.version, &kind.kind)) {
            definition[KIND] = kind_reference(kind);
        }
    }
    let others = [
        ("autoscaling", "v1", "Scale"),
        ("policy", "v1", "Eviction"),
        ("", "v1", "Binding"),
        ("authentication.k8s.io", "v1", "TokenRequest"),
    ];
    for (group, version, kind) in others {
        if let Some(definition) = definitions.get_mut(&name(group, version, kind)) {
            definition[KIND] = json!([{"group": group, "version": version, "kind": kind}]);
        }
    }
    for (name, types) in [(INT_OR_STRING, json!(["integer", "string"])), (QUANTITY, json!(["string", "number"]))] {
        let Some(definition) = definitions.get_mut(name).and_then(Value::as_object_mut) else { continue };
        definition.remove("x-kubernetes-int-or-string");
        let types: Vec<Value> = types.as_array().into_iter().flatten().map(|type_| json!({"type": type_})).collect();
        definition.insert("oneOf".into(), types.into());
        if name == INT_OR_STRING {
            definition.insert("format".into(), "int-or-string".into());
        }
    }
}

/// Wraps a reference with siblings in `allOf`, where version 3 permits them, and adds the merge keys of lists.
fn annotate_field(structure: &str, field: &str, schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    if fields.len() > 1
        && let Some(reference) = fields.remove("$ref")
    {
        fields.insert("allOf".into(), json!([{"$ref": reference}]));
        fields.insert("default".into(), json!({}));
    }
    if let Some((.., strategy)) = PATCH_STRATEGIES.iter().find(|(name, list, _)| *name == structure && *list == field) {
        fields.insert(STRATEGY.into(), (*strategy).into());
    }
    if fields.get("type").is_none_or(|type_| type_ != "array") {
        return;
    }
    let rule = rule(structure, field);
    match rule.map(|rule| rule.strategic) {
        Some(ListType::Map(keys)) => {
            fields.entry(STRATEGY).or_insert("merge".into());
            fields.insert("x-kubernetes-patch-merge-key".into(), keys[0].into());
        }
        Some(ListType::Set) => {
            fields.insert(STRATEGY.into(), "merge".into());
        }
        Some(ListType::Atomic) | None => {}
    }
    let list_type = match rule.map(|rule| rule.apply) {
        Some(ListType::Map(keys)) => {
            fields.insert("x-kubernetes-list-map-keys".into(), json!(keys));
            "map"
        }
        Some(ListType::Set) => "set",
        Some(ListType::Atomic) | None => "atomic",
    };
    fields.insert("x-kubernetes-list-type".into(), list_type.into());
}

/// `x-kubernetes-group-version-kind` of a schema.
fn kind_reference(kind: &ResourceKind) -> Value {
    json!([{"group": kind.group, "version": kind.version, "kind": kind.kind}])
}

/// Name of a custom resource's schema: the labels of its group in reverse order, version and kind.
pub(crate) fn custom_name(kind: &ResourceKind) -> String {
    let group = kind.group.split('.').rev().collect::<Vec<_>>().join(".");
    format!("{group}.{}.{}", kind.version, kind.kind)
}

/// A custom resource's schema with the fields of every object.
pub(crate) fn custom(custom: &CustomResourceSchema<'_>) -> Value {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let mut schema = custom.schema.filter(|schema| schema.is_object()).cloned().unwrap_or(open);
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    let properties = &mut schema["properties"];
    properties["apiVersion"] =
        json!({"type": "string", "description": "Group and version of this representation of the object."});
    properties["kind"] = json!({"type": "string", "description": "Kind of the object."});
    properties["metadata"] =
        json!({"description": "Standard object's metadata.", "allOf": [{"$ref": format!("{PREFIX}{OBJECT_META}")}]});
    schema[KIND] = kind_reference(custom.kind);
    schema
}

/// The schema of a list.
pub(crate) fn list(kind: &ResourceKind, schema: &str) -> Value {
    json!({
        "description": format!("{} is a list of {}.", kind.list_kind, kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"$ref": format!("{PREFIX}{LIST_META}")},
            "items": {"type": "array", "items": {"$ref": format!("{PREFIX}{schema}")}},
        },
        KIND: [{"group": kind.group, "version": kind.version, "kind": kind.list_kind}],
    })
}

/// The definitions that are reachable from `roots`.
pub(crate) fn closure(mut definitions: Map<String, Value>, roots: Vec<String>) -> Map<String, Value> {
    let (mut reached, mut open) = (Map::new(), roots);
    while let Some(name) = open.pop() {
        if let Some((name, definition)) = definitions.remove_entry(&name) {
            references(&definition, &mut open);
            reached.insert(name, definition);
        }
    }
    reached
}

fn references(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            let target = fields.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix(PREFIX));
            found.extend(target.map(str::to_owned));
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

/// Converts version 3 schemas to version 2 in place.
pub(crate) fn as_v2(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::String(target)) = fields.get_mut("$ref")
                && let Some(name) = target.strip_prefix(PREFIX)
            {
                *target = format!("#/definitions/{name}");
            }
            // A single reference replaces its `allOf`, whose siblings version 2 ignores.
            if let Some([only]) = fields.get("allOf").and_then(Value::as_array).map(Vec::as_slice)
                && let Some(reference) = only.get("$ref").cloned()
            {
                fields.remove("allOf");
                fields.remove("default");
                fields.insert("$ref".into(), reference);
                return as_v2(schema);
            }
            if fields.get("oneOf").is_some_and(Value::is_array) {
                fields.remove("oneOf");
                fields.entry("type").or_insert("string".into());
            }
            fields.remove("nullable");
            fields.values_mut().for_each(as_v2);
        }
        Value::Array(list) => list.iter_mut().for_each(as_v2),
        _ => {}
    }
}
