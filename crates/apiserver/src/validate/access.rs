//! Roles and bindings.

use serde_json::{Value, json};

use super::finding::{Findings, Path, is_empty, items, same, text};
use super::names;
use crate::kinds::Kind;

const RBAC: &str = "rbac.authorization.k8s.io";

pub(super) fn role(kind: &Kind, object: &Value, findings: &mut Findings) {
    for (index, rule) in items(&object["rules"]) {
        let path = Path::root("rules").index(index);
        if is_empty(&rule["verbs"]) {
            findings.required(&path.child("verbs"), "verbs must contain at least one value");
        }
        if !is_empty(&rule["nonResourceURLs"]) {
            let path = path.child("nonResourceURLs");
            if kind.namespaced {
                let problem = "namespaced rules cannot apply to non-resource URLs";
                findings.invalid(&path, rule["nonResourceURLs"].clone(), problem);
            }
            if !is_empty(&rule["apiGroups"]) || !is_empty(&rule["resources"]) || !is_empty(&rule["resourceNames"]) {
                let problem = "rules cannot apply to both regular resources and non-resource URLs";
                findings.invalid(&path, rule["nonResourceURLs"].clone(), problem);
            }
            continue;
        }
        if is_empty(&rule["apiGroups"]) {
            findings.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if is_empty(&rule["resources"]) {
            findings.required(&path.child("resources"), "resource rules must supply at least one resource");
        }
    }
}

pub(super) fn binding(kind: &Kind, object: &Value, old: Option<&Value>, findings: &mut Findings) {
    let (role, path) = (&object["roleRef"], Path::root("roleRef"));
    findings.one_of(&path.child("apiGroup"), &role["apiGroup"], &[RBAC]);
    let kinds: &[&str] = if kind.namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    findings.one_of(&path.child("kind"), &role["kind"], kinds);
    let name = text(&role["name"]);
    if name.is_empty() {
        findings.required(&path.child("name"), "");
    } else if let Err(problem) = names::path_segment(name) {
        findings.invalid(&path.child("name"), name, &problem);
    }
    for (index, item) in items(&object["subjects"]) {
        subject(kind, item, &Path::root("subjects").index(index), findings);
    }
    if let Some(old) = old
        && !same(role, &old["roleRef"])
    {
        findings.invalid(&path, role.clone(), "cannot change roleRef");
    }
}

fn subject(kind: &Kind, subject: &Value, path: &Path, findings: &mut Findings) {
    let name = text(&subject["name"]);
    if name.is_empty() {
        findings.required(&path.child("name"), "");
    }
    let group = path.child("apiGroup");
    match text(&subject["kind"]) {
        "ServiceAccount" => {
            if !name.is_empty()
                && let Err(problem) = names::subdomain(name)
            {
                findings.invalid(&path.child("name"), name, &problem);
            }
            if !text(&subject["apiGroup"]).is_empty() {
                findings.one_of(&group, &subject["apiGroup"], &[""]);
            }
            if !kind.namespaced && text(&subject["namespace"]).is_empty() {
                findings.required(&path.child("namespace"), "");
            }
        }
        "User" | "Group" => findings.one_of(&group, &subject["apiGroup"], &[RBAC]),
        other => findings.one_of(&path.child("kind"), &json!(other), &["ServiceAccount", "User", "Group"]),
    }
}
