//! Roles and bindings.

use serde_json::{Value, json};

use super::field_errors::{FieldErrors, FieldPath, is_empty, items, same, text};
use super::names;
use crate::kinds::ResourceKind;

const RBAC: &str = "rbac.authorization.k8s.io";

pub(super) fn role(kind: &ResourceKind, object: &Value, errors: &mut FieldErrors) {
    for (index, rule) in items(&object["rules"]) {
        let path = FieldPath::root("rules").index(index);
        if is_empty(&rule["verbs"]) {
            errors.required(&path.child("verbs"), "verbs must contain at least one value");
        }
        if !is_empty(&rule["nonResourceURLs"]) {
            let path = path.child("nonResourceURLs");
            if kind.namespaced {
                let problem = "namespaced rules cannot apply to non-resource URLs";
                errors.invalid(&path, rule["nonResourceURLs"].clone(), problem);
            }
            if !is_empty(&rule["apiGroups"]) || !is_empty(&rule["resources"]) || !is_empty(&rule["resourceNames"]) {
                let problem = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(&path, rule["nonResourceURLs"].clone(), problem);
            }
            continue;
        }
        if is_empty(&rule["apiGroups"]) {
            errors.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if is_empty(&rule["resources"]) {
            errors.required(&path.child("resources"), "resource rules must supply at least one resource");
        }
    }
}

pub(super) fn binding(kind: &ResourceKind, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let (role, path) = (&object["roleRef"], FieldPath::root("roleRef"));
    errors.one_of(&path.child("apiGroup"), &role["apiGroup"], &[RBAC]);
    let kinds: &[&str] = if kind.namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    errors.one_of(&path.child("kind"), &role["kind"], kinds);
    let name = text(&role["name"]);
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    } else if let Err(problem) = names::path_segment(name) {
        errors.invalid(&path.child("name"), name, &problem);
    }
    for (index, item) in items(&object["subjects"]) {
        subject(kind, item, &FieldPath::root("subjects").index(index), errors);
    }
    if let Some(old) = old
        && !same(role, &old["roleRef"])
    {
        errors.invalid(&path, role.clone(), "cannot change roleRef");
    }
}

fn subject(kind: &ResourceKind, subject: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    let name = text(&subject["name"]);
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    }
    let group = path.child("apiGroup");
    match text(&subject["kind"]) {
        "ServiceAccount" => {
            if !name.is_empty()
                && let Err(problem) = names::subdomain(name)
            {
                errors.invalid(&path.child("name"), name, &problem);
            }
            if !text(&subject["apiGroup"]).is_empty() {
                errors.one_of(&group, &subject["apiGroup"], &[""]);
            }
            if !kind.namespaced && text(&subject["namespace"]).is_empty() {
                errors.required(&path.child("namespace"), "");
            }
        }
        "User" | "Group" => errors.one_of(&group, &subject["apiGroup"], &[RBAC]),
        other => errors.one_of(&path.child("kind"), &json!(other), &["ServiceAccount", "User", "Group"]),
    }
}
