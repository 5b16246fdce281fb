//! Custom resources: the resources that CustomResourceDefinitions add, and the status of definitions.

pub(crate) mod names;
pub(crate) mod prune;
mod schema;
#[cfg(test)]
mod tests;
pub(crate) mod validate;

use serde_json::{Map, Value, json};

use crate::kinds::{BUILTIN, ResourceKind, Subresource, Verbs};
use crate::object;
use crate::registry::{CustomResource, ScalePaths, ServedResource};
use crate::storage::{GroupResource, ObjectStore};
use crate::table::PrinterColumn;
use crate::timestamp;

/// Storage key of definitions.
pub(crate) fn stored() -> GroupResource {
    GroupResource::new("apiextensions.k8s.io", "customresourcedefinitions")
}

/// Every served version of every established definition.
pub(crate) fn served(store: &ObjectStore) -> Vec<ServedResource> {
    let definitions = store.list(&stored(), None).1;
    definitions
        .iter()
        .filter(|definition| has_condition(definition, "Established"))
        .flat_map(|definition| versions(definition))
        .collect()
}

/// Returns whether a condition is `True`.
pub(crate) fn has_condition(definition: &Value, name: &str) -> bool {
    let conditions = object::list(definition, "/status/conditions");
    conditions
        .iter()
        .any(|condition| object::text(condition, "/type") == name && object::text(condition, "/status") == "True")
}

/// Storage key of the resource that a definition defines.
pub(crate) fn resource_of(definition: &Value) -> GroupResource {
    GroupResource::new(object::text(definition, "/spec/group"), object::text(definition, "/spec/names/plural"))
}

fn versions(definition: &Value) -> Vec<ServedResource> {
    let mut versions: Vec<&Value> = object::list(definition, "/spec/versions").iter().collect();
    versions.retain(|version| version.get("served").and_then(Value::as_bool) == Some(true));
    versions.sort_by(|a, b| names::compare_versions(object::text(a, "/name"), object::text(b, "/name")));
    versions.into_iter().map(|version| served_version(definition, version)).collect()
}

fn served_version(definition: &Value, version: &Value) -> ServedResource {
    let text = |pointer: &str| object::text(definition, pointer).to_owned();
    let texts = |pointer: &str| {
        object::list(definition, pointer).iter().filter_map(Value::as_str).map(|text| text.to_owned().into()).collect()
    };
    let subresource = |name: &str| version.pointer(&format!("/subresources/{name}")).filter(|part| part.is_object());
    let mut subresources = Vec::new();
    if subresource("status").is_some() {
        subresources.push(Subresource::Status);
    }
    let scale = subresource("scale").map(|scale| ScalePaths {
        spec_replicas: object::text(scale, "/specReplicasPath").to_owned(),
        status_replicas: object::text(scale, "/statusReplicasPath").to_owned(),
        selector: Some(object::text(scale, "/labelSelectorPath").to_owned()).filter(|path| !path.is_empty()),
    });
    if scale.is_some() {
        subresources.push(Subresource::Scale);
    }
    let version_name = object::text(version, "/name").to_owned();
    let kind = ResourceKind {
        group: text("/spec/group").into(),
        version: version_name.clone().into(),
        kind: text("/spec/names/kind").into(),
        list_kind: text("/spec/names/listKind").into(),
        plural: text("/spec/names/plural").into(),
        singular: text("/spec/names/singular").into(),
        short_names: texts("/spec/names/shortNames"),
        categories: texts("/spec/names/categories"),
        namespaced: text("/spec/scope") == "Namespaced",
        subresources,
        verbs: Verbs::All,
    };
    let deprecation = (version.get("deprecated").and_then(Value::as_bool) == Some(true)).then(|| {
        match object::text(version, "/deprecationWarning") {
            "" => format!("{}/{version_name} {} is deprecated", kind.group, kind.kind),
            warning => warning.to_owned(),
        }
    });
    let custom = CustomResource {
        schema: version.pointer("/schema/openAPIV3Schema").cloned(),
        columns: columns(version),
        scale,
        selectable: object::list(version, "/selectableFields")
            .iter()
            .map(|field| object::text(field, "/jsonPath").to_owned())
            .collect(),
        deprecation,
    };
    ServedResource { stored: resource_of(definition), kind, custom: Some(custom) }
}

fn columns(version: &Value) -> Vec<PrinterColumn> {
    let column = |column: &Value| {
        let text = |key: &str| column.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
        PrinterColumn {
            name: text("name"),
            type_: text("type"),
            format: text("format"),
            description: text("description"),
            priority: column.get("priority").and_then(Value::as_i64).unwrap_or(0),
            json_path: text("jsonPath"),
        }
    };
    object::list(version, "/additionalPrinterColumns").iter().map(column).collect()
}

/// Completes a definition's names and status. The definition is established if its names are free.
pub(crate) fn complete(store: &ObjectStore, definition: &mut Value) {
    let kind = object::text(definition, "/spec/names/kind").to_owned();
    if let Some(names) = definition.pointer_mut("/spec/names").and_then(Value::as_object_mut) {
        fill(names, "singular", kind.to_ascii_lowercase());
        fill(names, "listKind", format!("{kind}List"));
    }
    if let Some(spec) = definition.get_mut("spec").and_then(Value::as_object_mut) {
        spec.entry("conversion").or_insert_with(|| json!({ "strategy": "None" }));
    }
    let taken = taken_name(store, definition);
    let mut stored: Vec<Value> = object::list(definition, "/status/storedVersions").to_vec();
    for version in object::list(definition, "/spec/versions") {
        let name = version.get("name").cloned().unwrap_or_default();
        if version.get("storage").and_then(Value::as_bool) == Some(true) && !stored.contains(&name) {
            stored.push(name);
        }
    }
    let established = taken.is_none() || has_condition(definition, "Established");
    let names_accepted = match &taken {
        None => ("True", "NoConflicts", "no conflicts found".to_owned()),
        Some(why) => ("False", "Conflict", why.clone()),
    };
    let established = if established {
        ("True", "InitialNamesAccepted", "the initial names have been accepted".to_owned())
    } else {
        ("False", "NotAccepted", "not all names are accepted".to_owned())
    };
    let mut conditions = object::list(definition, "/status/conditions").to_vec();
    set_condition(&mut conditions, "NamesAccepted", names_accepted);
    set_condition(&mut conditions, "Established", established);
    let accepted = if taken.is_none() {
        definition.pointer("/spec/names").cloned()
    } else {
        definition.pointer("/status/acceptedNames").cloned()
    };
    let status = object::field(definition, "status");
    status.insert("conditions".into(), Value::Array(conditions));
    status.insert("acceptedNames".into(), accepted.unwrap_or_else(|| json!({ "plural": "", "kind": "" })));
    status.insert("storedVersions".into(), Value::Array(stored));
}

/// Sets a condition. Its transition time is the time of the last change of its status.
pub(crate) fn set_condition(conditions: &mut Vec<Value>, name: &str, (status, reason, message): (&str, &str, String)) {
    let known = conditions.iter_mut().find(|condition| object::text(condition, "/type") == name);
    let since = known
        .as_ref()
        .filter(|known| object::text(known, "/status") == status)
        .map(|known| known["lastTransitionTime"].clone());
    let condition = json!({
        "type": name, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since.unwrap_or_else(|| json!(timestamp::now())),
    });
    match known {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
}

fn fill(names: &mut Map<String, Value>, key: &str, value: String) {
    if names.get(key).and_then(Value::as_str).is_none_or(str::is_empty) {
        names.insert(key.to_owned(), json!(value));
    }
}

/// The first name of the definition that another definition or a built-in kind uses in the same group, as a message.
fn taken_name(store: &ObjectStore, definition: &Value) -> Option<String> {
    let group = object::text(definition, "/spec/group");
    let (plural, kind) = (object::text(definition, "/spec/names/plural"), object::text(definition, "/spec/names/kind"));
    let conflict = |plural_taken: bool, kind_taken: bool| {
        if plural_taken {
            Some(format!("{plural:?} is already in use"))
        } else if kind_taken {
            Some(format!("{kind:?} is already in use"))
        } else {
            None
        }
    };
    let builtin = BUILTIN.iter().filter(|known| known.group == group);
    let mut found = builtin.filter_map(|known| conflict(known.plural == plural, known.kind == kind)).next();
    for other in store.list(&stored(), None).1 {
        if object::name(&other) != object::name(definition) && object::text(&other, "/spec/group") == group {
            let names = |pointer: &str| object::text(&other, pointer).to_owned();
            found =
                found.or_else(|| conflict(names("/spec/names/plural") == plural, names("/spec/names/kind") == kind));
        }
    }
    found
}
