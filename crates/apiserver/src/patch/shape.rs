//! How the lists and maps of an object are owned and merged by server-side apply: from tables for built-in kinds, from the schema
//! (`x-kubernetes-list-type`, `x-kubernetes-list-map-keys`, `x-kubernetes-map-type`) for custom resources.

use serde_json::Value;

use crate::registry::Served;
use crate::schema::merge_keys;
use crate::schema::merge_rules::ListKind;

/// How a list is treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListShape {
    /// One value.
    Atomic,
    /// Plain values, each once.
    Set,
    /// Objects, told apart by these fields.
    Map(Vec<String>),
}

/// What is known of a resource's lists and maps.
#[derive(Clone, Copy)]
pub(crate) struct Shape<'a>(&'a Served);

impl<'a> Shape<'a> {
    pub(crate) fn of(served: &'a Served) -> Self {
        Self(served)
    }

    /// How the list at a path (field names, items left out) is treated.
    pub(crate) fn list(self, path: &[&str]) -> ListShape {
        match path {
            ["metadata", "finalizers"] => return ListShape::Set,
            ["metadata", "ownerReferences"] => return ListShape::Map(vec!["uid".into()]),
            _ => {}
        }
        let Some(custom) = &self.0.custom else {
            let kind = &self.0.kind;
            return match merge_keys::apply(&kind.group, &kind.version, &kind.kind, path) {
                ListKind::Atomic => ListShape::Atomic,
                ListKind::Set => ListShape::Set,
                ListKind::Map(keys) => ListShape::Map(keys.iter().map(|key| (*key).to_owned()).collect()),
            };
        };
        let Some(schema) = custom.schema.as_ref().and_then(|schema| at(schema, path)) else { return ListShape::Atomic };
        match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => ListShape::Set,
            Some("map") => {
                let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
                let keys: Vec<String> =
                    keys.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
                if keys.is_empty() { ListShape::Atomic } else { ListShape::Map(keys) }
            }
            _ => ListShape::Atomic,
        }
    }

    /// Whether the object at a path is one value.
    pub(crate) fn is_atomic_map(self, path: &[&str]) -> bool {
        match &self.0.custom {
            None => {
                let kind = &self.0.kind;
                merge_keys::is_atomic_map(&kind.group, &kind.version, &kind.kind, path)
            }
            Some(custom) => {
                let schema = custom.schema.as_ref().and_then(|schema| at(schema, path));
                schema.and_then(|schema| schema.get("x-kubernetes-map-type")).and_then(Value::as_str) == Some("atomic")
            }
        }
    }

    /// The default of a list item's key field, for items that leave it out (a port's protocol).
    pub(crate) fn key_default(self, path: &[&str], key: &str) -> Option<Value> {
        match &self.0.custom {
            None => (key == "protocol").then(|| Value::from("TCP")),
            Some(custom) => {
                let schema = at(custom.schema.as_ref()?, path)?;
                schema.get("items")?.get("properties")?.get(key)?.get("default").cloned()
            }
        }
    }
}

/// The schema of the field at a path; list items and map values are stepped through.
fn at<'a>(schema: &'a Value, path: &[&str]) -> Option<&'a Value> {
    let mut schema = schema;
    for step in path {
        while let Some(items) = schema.get("items").filter(|_| schema.get("properties").is_none()) {
            schema = items;
        }
        schema = match schema.get("properties").and_then(|properties| properties.get(*step)) {
            Some(property) => property,
            None => schema.get("additionalProperties").filter(|schema| schema.is_object())?,
        };
    }
    Some(schema)
}
