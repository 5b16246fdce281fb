//! What all objects have: names, labels, annotations, owners.

use serde_json::Value;

use super::finding::{Findings, Path, entries, items, text};
use super::names;
use crate::kinds::Kind;

/// Most that an object's annotations may hold together.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

pub(super) fn check(kind: &Kind, object: &Value, findings: &mut Findings) {
    let (metadata, path) = (&object["metadata"], Path::root("metadata"));
    name(kind, metadata, &path, findings);
    labels(&metadata["labels"], &path.child("labels"), findings);
    annotations(&metadata["annotations"], &path.child("annotations"), findings);
    for (index, finalizer) in items(&metadata["finalizers"]) {
        if let Err(problem) = names::qualified(text(finalizer)) {
            findings.invalid(&path.child("finalizers").index(index), finalizer.clone(), &problem);
        }
    }
    owners(&metadata["ownerReferences"], &path.child("ownerReferences"), findings);
}

fn name(kind: &Kind, metadata: &Value, path: &Path, findings: &mut Findings) {
    let check = match (&*kind.group, &*kind.kind) {
        ("", "Namespace") => names::label,
        ("", "Service") => names::dns_1035,
        ("rbac.authorization.k8s.io", _) => names::path_segment,
        _ => names::subdomain,
    };
    let name = text(&metadata["name"]);
    let prefix = text(&metadata["generateName"]);
    if name.is_empty() && prefix.is_empty() {
        findings.required(&path.child("name"), "name or generateName is required");
    }
    if !name.is_empty()
        && let Err(problem) = check(name)
    {
        findings.invalid(&path.child("name"), name, &problem);
    }
    // What is appended makes any ending valid.
    let stem = prefix.trim_end_matches(['-', '.']);
    if !stem.is_empty()
        && let Err(problem) = check(stem)
    {
        findings.invalid(&path.child("generateName"), prefix, &problem);
    }
    if kind.namespaced && text(&metadata["namespace"]).is_empty() {
        findings.required(&path.child("namespace"), "");
    }
    if !kind.namespaced && !text(&metadata["namespace"]).is_empty() {
        findings.forbidden(&path.child("namespace"), "not allowed on this type");
    }
}

/// Keys and values of labels, wherever labels are.
pub(super) fn labels(labels: &Value, path: &Path, findings: &mut Findings) {
    for (key, value) in entries(labels) {
        if let Err(problem) = names::qualified(key) {
            findings.invalid(path, key.as_str(), &problem);
        }
        if let Err(problem) = names::label_value(text(value)) {
            findings.invalid(path, value.clone(), &problem);
        }
    }
}

fn annotations(annotations: &Value, path: &Path, findings: &mut Findings) {
    let mut size = 0;
    for (key, value) in entries(annotations) {
        if let Err(problem) = names::qualified(&key.to_lowercase()) {
            findings.invalid(path, key.as_str(), &problem);
        }
        size += key.len() + text(value).len();
    }
    if size > ANNOTATIONS_LIMIT {
        findings.too_long(path, ANNOTATIONS_LIMIT);
    }
}

fn owners(owners: &Value, path: &Path, findings: &mut Findings) {
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
                findings.invalid(&path.child(field), "", problem);
            }
        }
        controllers += usize::from(owner["controller"] == true);
    }
    if controllers > 1 {
        let problem = "Only one reference can have Controller set to true.";
        findings.invalid(path, owners.clone(), problem);
    }
}

/// A LabelSelector.
pub(super) fn selector(selector: &Value, path: &Path, findings: &mut Findings) {
    labels(&selector["matchLabels"], &path.child("matchLabels"), findings);
    for (index, expression) in items(&selector["matchExpressions"]) {
        let path = path.child("matchExpressions").index(index);
        if let Err(problem) = names::qualified(text(&expression["key"])) {
            findings.invalid(&path.child("key"), expression["key"].clone(), &problem);
        }
        let values = items(&expression["values"]).count();
        match text(&expression["operator"]) {
            "In" | "NotIn" if values == 0 => {
                let problem = "must be specified when `operator` is 'In' or 'NotIn'";
                findings.required(&path.child("values"), problem);
            }
            "Exists" | "DoesNotExist" if values > 0 => {
                let problem = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                findings.forbidden(&path.child("values"), problem);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => findings.invalid(
                &path.child("operator"),
                expression["operator"].clone(),
                "not a valid selector operator",
            ),
        }
    }
}
