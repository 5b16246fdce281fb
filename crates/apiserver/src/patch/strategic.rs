//! Strategic merge patch: a merge patch that merges lists by key, with directives.
//!
//! Semantics: Kubernetes' `contributors/devel/sig-api-machinery/strategic-merge-patch.md`.

use serde_json::{Map, Value};

use super::order;
use crate::registry::ServedResource;
use crate::schema::merge_rules::ListType;
use crate::status::{Result, Status};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_PRIMITIVE_LIST: &str = "$deleteFromPrimitiveList/";
const SET_ELEMENT_ORDER: &str = "$setElementOrder/";

/// Deepest nesting of a patch.
const MAX_DEPTH: usize = 64;

/// Merges `patch` into `object`.
pub(super) fn merge(served: &ServedResource, object: &mut Value, patch: &Value) -> Result<()> {
    let (Some(map), Some(patch)) = (object.as_object_mut(), patch.as_object()) else {
        return Err(Status::bad_request("a strategic merge patch must be a JSON object"));
    };
    merge_map(served, &mut Vec::new(), map, patch)
}

fn merge_map(
    served: &ServedResource,
    path: &mut Vec<String>,
    map: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<()> {
    if path.len() > MAX_DEPTH {
        return Err(Status::bad_request("the patch is nested too deeply"));
    }
    match patch.get(PATCH).map(|directive| directive.as_str()) {
        None | Some(Some("merge")) => {}
        Some(Some("replace")) => {
            *map = without_directives(patch);
            return Ok(());
        }
        Some(Some("delete")) => {
            map.clear();
            return Ok(());
        }
        Some(_) => return Err(Status::bad_request(format!("unrecognized patch directive: {}", patch[PATCH]))),
    }
    if let Some(kept) = patch.get(RETAIN_KEYS) {
        let kept =
            kept.as_array().ok_or_else(|| Status::bad_request("invalid type for $retainKeys: must be a list"))?;
        map.retain(|key, _| kept.iter().any(|known| known == key));
    }
    for (key, values) in patch {
        if let Some(field) = key.strip_prefix(DELETE_FROM_PRIMITIVE_LIST) {
            let values = values
                .as_array()
                .ok_or_else(|| Status::bad_request(format!("invalid type for {key}: must be a list")))?;
            if let Some(Value::Array(list)) = map.get_mut(field) {
                list.retain(|item| !values.contains(item));
            }
        }
    }
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        path.push(key.clone());
        merge_field(served, path, map, key, value)?;
        path.pop();
    }
    for (key, wanted) in patch {
        if let Some(field) = key.strip_prefix(SET_ELEMENT_ORDER) {
            let wanted = wanted
                .as_array()
                .ok_or_else(|| Status::bad_request(format!("invalid type for {key}: must be a list")))?;
            path.push(field.to_owned());
            if let Some(Value::Array(list)) = map.get_mut(field) {
                set_order(list_kind(served, path), list, wanted);
            }
            path.pop();
        }
    }
    Ok(())
}

fn merge_field(
    served: &ServedResource,
    path: &mut Vec<String>,
    map: &mut Map<String, Value>,
    key: &str,
    value: &Value,
) -> Result<()> {
    match (map.get_mut(key), value) {
        (_, Value::Null) => drop(map.remove(key)),
        (Some(Value::Object(there)), Value::Object(patch)) => merge_map(served, path, there, patch)?,
        (Some(Value::Array(there)), Value::Array(patch)) => merge_list(served, path, there, patch)?,
        (_, Value::Object(patch)) => {
            let mut new = Map::new();
            merge_map(served, path, &mut new, patch)?;
            map.insert(key.to_owned(), Value::Object(new));
        }
        (_, Value::Array(patch)) => {
            let mut new = Vec::new();
            merge_list(served, path, &mut new, patch)?;
            map.insert(key.to_owned(), Value::Array(new));
        }
        (_, value) => drop(map.insert(key.to_owned(), value.clone())),
    }
    Ok(())
}

fn merge_list(served: &ServedResource, path: &mut Vec<String>, list: &mut Vec<Value>, patch: &[Value]) -> Result<()> {
    let key = match list_kind(served, path) {
        ListType::Atomic => {
            *list = patch.iter().map(strip).collect();
            return Ok(());
        }
        ListType::Set => {
            for value in patch {
                if !list.contains(value) {
                    list.push(value.clone());
                }
            }
            return Ok(());
        }
        ListType::Map(keys) => *keys.first().unwrap_or(&"name"),
    };
    let directive = |item: &Value| item.get(PATCH).and_then(Value::as_str).map(str::to_owned);
    let replaces = |item: &Value| item.get(key).is_none() && directive(item).as_deref() == Some("replace");
    if patch.iter().any(replaces) {
        *list = patch.iter().filter(|item| !replaces(item)).map(strip).collect();
        return Ok(());
    }
    for item in patch {
        let (Some(fields), Some(id)) = (item.as_object(), item.get(key)) else {
            let path = path.join(".");
            return Err(Status::bad_request(format!(
                "map: {item} does not contain declared merge key: {key} (in {path})"
            )));
        };
        if directive(item).as_deref() == Some("delete") {
            list.retain(|known| known.get(key) != Some(id));
            continue;
        }
        match list.iter_mut().find(|known| known.get(key) == Some(id)) {
            Some(Value::Object(known)) => merge_map(served, path, known, fields)?,
            _ => {
                let mut new = Map::new();
                merge_map(served, path, &mut new, fields)?;
                list.push(Value::Object(new));
            }
        }
    }
    Ok(())
}

fn list_kind(served: &ServedResource, path: &[String]) -> ListType {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    served.strategic_list(&path)
}

fn set_order(kind: ListType, list: &mut Vec<Value>, wanted: &[Value]) {
    let id = |item: &Value| match kind {
        ListType::Map(keys) => keys.first().and_then(|key| item.get(*key)).cloned().unwrap_or(Value::Null),
        ListType::Set | ListType::Atomic => item.clone(),
    };
    let items = std::mem::take(list).into_iter().map(|item| (id(&item), item)).collect();
    let wanted: Vec<Value> = wanted.iter().map(id).collect();
    *list = order::by_wanted(items, &wanted);
}

fn without_directives(map: &Map<String, Value>) -> Map<String, Value> {
    map.iter().filter(|(key, _)| !key.starts_with('$')).map(|(key, value)| (key.clone(), strip(value))).collect()
}

/// The value without directives, for new fields.
fn strip(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(without_directives(map)),
        Value::Array(items) => Value::Array(items.iter().map(strip).collect()),
        other => other.clone(),
    }
}
