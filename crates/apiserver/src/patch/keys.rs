//! The keys of fields and list items in `FieldsV1`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::merge_schema::{ListTopology, MergeSchema};

/// The items of a list with their keys. Returns None if the list is atomic or its items do not have the type that the
/// schema requires.
pub(super) fn items_by_key<'a>(
    shape: MergeSchema<'_>,
    path: &[&str],
    items: &'a [Value],
) -> Option<Vec<(String, &'a Value)>> {
    let shape_of_list = shape.list(path);
    let key = |item: &Value| match &shape_of_list {
        ListTopology::Atomic => None,
        ListTopology::Set => (!item.is_object() && !item.is_array()).then(|| format!("v:{item}")),
        ListTopology::Map(keys) => key_of(shape, path, keys, item),
    };
    if shape_of_list == ListTopology::Atomic {
        return None;
    }
    items.iter().map(|item| key(item).map(|key| (key, item))).collect()
}

fn key_of(shape: MergeSchema<'_>, path: &[&str], keys: &[String], item: &Value) -> Option<String> {
    let map = item.as_object()?;
    let mut found = BTreeMap::new();
    for key in keys {
        match map.get(key).cloned().or_else(|| shape.key_default(path, key)) {
            Some(value) => drop(found.insert(key.as_str(), value)),
            None => continue,
        }
    }
    if found.is_empty() {
        return None;
    }
    serde_json::to_string(&found).ok().map(|key| format!("k:{key}"))
}

/// The child of a value with a key.
pub(super) fn part_of<'a>(shape: MergeSchema<'_>, path: &[&str], value: &'a Value, key: &str) -> Option<&'a Value> {
    match key.strip_prefix("f:") {
        Some(name) => value.get(name),
        None => {
            let items = items_by_key(shape, path, value.as_array()?)?;
            items.into_iter().find(|(known, _)| known == key).map(|(_, item)| item)
        }
    }
}

/// A field path in messages: `.spec.containers[name="web"].image`.
pub(crate) fn display(path: &[String]) -> String {
    let mut text = String::new();
    for key in path {
        if let Some(name) = key.strip_prefix("f:") {
            text.push('.');
            text.push_str(name);
        } else if let Some(value) = key.strip_prefix("v:") {
            text.push_str(&format!("[={value}]"));
        } else if let Some(keys) = key.strip_prefix("k:") {
            let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            text.push_str(&format!("[{}]", keys.join(",")));
        }
    }
    text
}
