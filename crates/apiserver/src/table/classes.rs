//! Classes of storage, priority and runtimes.

use serde_json::Value;
use time::OffsetDateTime;

use super::age;
use super::cell::{Cells, Heading, column, name, number, or_none, text};
use crate::kinds::ResourceKind;

pub(super) fn printer(kind: &ResourceKind) -> Option<(&'static [Heading], Cells)> {
    Some(match (&*kind.group, &*kind.kind) {
        ("storage.k8s.io", "StorageClass") => (STORAGE_CLASS, storage_class),
        ("scheduling.k8s.io", "PriorityClass") => (PRIORITY_CLASS, priority_class),
        ("node.k8s.io", "RuntimeClass") => (RUNTIME_CLASS, runtime_class),
        _ => return None,
    })
}

const STORAGE_CLASS: &[Heading] = &[
    column("Name", "string"),
    column("Provisioner", "string"),
    column("ReclaimPolicy", "string"),
    column("VolumeBindingMode", "string"),
    column("AllowVolumeExpansion", "string"),
    column("Age", "string"),
];

fn storage_class(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
    let is_default = object["metadata"]["annotations"][DEFAULT] == "true";
    let marked = format!("{}{}", text(&object["metadata"]["name"]), if is_default { " (default)" } else { "" });
    vec![
        marked.into(),
        object["provisioner"].clone(),
        text(&object["reclaimPolicy"]).into(),
        or_none(text(&object["volumeBindingMode"])),
        (object["allowVolumeExpansion"] == true).into(),
        age::of(object, now),
    ]
}

const PRIORITY_CLASS: &[Heading] = &[
    column("Name", "string"),
    column("Value", "integer"),
    column("Global-Default", "boolean"),
    column("Age", "string"),
    column("PreemptionPolicy", "string"),
];

fn priority_class(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    vec![
        name(object),
        number(&object["value"]).into(),
        (object["globalDefault"] == true).into(),
        age::of(object, now),
        text(&object["preemptionPolicy"]).into(),
    ]
}

const RUNTIME_CLASS: &[Heading] = &[column("Name", "string"), column("Handler", "string"), column("Age", "string")];

fn runtime_class(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    vec![name(object), object["handler"].clone(), age::of(object, now)]
}
