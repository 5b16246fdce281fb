//! Server-side apply: a field manager owns the fields that it applies. Fields that it applied before and no longer
//! applies are removed unless another manager owns them. Different values of fields that another manager owns are
//! conflicts.

use serde_json::{Map, Value};

use super::fields::FieldSet;
use super::keys;
use super::managed::{self, FieldManager, ManagedFieldsEntry};
use super::merge_schema::MergeSchema;
use super::order;
use crate::object;
use crate::registry::ServedResource;
use crate::status::{Result, Status, StatusCause};
use crate::timestamp;

/// Deepest nesting of a configuration.
const MAX_DEPTH: usize = 64;

/// Applies `config` to `live`, which is null for a new object. The result has the new `managedFields`.
pub(crate) fn apply(
    served: &ServedResource,
    live: &Value,
    config: &Value,
    manager: &FieldManager,
    force: bool,
) -> Result<Value> {
    let shape = MergeSchema::of(served);
    if !object::list(config, "/metadata/managedFields").is_empty() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let wanted = FieldSet::of(shape, config);
    let mut entries = managed::read(object::list(live, "/metadata/managedFields"));
    let mut merged = live.clone();
    merge(shape, &mut Vec::new(), &mut merged, config);
    let different = FieldSet::changed(shape, live, &merged).intersection(&wanted);
    resolve_conflicts(&different, &mut entries, manager, force)?;

    let own = entries.iter().position(|entry| entry.apply && entry.manager == *manager);
    let before = own.map(|at| entries.remove(at));
    if let Some(before) = &before {
        let others = entries.iter().fold(FieldSet::default(), |all, entry| all.union(&entry.fields));
        remove_unowned(shape, &mut merged, &before.fields.minus(&wanted), &others, &wanted);
    }
    let present = FieldSet::of(shape, &merged);
    for entry in &mut entries {
        entry.fields = entry.fields.intersection(&present.union(&containers(&present)));
    }
    let time = match &before {
        Some(before) if before.fields == wanted && object::same(live, &merged) => before.time.clone(),
        _ => timestamp::now(),
    };
    let api_version = served.kind.api_version().into_owned();
    entries.push(ManagedFieldsEntry { manager: manager.clone(), apply: true, api_version, time, fields: wanted });
    managed::write(&mut merged, entries);
    Ok(merged)
}

/// The fields of the set that have children, as fields of their own: a manager may own a map or list itself.
fn containers(set: &FieldSet) -> FieldSet {
    let parts = set.parts.iter().map(|(key, part)| (key.clone(), containers(part))).collect();
    FieldSet { itself: true, parts }
}

/// Returns an error if other managers own changed fields. With `force` the ownership is transferred.
fn resolve_conflicts(
    different: &FieldSet,
    entries: &mut [ManagedFieldsEntry],
    manager: &FieldManager,
    force: bool,
) -> Result<()> {
    let mut causes = Vec::new();
    for entry in entries.iter_mut().filter(|entry| !(entry.apply && entry.manager == *manager)) {
        let disputed = entry.fields.intersection(different);
        if force {
            entry.fields = entry.fields.minus(&disputed);
            continue;
        }
        for path in disputed.paths() {
            let mut message = format!("conflict with {:?}", entry.manager.name);
            if !entry.manager.subresource.is_empty() {
                message.push_str(&format!(" with subresource {:?}", entry.manager.subresource));
            }
            if !entry.apply {
                message.push_str(&format!(" using {}", entry.api_version));
            }
            causes.push(StatusCause::new("FieldManagerConflict", keys::display(&path), message));
        }
    }
    if causes.is_empty() { Ok(()) } else { Err(Status::apply_conflict(causes)) }
}

/// Merges the configuration into the object.
fn merge(shape: MergeSchema<'_>, path: &mut Vec<String>, live: &mut Value, config: &Value) {
    let names: Vec<&str> = path.iter().map(String::as_str).collect();
    match config {
        Value::Object(wanted) if path.len() < MAX_DEPTH && !shape.is_atomic_map(&names) => {
            if !live.is_object() {
                *live = Value::Object(Map::new());
            }
            let Some(map) = live.as_object_mut() else { return };
            for (key, value) in wanted {
                if value.is_null() {
                    // Null means that the server's default is used.
                    map.remove(key);
                    continue;
                }
                path.push(key.clone());
                merge(shape, path, map.entry(key.clone()).or_insert(Value::Null), value);
                path.pop();
            }
        }
        Value::Array(wanted) => {
            let there = live.as_array().cloned().unwrap_or_default();
            let keyed = keys::items_by_key(shape, &names, wanted).zip(keys::items_by_key(shape, &names, &there));
            let Some((wanted, there)) = keyed else {
                *live = config.clone();
                return;
            };
            let order: Vec<String> = wanted.iter().map(|(key, _)| key.clone()).collect();
            let mut items: Vec<(String, Value)> = there.into_iter().map(|(key, item)| (key, item.clone())).collect();
            for (key, item) in wanted {
                match items.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, known)) => merge(shape, path, known, item),
                    None => {
                        let mut new = Value::Null;
                        merge(shape, path, &mut new, item);
                        items.push((key, new));
                    }
                }
            }
            *live = Value::Array(order::by_wanted(items, &order));
        }
        _ => *live = config.clone(),
    }
}

/// Removes the fields that the manager gives up and no other manager owns.
fn remove_unowned(
    shape: MergeSchema<'_>,
    object: &mut Value,
    given_up: &FieldSet,
    others: &FieldSet,
    wanted: &FieldSet,
) {
    let mut paths = given_up.paths();
    // Parents before children: a list item is identified by its key fields.
    paths.sort_by_key(Vec::len);
    for path in paths {
        if !others.touches(&path) && !wanted.touches(&path) {
            remove(shape, object, &path, others, wanted);
        }
    }
}

fn remove(shape: MergeSchema<'_>, object: &mut Value, path: &[String], others: &FieldSet, wanted: &FieldSet) {
    let mut names = Vec::new();
    remove_at(shape, &mut names, object, path);
    // A map that becomes empty is removed too unless a manager owns it.
    for end in (2..path.len()).rev() {
        let parent = &path[..end];
        if others.touches(parent) || wanted.touches(parent) || !parent[end - 1].starts_with("f:") {
            return;
        }
        let mut names = Vec::new();
        let empty = find(shape, &mut names, object, parent).is_some_and(|value| {
            value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
        });
        if !empty {
            return;
        }
        remove_at(shape, &mut Vec::new(), object, parent);
    }
}

fn find<'a>(shape: MergeSchema<'_>, names: &mut Vec<String>, value: &'a Value, path: &[String]) -> Option<&'a Value> {
    let Some((key, rest)) = path.split_first() else { return Some(value) };
    let at: Vec<&str> = names.iter().map(String::as_str).collect();
    let part = keys::part_of(shape, &at, value, key)?;
    if let Some(name) = key.strip_prefix("f:") {
        names.push(name.to_owned());
    }
    find(shape, names, part, rest)
}

fn remove_at(shape: MergeSchema<'_>, names: &mut Vec<String>, value: &mut Value, path: &[String]) {
    let Some((key, rest)) = path.split_first() else { return };
    if let Some(name) = key.strip_prefix("f:") {
        let Some(map) = value.as_object_mut() else { return };
        if rest.is_empty() {
            map.remove(name);
        } else if let Some(part) = map.get_mut(name) {
            names.push(name.to_owned());
            remove_at(shape, names, part, rest);
        }
        return;
    }
    let at: Vec<&str> = names.iter().map(String::as_str).collect();
    let Some(list) = value.as_array_mut() else { return };
    let place = keys::items_by_key(shape, &at, list).and_then(|items| items.iter().position(|(known, _)| known == key));
    match place {
        Some(place) if rest.is_empty() => drop(list.remove(place)),
        Some(place) => remove_at(shape, names, &mut list[place], rest),
        None => {}
    }
}
