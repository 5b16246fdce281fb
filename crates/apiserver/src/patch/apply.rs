//! Server-side apply: a manager says what it wants of an object, and owns that. What it wanted before and no longer does goes, unless
//! somebody else wants it too; what somebody else owns and is different is a conflict.

use serde_json::{Map, Value};

use super::fields::Fields;
use super::keys;
use super::managed::{self, Entry, Manager};
use super::order;
use super::shape::Shape;
use crate::object;
use crate::registry::Served;
use crate::status::{Cause, Result, Status};
use crate::timestamp;

/// How deep a configuration may be nested.
const DEEPEST: usize = 64;

/// Applies `config` to what there is (`live`, null if nothing). The result carries its new `managedFields`.
pub(crate) fn apply(served: &Served, live: &Value, config: &Value, manager: &Manager, force: bool) -> Result<Value> {
    let shape = Shape::of(served);
    if !object::list(config, "/metadata/managedFields").is_empty() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let wanted = Fields::of(shape, config);
    let mut entries = managed::read(object::list(live, "/metadata/managedFields"));
    let mut merged = live.clone();
    merge(shape, &mut Vec::new(), &mut merged, config);
    let different = Fields::changed(shape, live, &merged).intersection(&wanted);
    settle_conflicts(&different, &mut entries, manager, force)?;

    let own = entries.iter().position(|entry| entry.apply && entry.manager == *manager);
    let before = own.map(|at| entries.remove(at));
    if let Some(before) = &before {
        let others = entries.iter().fold(Fields::default(), |all, entry| all.union(&entry.fields));
        remove_given_up(shape, &mut merged, &before.fields.minus(&wanted), &others, &wanted);
    }
    let present = Fields::of(shape, &merged);
    for entry in &mut entries {
        entry.fields = entry.fields.intersection(&present.union(&containers(&present)));
    }
    let time = match &before {
        Some(before) if before.fields == wanted && object::same(live, &merged) => before.time.clone(),
        _ => timestamp::now(),
    };
    let api_version = served.kind.api_version().into_owned();
    entries.push(Entry { manager: manager.clone(), apply: true, api_version, time, fields: wanted });
    managed::write(&mut merged, entries);
    Ok(merged)
}

/// Every field that has parts in the set, as a field of its own: others may own a map or a list as such.
fn containers(set: &Fields) -> Fields {
    let parts = set.parts.iter().map(|(key, part)| (key.clone(), containers(part))).collect();
    Fields { itself: true, parts }
}

/// Finds what others own and want differently. With force it becomes ours alone.
fn settle_conflicts(different: &Fields, entries: &mut [Entry], manager: &Manager, force: bool) -> Result<()> {
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
            causes.push(Cause::new("FieldManagerConflict", keys::display(&path), message));
        }
    }
    if causes.is_empty() { Ok(()) } else { Err(Status::apply_conflict(causes)) }
}

/// Puts what is wanted over what is there.
fn merge(shape: Shape<'_>, path: &mut Vec<String>, live: &mut Value, config: &Value) {
    let names: Vec<&str> = path.iter().map(String::as_str).collect();
    match config {
        Value::Object(wanted) if path.len() < DEEPEST && !shape.is_atomic_map(&names) => {
            if !live.is_object() {
                *live = Value::Object(Map::new());
            }
            let Some(map) = live.as_object_mut() else { return };
            for (key, value) in wanted {
                if value.is_null() {
                    // Null means that the value is left to the server's defaults.
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

/// Removes what the manager no longer wants and nobody else owns.
fn remove_given_up(shape: Shape<'_>, object: &mut Value, given_up: &Fields, others: &Fields, wanted: &Fields) {
    let mut paths = given_up.paths();
    // Things before their parts: a list item is found by parts of it.
    paths.sort_by_key(Vec::len);
    for path in paths {
        if !others.touches(&path) && !wanted.touches(&path) {
            remove(shape, object, &path, others, wanted);
        }
    }
}

fn remove(shape: Shape<'_>, object: &mut Value, path: &[String], others: &Fields, wanted: &Fields) {
    let mut names = Vec::new();
    remove_at(shape, &mut names, object, path);
    // A map that is empty because of this goes too, unless somebody owns it.
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

fn find<'a>(shape: Shape<'_>, names: &mut Vec<String>, value: &'a Value, path: &[String]) -> Option<&'a Value> {
    let Some((key, rest)) = path.split_first() else { return Some(value) };
    let at: Vec<&str> = names.iter().map(String::as_str).collect();
    let part = keys::part_of(shape, &at, value, key)?;
    if let Some(name) = key.strip_prefix("f:") {
        names.push(name.to_owned());
    }
    find(shape, names, part, rest)
}

fn remove_at(shape: Shape<'_>, names: &mut Vec<String>, value: &mut Value, path: &[String]) {
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
