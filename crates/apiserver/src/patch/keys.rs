//! The keys of fields and list items in `FieldsV1`, and finding the value that a key names.

use std::collections::BTreeMap;

use serde_json::Value;

use super::shape::{ListShape, Shape};

/// The items of a list with their keys; None if the list is one value, or does not look as its shape says.
pub(super) fn items_by_key<'a>(
    shape: Shape<'_>,
    path: &[&str],
    items: &'a [Value],
) -> Option<Vec<(String, &'a Value)>> {
    let shape_of_list = shape.list(path);
    let key = |item: &Value| match &shape_of_list {
        ListShape::Atomic => None,
        ListShape::Set => (!item.is_object() && !item.is_array()).then(|| format!("v:{item}")),
        ListShape::Map(keys) => key_of(shape, path, keys, item),
    };
    if shape_of_list == ListShape::Atomic {
        return None;
    }
    items.iter().map(|item| key(item).map(|key| (key, item))).collect()
}

fn key_of(shape: Shape<'_>, path: &[&str], keys: &[String], item: &Value) -> Option<String> {
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

/// The part of a value under a key.
pub(super) fn part_of<'a>(shape: Shape<'_>, path: &[&str], value: &'a Value, key: &str) -> Option<&'a Value> {
    match key.strip_prefix("f:") {
        Some(name) => value.get(name),
        None => {
            let items = items_by_key(shape, path, value.as_array()?)?;
            items.into_iter().find(|(known, _)| known == key).map(|(_, item)| item)
        }
    }
}

/// How messages name a field: `.spec.containers[name="web"].image`.
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
