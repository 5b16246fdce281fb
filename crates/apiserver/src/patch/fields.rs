//! Sets of fields in the format of `metadata.managedFields` (`FieldsV1`), and operations on them.
//!
//! The format is that of k8s-sigs/structured-merge-diff: `f:<name>` is a field, `k:{…}` a list item by its keys, `v:…`
//! an item of a list of scalars by its value; `.` is the field itself beside its children.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::keys::{items_by_key, part_of};
use super::merge_schema::MergeSchema;

/// Deepest nesting of tracked fields. Deeper values are atomic.
const MAX_DEPTH: usize = 64;

/// A set of fields as a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    /// Whether the field itself is in the set.
    pub(crate) itself: bool,
    /// The children by their `f:`, `k:` or `v:` key.
    pub(crate) parts: BTreeMap<String, FieldSet>,
}

/// Metadata fields of the server, which no manager owns.
const UNOWNED: [&str; 10] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "selfLink",
    "managedFields",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

impl FieldSet {
    fn leaf() -> Self {
        Self { itself: true, parts: BTreeMap::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.itself && self.parts.is_empty()
    }

    /// All fields of an object that a manager can own.
    pub(crate) fn of(shape: MergeSchema<'_>, object: &Value) -> Self {
        let mut fields = Self::default();
        for (key, value) in top(object) {
            fields.add(format!("f:{key}"), Self::of_value(shape, &mut vec![key.clone()], value, key == "metadata"));
        }
        fields
    }

    fn of_value(shape: MergeSchema<'_>, path: &mut Vec<String>, value: &Value, metadata: bool) -> Self {
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        match value {
            Value::Object(map) if !map.is_empty() && path.len() < MAX_DEPTH && !shape.is_atomic_map(&names) => {
                let mut fields = Self::default();
                for (key, value) in map {
                    if metadata && path.len() == 1 && UNOWNED.contains(&key.as_str()) {
                        continue;
                    }
                    path.push(key.clone());
                    fields.add(format!("f:{key}"), Self::of_value(shape, path, value, metadata));
                    path.pop();
                }
                fields
            }
            Value::Array(items) => match items_by_key(shape, &names, items) {
                Some(items) if !items.is_empty() && path.len() < MAX_DEPTH => {
                    let mut fields = Self::default();
                    for (key, item) in items {
                        let mut of_item =
                            if item.is_object() { Self::of_value(shape, path, item, false) } else { Self::default() };
                        of_item.itself = true;
                        fields.add(key, of_item);
                    }
                    fields
                }
                _ => Self::leaf(),
            },
            _ => Self::leaf(),
        }
    }

    fn add(&mut self, key: String, fields: Self) {
        if !fields.is_empty() {
            self.parts.insert(key, fields);
        }
    }

    /// The fields that are new or different in `after`.
    pub(crate) fn changed(shape: MergeSchema<'_>, before: &Value, after: &Value) -> Self {
        let mut fields = Self::of(shape, after);
        fields.drop_equal(shape, &mut Vec::new(), before, after);
        fields
    }

    /// Removes the fields with equal values from `self`, the set of all fields of `after`.
    fn drop_equal(&mut self, shape: MergeSchema<'_>, path: &mut Vec<String>, before: &Value, after: &Value) {
        self.parts.retain(|key, part| {
            let names: Vec<&str> = path.iter().map(String::as_str).collect();
            let (old, new) = (part_of(shape, &names, before, key), part_of(shape, &names, after, key));
            let (Some(old), Some(new)) = (old, new) else { return true };
            if old == new {
                return false;
            }
            if part.parts.is_empty() {
                // Lists and maps that were or become empty change as a whole.
                return true;
            }
            // The field existed before, and only children changed.
            part.itself = false;
            let name = key.strip_prefix("f:");
            if let Some(name) = name {
                path.push(name.to_owned());
            }
            part.drop_equal(shape, path, old, new);
            if name.is_some() {
                path.pop();
            }
            !part.is_empty()
        });
    }

    /// The union of both sets.
    pub(crate) fn union(&self, other: &Self) -> Self {
        let mut all = self.clone();
        all.itself |= other.itself;
        for (key, part) in &other.parts {
            let merged = all.parts.get(key).map_or_else(|| part.clone(), |own| own.union(part));
            all.parts.insert(key.clone(), merged);
        }
        all
    }

    /// The fields of this set that are not in the other.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        let mut left = Self { itself: self.itself && !other.itself, parts: BTreeMap::new() };
        for (key, part) in &self.parts {
            let part = other.parts.get(key).map_or_else(|| part.clone(), |theirs| part.minus(theirs));
            left.add(key.clone(), part);
        }
        left
    }

    /// The fields that are in both sets.
    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let mut both = Self { itself: self.itself && other.itself, parts: BTreeMap::new() };
        for (key, part) in &self.parts {
            if let Some(theirs) = other.parts.get(key) {
                both.add(key.clone(), part.intersection(theirs));
            }
        }
        both
    }

    /// Removes the fields that are at, below or above a leaf of the other set: fields whose type changed.
    pub(crate) fn minus_covering(&self, other: &Self) -> Self {
        let mut left = Self { itself: self.itself && !other.itself, parts: BTreeMap::new() };
        for (key, part) in &self.parts {
            match other.parts.get(key) {
                None => left.add(key.clone(), part.clone()),
                Some(theirs) if theirs.itself && theirs.parts.is_empty() => {}
                Some(theirs) if part.itself && part.parts.is_empty() && !theirs.itself => {
                    left.add(key.clone(), part.clone());
                }
                Some(theirs) => left.add(key.clone(), part.minus_covering(theirs)),
            }
        }
        left
    }

    /// The paths of all fields of the set, as keys from the root.
    pub(crate) fn paths(&self) -> Vec<Vec<String>> {
        let mut paths = Vec::new();
        self.collect(&mut Vec::new(), &mut paths);
        paths
    }

    fn collect(&self, path: &mut Vec<String>, paths: &mut Vec<Vec<String>>) {
        if self.itself {
            paths.push(path.clone());
        }
        for (key, part) in &self.parts {
            path.push(key.clone());
            part.collect(path, paths);
            path.pop();
        }
    }

    /// Returns whether the field at a path, or a field below it, is in the set.
    pub(crate) fn touches(&self, path: &[String]) -> bool {
        let mut fields = self;
        for key in path {
            match fields.parts.get(key) {
                Some(part) => fields = part,
                None => return false,
            }
        }
        !fields.is_empty()
    }

    /// Reads `fieldsV1`. Invalid parts are ignored.
    pub(crate) fn from_value(value: &Value) -> Self {
        Self::read(value, 0)
    }

    fn read(value: &Value, depth: usize) -> Self {
        let Some(map) = value.as_object() else { return Self::default() };
        if map.is_empty() || depth > MAX_DEPTH + 8 {
            return Self::leaf();
        }
        let mut fields = Self { itself: map.contains_key("."), parts: BTreeMap::new() };
        for (key, part) in map.iter().filter(|(key, _)| *key != ".") {
            fields.add(key.clone(), Self::read(part, depth + 1));
        }
        fields
    }

    /// Writes `fieldsV1`.
    pub(crate) fn to_value(&self) -> Value {
        let mut map = Map::new();
        if self.itself && !self.parts.is_empty() {
            map.insert(".".into(), json!({}));
        }
        for (key, part) in &self.parts {
            map.insert(key.clone(), part.to_value());
        }
        Value::Object(map)
    }
}

/// The top-level fields that a manager can own.
fn top(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let map = object.as_object().into_iter().flatten();
    map.filter(|(key, _)| !matches!(key.as_str(), "apiVersion" | "kind"))
}
