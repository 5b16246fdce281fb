//! Pruning and defaulting of custom objects by a structural schema.

use serde_json::{Map, Value};

use super::schema::{ENVELOPE, MAX_CAUSES, flag, within};

/// Removes the fields that the schema does not have, and returns them as `unknown field "spec.foo"`.
pub(crate) fn prune(schema: &Value, object: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    prune_at(schema, object, &mut String::new(), true, &mut unknown);
    unknown
}

fn prune_at(schema: &Value, value: &mut Value, path: &mut String, envelope: bool, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => prune_map(schema, map, path, envelope, unknown),
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return };
            for (at, item) in items.iter_mut().enumerate() {
                within(path, &format!("[{at}]"), |path| prune_at(schema, item, path, false, unknown));
            }
        }
        _ => {}
    }
}

fn prune_map(
    schema: &Value,
    map: &mut Map<String, Value>,
    path: &mut String,
    envelope: bool,
    unknown: &mut Vec<String>,
) {
    let properties = schema.get("properties").and_then(Value::as_object);
    let additional = schema
        .get("additionalProperties")
        .filter(|additional| !additional.is_null() && **additional != Value::Bool(false));
    let preserve = flag(schema, "x-kubernetes-preserve-unknown-fields");
    let envelope = envelope || flag(schema, "x-kubernetes-embedded-resource");
    map.retain(|key, value| {
        if envelope && ENVELOPE.contains(&key.as_str()) {
            return true;
        }
        let known = properties.and_then(|properties| properties.get(key)).or(additional);
        match known {
            Some(schema) => {
                let step = if path.is_empty() { key.clone() } else { format!(".{key}") };
                within(path, &step, |path| prune_at(schema, value, path, false, unknown));
                true
            }
            None if preserve => true,
            None => {
                if unknown.len() < MAX_CAUSES {
                    let dot = if path.is_empty() { "" } else { "." };
                    unknown.push(format!("unknown field \"{path}{dot}{key}\""));
                }
                false
            }
        }
    });
}

/// Applies the schema's defaults.
pub(crate) fn default(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                if let Some(default) = schema.get("default") {
                    let missing = map.get(key).is_none_or(|there| there.is_null() && !flag(schema, "nullable"));
                    if missing {
                        map.insert(key.clone(), default.clone());
                    }
                }
                if let Some(inner) = map.get_mut(key) {
                    self::default(schema, inner);
                }
            }
            if let Some(additional) = schema.get("additionalProperties").filter(|additional| additional.is_object()) {
                let properties = schema.get("properties").and_then(Value::as_object);
                for (key, inner) in map.iter_mut() {
                    if properties.is_none_or(|properties| !properties.contains_key(key)) {
                        self::default(additional, inner);
                    }
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                items.iter_mut().for_each(|item| self::default(schema, item));
            }
        }
        _ => {}
    }
}
