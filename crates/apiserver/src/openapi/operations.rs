//! The operations of each kind: paths, methods and parameters.

use serde_json::{Map, Value, json};

use super::definitions::{self, KIND};
use crate::kinds::{GroupVersionKind, ResourceKind, Subresource, Verbs};
use crate::schema;
use crate::schema::definitions::PREFIX;

/// Media types of patches. Only built-in kinds support strategic merge patches, the last one.
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
    "application/strategic-merge-patch+json",
];

/// `api/v1`, `apis/apps/v1`.
pub(super) fn path_of(kind: &ResourceKind) -> String {
    if kind.group.is_empty() {
        format!("api/{}", kind.version)
    } else {
        format!("apis/{}/{}", kind.group, kind.version)
    }
}

/// Adds the paths of a kind with the schema `schema`, and the names of further schemas that the paths refer to.
pub(super) fn add(kind: &ResourceKind, schema: &str, paths: &mut Map<String, Value>, schemas: &mut Vec<String>) {
    let is_custom = !schema.starts_with("io.k8s.");
    let base = path_of(kind);
    let this = GroupVersionKind { group: &kind.group, version: &kind.version, kind: &kind.kind };
    let collection = if kind.namespaced {
        format!("/{base}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        format!("/{base}/{}", kind.plural)
    };
    let list = format!("{schema}List");
    let object = format!("{collection}/{{name}}");
    match kind.verbs {
        Verbs::All => {}
        Verbs::CreateOnly => {
            paths.insert(collection, json!({"post": operation("post", &this, schema, is_custom)}));
            return;
        }
        Verbs::ReadOnly => {
            paths.insert(collection, json!({"get": operation("list", &this, &list, is_custom)}));
            paths.insert(object, json!({"get": operation("get", &this, schema, is_custom)}));
            return;
        }
    }
    if kind.namespaced {
        paths.insert(format!("/{base}/{}", kind.plural), json!({"get": operation("list", &this, &list, is_custom)}));
    }
    paths.insert(
        collection,
        json!({
            "parameters": path_parameters(kind.namespaced, false),
            "get": operation("list", &this, &list, is_custom),
            "post": operation("post", &this, schema, is_custom),
            "delete": operation("deletecollection", &this, definitions::STATUS, is_custom),
        }),
    );
    paths.insert(
        object.clone(),
        json!({
            "parameters": path_parameters(kind.namespaced, true),
            "get": operation("get", &this, schema, is_custom),
            "put": operation("put", &this, schema, is_custom),
            "patch": operation("patch", &this, schema, is_custom),
            "delete": operation("delete", &this, definitions::STATUS, is_custom),
        }),
    );
    for subresource in &kind.subresources {
        let target = subresource.object(kind);
        let schema = match subresource {
            Subresource::Status | Subresource::EphemeralContainers | Subresource::Finalize => schema.to_owned(),
            Subresource::Scale | Subresource::Eviction | Subresource::Binding | Subresource::Token => {
                schema::definitions::name(target.group, target.version, target.kind)
            }
            // Streams and proxied requests have no schema.
            _ => continue,
        };
        let mut methods = json!({"parameters": path_parameters(kind.namespaced, true)});
        for verb in subresource.verbs() {
            let method = match *verb {
                "create" => "post",
                "update" => "put",
                verb => verb,
            };
            methods[method] = operation(method, &target, &schema, is_custom);
        }
        paths.insert(format!("{object}/{}", subresource.name()), methods);
        schemas.push(schema);
    }
}

fn operation(action: &str, kind: &GroupVersionKind<'_>, schema: &str, is_custom: bool) -> Value {
    let reference = json!({"$ref": format!("{PREFIX}{schema}")});
    let mut operation = json!({
        "description": describe(action, kind.kind),
        "x-kubernetes-action": action,
        KIND: {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": reference}}}},
    });
    let parameters: &[(&str, &str)] = match action {
        "post" | "put" => &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")],
        "patch" => {
            &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")]
        }
        "list" => &[
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ],
        "delete" => &[("dryRun", "string"), ("gracePeriodSeconds", "integer"), ("propagationPolicy", "string")],
        "deletecollection" => &[("dryRun", "string"), ("fieldSelector", "string"), ("labelSelector", "string")],
        _ => &[],
    };
    if !parameters.is_empty() {
        operation["parameters"] = parameters.iter().map(|(name, type_)| parameter(name, type_)).collect();
    }
    match action {
        "post" | "put" => operation["requestBody"] = json!({"content": {"*/*": {"schema": reference}}}),
        "delete" | "deletecollection" => {
            let options = json!({"$ref": format!("{PREFIX}{}", definitions::DELETE_OPTIONS)});
            operation["requestBody"] = json!({"content": {"*/*": {"schema": options}}});
        }
        "patch" => {
            let types = &PATCHES[..if is_custom { 3 } else { 4 }];
            let content: Map<String, Value> =
                types.iter().map(|name| ((*name).to_owned(), json!({"schema": {"type": "object"}}))).collect();
            operation["requestBody"] = json!({"content": content});
        }
        _ => {}
    }
    operation
}

fn describe(action: &str, kind: &str) -> String {
    match action {
        "list" => format!("list or watch objects of kind {kind}"),
        "post" => format!("create a {kind}"),
        "get" => format!("read the specified {kind}"),
        "put" => format!("replace the specified {kind}"),
        "patch" => format!("partially update the specified {kind}"),
        "deletecollection" => format!("delete collection of {kind}"),
        _ => format!("{action} a {kind}"),
    }
}

fn parameter(name: &str, type_: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": type_}})
}

fn path_parameters(namespaced: bool, named: bool) -> Vec<Value> {
    let names = [("name", named), ("namespace", namespaced)];
    names
        .into_iter()
        .filter(|(_, present)| *present)
        .map(|(name, _)| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect()
}

/// Converts operations to version 2: request bodies are parameters, media types are lists.
pub(super) fn as_v2(mut paths: Map<String, Value>) -> Map<String, Value> {
    for methods in paths.values_mut().filter_map(Value::as_object_mut) {
        for (method, value) in methods.iter_mut() {
            if method == "parameters" {
                typed_directly(value);
                continue;
            }
            operation_as_v2(value);
        }
    }
    paths
}

fn operation_as_v2(operation: &mut Value) {
    if let Some(parameters) = operation.get_mut("parameters") {
        typed_directly(parameters);
    }
    let body = operation.as_object_mut().and_then(|fields| fields.remove("requestBody"));
    if let Some(content) = body.as_ref().and_then(|body| body["content"].as_object()) {
        let types: Vec<&String> = content.keys().collect();
        operation["consumes"] = json!(types);
        let schema = content.values().next().map_or(json!({}), |content| content["schema"].clone());
        let parameter = json!({"name": "body", "in": "body", "schema": schema});
        match operation.get_mut("parameters").and_then(Value::as_array_mut) {
            Some(parameters) => parameters.push(parameter),
            None => operation["parameters"] = json!([parameter]),
        }
    }
    if let Some(response) = operation["responses"].get_mut("200") {
        *response = json!({"description": "OK", "schema": response["content"]["application/json"]["schema"]});
    }
}

/// Moves the type of parameters out of their schema, as version 2 requires.
fn typed_directly(parameters: &mut Value) {
    for parameter in parameters.as_array_mut().into_iter().flatten() {
        let schema = parameter.as_object_mut().and_then(|fields| fields.remove("schema"));
        if let Some(schema) = schema {
            parameter["type"] = schema["type"].clone();
        }
    }
}
