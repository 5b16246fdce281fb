//! How server-side apply merges the lists and maps of a resource: by the built-in kinds' merge keys, or by a custom
//! resource's schema (`x-kubernetes-list-type`, `x-kubernetes-list-map-keys`, `x-kubernetes-map-type`).

use serde_json::Value;

use crate::registry::ServedResource;
use crate::schema::merge_keys;
use crate::schema::merge_rules::ListType;

/// The type of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListTopology {
    /// One value.
    Atomic,
    /// Unique scalars.
    Set,
    /// Objects that are identified by these fields.
    Map(Vec<String>),
}

/// The merge rules of a resource's lists and maps.
#[derive(Clone, Copy)]
pub(crate) struct MergeSchema<'a>(&'a ServedResource);

impl<'a> MergeSchema<'a> {
    pub(crate) fn of(served: &'a ServedResource) -> Self {
        Self(served)
    }

    /// The type of the list at a path (field names without list indexes).
    pub(crate) fn list(self, path: &[&str]) -> ListTopology {
        match path {
            ["metadata", "finalizers"] => return ListTopology::Set,
            ["metadata", "ownerReferences"] => return ListTopology::Map(vec!["uid".into()]),
            _ => {}
        }
        let Some(custom) = &self.0.custom else {
            let kind = &self.0.kind;
            return match merge_keys::apply(&kind.group, &kind.version, &kind.kind, path) {
                ListType::Atomic => ListTopology::Atomic,
                ListType::Set => ListTopology::Set,
                ListType::Map(keys) => ListTopology::Map(keys.iter().map(|key| (*key).to_owned()).collect()),
            };
        };
        let Some(schema) = custom.schema.as_ref().and_then(|schema| at(schema, path)) else {
            return ListTopology::Atomic;
        };
        match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => ListTopology::Set,
            Some("map") => {
                let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
                let keys: Vec<String> =
                    keys.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
                if keys.is_empty() { ListTopology::Atomic } else { ListTopology::Map(keys) }
            }
            _ => ListTopology::Atomic,
        }
    }

    /// Returns whether the map at a path is atomic.
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

    /// The default of a key field of list items, such as a port's protocol.
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

/// The schema of the field at a path. Paths omit list items.
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
