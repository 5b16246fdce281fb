//! `metadata.managedFields`: the field managers and the fields that they own, updated by every verb.

use serde_json::{Value, json};

use super::fields::FieldSet;
use super::merge_schema::MergeSchema;
use crate::object;
use crate::registry::ServedResource;
use crate::timestamp;

/// Most managers with operation Update, as in Kubernetes. The oldest managers beyond share one entry.
const MAX_UPDATERS: usize = 10;

/// Manager name of the entry that the oldest managers share.
const ANCIENT_CHANGES: &str = "ancient-changes";

/// A field manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldManager {
    pub(crate) name: String,
    /// Empty for the object itself.
    pub(crate) subresource: String,
}

/// One entry of `managedFields`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ManagedFieldsEntry {
    pub(super) manager: FieldManager,
    pub(super) apply: bool,
    pub(super) api_version: String,
    pub(super) time: String,
    pub(super) fields: FieldSet,
}

/// Records a change by create, update or patch. `before` is null for a new object. `after` is the object to be stored;
/// if it has managed fields of its own, they replace the recorded ones.
pub(crate) fn note_update(served: &ServedResource, before: &Value, after: &mut Value, manager: &FieldManager) {
    let shape = MergeSchema::of(served);
    let sent = after.pointer("/metadata/managedFields").and_then(Value::as_array);
    let mut entries = match sent {
        // A list with one empty entry resets the managed fields.
        Some(sent) if sent.len() == 1 && sent[0].as_object().is_some_and(serde_json::Map::is_empty) => Vec::new(),
        Some(sent) if !sent.is_empty() => read(sent),
        _ => read(object::list(before, "/metadata/managedFields")),
    };
    let changed = FieldSet::changed(shape, before, after);
    let present = FieldSet::of(shape, after);
    let absent = FieldSet::of(shape, before).minus(&present);
    for entry in &mut entries {
        entry.fields = entry.fields.minus_covering(&absent);
        if entry.apply || entry.manager != *manager {
            entry.fields = entry.fields.minus(&changed);
        }
    }
    if !changed.is_empty() {
        let api_version = served.kind.api_version().into_owned();
        let own = entries
            .iter_mut()
            .find(|entry| !entry.apply && entry.manager == *manager && entry.api_version == api_version);
        match own {
            Some(own) => {
                own.fields = own.fields.union(&changed);
                own.time = timestamp::now();
            }
            None => entries.push(ManagedFieldsEntry {
                manager: manager.clone(),
                apply: false,
                api_version,
                time: timestamp::now(),
                fields: changed,
            }),
        }
    }
    write(after, entries);
}

pub(super) fn read(list: &[Value]) -> Vec<ManagedFieldsEntry> {
    let entry = |value: &Value| {
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
        let manager = FieldManager { name: text("manager"), subresource: text("subresource") };
        let apply = text("operation") == "Apply";
        let fields = FieldSet::from_value(value.get("fieldsV1").unwrap_or(&Value::Null));
        ManagedFieldsEntry { manager, apply, api_version: text("apiVersion"), time: text("time"), fields }
    };
    list.iter().map(entry).collect()
}

/// Writes the entries without empty ones: Apply before Update.
pub(super) fn write(object: &mut Value, mut entries: Vec<ManagedFieldsEntry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    entries.sort_by(|a, b| b.apply.cmp(&a.apply).then_with(|| a.time.cmp(&b.time)));
    merge_ancient(&mut entries);
    let list: Vec<Value> = entries.iter().map(ManagedFieldsEntry::to_value).collect();
    object::set_metadata(object, "managedFields", (!list.is_empty()).then_some(Value::Array(list)));
}

fn merge_ancient(entries: &mut Vec<ManagedFieldsEntry>) {
    while entries.iter().filter(|entry| !entry.apply).count() > MAX_UPDATERS {
        let Some(first) = entries.iter().position(|entry| !entry.apply) else { return };
        let oldest = entries.remove(first);
        let Some(next) = entries.get_mut(first) else { return };
        next.fields = next.fields.union(&oldest.fields);
        next.manager = FieldManager { name: ANCIENT_CHANGES.into(), subresource: String::new() };
    }
}

impl ManagedFieldsEntry {
    fn to_value(&self) -> Value {
        let mut value = json!({
            "manager": self.manager.name,
            "operation": if self.apply { "Apply" } else { "Update" },
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.to_value(),
        });
        if !self.manager.subresource.is_empty() {
            value["subresource"] = json!(self.manager.subresource);
        }
        value
    }
}
