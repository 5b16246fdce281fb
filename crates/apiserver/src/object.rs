//! Access to the fields that all objects have. Objects are JSON values as clients sent them.

use rand::RngExt as _;
use serde_json::{Map, Value, json};

/// The object's name, or an empty string.
pub(crate) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// The object's namespace, or an empty string for cluster-scoped objects.
pub(crate) fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

/// The object's UID, or an empty string.
pub(crate) fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

/// The string at a JSON pointer, or an empty string.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The items of the list at a JSON pointer.
pub(crate) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Returns whether the object is being deleted.
pub(crate) fn is_deleting(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null())
}

/// The object's finalizers.
pub(crate) fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    list(object, "/metadata/finalizers").iter().filter_map(Value::as_str)
}

/// The object's metadata, created if absent.
pub(crate) fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    field(object, "metadata")
}

/// The object in a field, created if the field is absent or has another type.
pub(crate) fn field<'a>(object: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    let map = object.as_object_mut().expect("made an object above");
    let inner = map.entry(key).or_insert_with(|| json!({}));
    if !inner.is_object() {
        *inner = json!({});
    }
    inner.as_object_mut().expect("made an object above")
}

/// Sets a metadata field, or removes it for `None`.
pub(crate) fn set_metadata(object: &mut Value, key: &str, value: Option<Value>) {
    let metadata = metadata(object);
    match value {
        Some(value) => drop(metadata.insert(key.to_owned(), value)),
        None => drop(metadata.remove(key)),
    }
}

/// Copies a metadata field from another object, or removes it if the other object has none.
pub(crate) fn copy_metadata(object: &mut Value, from: &Value, key: &str) {
    let value = from.pointer("/metadata").and_then(|metadata| metadata.get(key)).cloned();
    set_metadata(object, key, value);
}

/// Copies a top-level field from another object, or removes it if the other object has none.
pub(crate) fn copy_field(object: &mut Value, from: &Value, key: &str) {
    let Some(map) = object.as_object_mut() else { return };
    match from.get(key) {
        Some(value) => drop(map.insert(key.to_owned(), value.clone())),
        None => drop(map.remove(key)),
    }
}

/// Adds a finalizer if it is absent.
pub(crate) fn add_finalizer(object: &mut Value, finalizer: &str) {
    if finalizers(object).any(|known| known == finalizer) {
        return;
    }
    let list = metadata(object).entry("finalizers").or_insert_with(|| json!([]));
    match list {
        Value::Array(list) => list.push(json!(finalizer)),
        other => *other = json!([finalizer]),
    }
}

/// Removes a finalizer, and the list if it becomes empty.
pub(crate) fn remove_finalizer(object: &mut Value, finalizer: &str) {
    let kept: Vec<Value> = finalizers(object).filter(|known| *known != finalizer).map(|known| json!(known)).collect();
    set_metadata(object, "finalizers", (!kept.is_empty()).then_some(Value::Array(kept)));
}

/// Returns whether two objects are equal except for the resource version and managed fields.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    const BOOKKEEPING: [&str; 2] = ["resourceVersion", "managedFields"];
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    let top = |map: &Map<String, Value>, other: &Map<String, Value>| {
        map.iter().all(|(key, value)| key == "metadata" || other.get(key) == Some(value))
    };
    let no_metadata = Map::new();
    let metadata = |map: &Map<String, Value>| {
        let metadata = map.get("metadata").and_then(Value::as_object).unwrap_or(&no_metadata);
        metadata.iter().filter(|(key, _)| !BOOKKEEPING.contains(&key.as_str())).map(own).collect::<Vec<_>>()
    };
    fn own((key, value): (&String, &Value)) -> (String, Value) {
        (key.clone(), value.clone())
    }
    let sorted = |mut pairs: Vec<(String, Value)>| {
        pairs.sort_by(|x, y| x.0.cmp(&y.0));
        pairs
    };
    top(a, b) && top(b, a) && sorted(metadata(a)) == sorted(metadata(b))
}

/// A random UUID (RFC 9562 version 4).
pub(crate) fn new_uid() -> String {
    let mut bytes: [u8; 16] = rand::rng().random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finalizers_are_added_and_removed() {
        let mut object = json!({});
        add_finalizer(&mut object, "a/b");
        add_finalizer(&mut object, "a/b");
        assert_eq!(finalizers(&object).collect::<Vec<_>>(), ["a/b"]);
        remove_finalizer(&mut object, "a/b");
        assert_eq!(object, json!({"metadata": {}}));
    }

    #[test]
    fn equality_ignores_revision_and_managed_fields() {
        let a = json!({"metadata": {"name": "x", "resourceVersion": "1"}, "spec": 1});
        let b = json!({"metadata": {"name": "x", "resourceVersion": "2", "managedFields": []}, "spec": 1});
        assert!(same(&a, &b));
        assert!(!same(&a, &json!({"metadata": {"name": "x"}, "spec": 2})));
        assert!(!same(&a, &json!({"metadata": {"name": "x"}})));
    }
}
