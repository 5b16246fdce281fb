//! Metadata of all objects: names, labels, annotations, owners.

use serde_json::Value;

use super::field_errors::{FieldErrors, FieldPath, entries, items, text};
use super::names;
use crate::kinds::ResourceKind;

/// Largest size of an object's annotations.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

pub(super) fn check(kind: &ResourceKind, object: &Value, errors: &mut FieldErrors) {
    let (metadata, path) = (&object["metadata"], FieldPath::root("metadata"));
    name(kind, metadata, &path, errors);
    labels(&metadata["labels"], &path.child("labels"), errors);
    annotations(&metadata["annotations"], &path.child("annotations"), errors);
    for (index, finalizer) in items(&metadata["finalizers"]) {
        if let Err(problem) = names::qualified(text(finalizer)) {
            errors.invalid(&path.child("finalizers").index(index), finalizer.clone(), &problem);
        }
    }
    owners(&metadata["ownerReferences"], &path.child("ownerReferences"), errors);
}

fn name(kind: &ResourceKind, metadata: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    let check = match (&*kind.group, &*kind.kind) {
        ("", "Namespace") => names::label,
        ("", "Service") => names::dns_1035,
        ("rbac.authorization.k8s.io", _) => names::path_segment,
        _ => names::subdomain,
    };
    let name = text(&metadata["name"]);
    let prefix = text(&metadata["generateName"]);
    if name.is_empty() && prefix.is_empty() {
        errors.required(&path.child("name"), "name or generateName is required");
    }
    if !name.is_empty()
        && let Err(problem) = check(name)
    {
        errors.invalid(&path.child("name"), name, &problem);
    }
    // The generated suffix makes any ending valid.
    let stem = prefix.trim_end_matches(['-', '.']);
    if !stem.is_empty()
        && let Err(problem) = check(stem)
    {
        errors.invalid(&path.child("generateName"), prefix, &problem);
    }
    if kind.namespaced && text(&metadata["namespace"]).is_empty() {
        errors.required(&path.child("namespace"), "");
    }
    if !kind.namespaced && !text(&metadata["namespace"]).is_empty() {
        errors.forbidden(&path.child("namespace"), "not allowed on this type");
    }
}

/// Keys and values of labels.
pub(super) fn labels(labels: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    for (key, value) in entries(labels) {
        if let Err(problem) = names::qualified(key) {
            errors.invalid(path, key.as_str(), &problem);
        }
        if let Err(problem) = names::label_value(text(value)) {
            errors.invalid(path, value.clone(), &problem);
        }
    }
}

fn annotations(annotations: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    let mut size = 0;
    for (key, value) in entries(annotations) {
        if let Err(problem) = names::qualified(&key.to_lowercase()) {
            errors.invalid(path, key.as_str(), &problem);
        }
        size += key.len() + text(value).len();
    }
    if size > ANNOTATIONS_LIMIT {
        errors.too_long(path, ANNOTATIONS_LIMIT);
    }
}

fn owners(owners: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    let mut controllers = 0;
    for (index, owner) in items(owners) {
        let path = path.index(index);
        for (field, problem) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if text(&owner[field]).is_empty() {
                errors.invalid(&path.child(field), "", problem);
            }
        }
        controllers += usize::from(owner["controller"] == true);
    }
    if controllers > 1 {
        let problem = "Only one reference can have Controller set to true.";
        errors.invalid(path, owners.clone(), problem);
    }
}

/// A LabelSelector.
pub(super) fn selector(selector: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    labels(&selector["matchLabels"], &path.child("matchLabels"), errors);
    for (index, expression) in items(&selector["matchExpressions"]) {
        let path = path.child("matchExpressions").index(index);
        if let Err(problem) = names::qualified(text(&expression["key"])) {
            errors.invalid(&path.child("key"), expression["key"].clone(), &problem);
        }
        let values = items(&expression["values"]).count();
        match text(&expression["operator"]) {
            "In" | "NotIn" if values == 0 => {
                let problem = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.required(&path.child("values"), problem);
            }
            "Exists" | "DoesNotExist" if values > 0 => {
                let problem = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(&path.child("values"), problem);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => {
                errors.invalid(&path.child("operator"), expression["operator"].clone(), "not a valid selector operator")
            }
        }
    }
}
