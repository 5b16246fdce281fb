//! Webhook configurations and CustomResourceDefinitions.

use std::collections::HashSet;

use serde_json::Value;

use super::finding::{Findings, Path, is_empty, items, same, text};
use super::{metadata, names};

pub(super) fn webhooks(object: &Value, findings: &mut Findings) {
    let mut seen = HashSet::new();
    for (index, hook) in items(&object["webhooks"]) {
        let path = Path::root("webhooks").index(index);
        let name = text(&hook["name"]);
        let name_path = path.child("name");
        if name.is_empty() {
            findings.required(&name_path, "");
        } else if let Err(problem) = names::subdomain(name) {
            findings.invalid(&name_path, name, &problem);
        } else if name.split('.').count() < 3 {
            findings.invalid(&name_path, name, "should be a domain with at least three segments separated by dots");
        } else if !seen.insert(name) {
            findings.duplicate(&name_path, name);
        }
        webhook(hook, &path, findings);
    }
}

fn webhook(hook: &Value, path: &Path, findings: &mut Findings) {
    let client = &hook["clientConfig"];
    if client["url"].is_string() == client["service"].is_object() {
        findings.required(&path.child("clientConfig"), "exactly one of url or service is required");
    }
    if client["service"].is_object() {
        for field in ["name", "namespace"] {
            if text(&client["service"][field]).is_empty() {
                let problem = format!("service {field} is required");
                findings.required(&path.child("clientConfig").child("service").child(field), &problem);
            }
        }
    }
    match text(&hook["sideEffects"]) {
        "" => findings.required(&path.child("sideEffects"), "must specify one of None, NoneOnDryRun"),
        _ => findings.one_of(&path.child("sideEffects"), &hook["sideEffects"], &["None", "NoneOnDryRun"]),
    }
    let versions = path.child("admissionReviewVersions");
    if is_empty(&hook["admissionReviewVersions"]) {
        findings.required(&versions, "must specify one of v1, v1beta1");
    } else if !items(&hook["admissionReviewVersions"]).any(|(_, version)| version == "v1" || version == "v1beta1") {
        let problem = "must include at least one of v1, v1beta1";
        findings.invalid(&versions, hook["admissionReviewVersions"].clone(), problem);
    }
    findings.one_of(&path.child("failurePolicy"), &hook["failurePolicy"], &["Fail", "Ignore"]);
    findings.one_of(&path.child("matchPolicy"), &hook["matchPolicy"], &["Equivalent", "Exact"]);
    if let Some(seconds) = hook["timeoutSeconds"].as_i64().filter(|seconds| !(1..=30).contains(seconds)) {
        findings.invalid(&path.child("timeoutSeconds"), seconds, "the timeout value must be between 1 and 30 seconds");
    }
    for field in ["namespaceSelector", "objectSelector"] {
        metadata::selector(&hook[field], &path.child(field), findings);
    }
    for (index, rule) in items(&hook["rules"]) {
        let path = path.child("rules").index(index);
        for field in ["operations", "apiVersions", "resources", "apiGroups"] {
            if is_empty(&rule[field]) {
                findings.required(&path.child(field), "");
            }
        }
    }
}

pub(super) fn definition(object: &Value, old: Option<&Value>, findings: &mut Findings) {
    let (spec, path) = (&object["spec"], Path::root("spec"));
    let (group, plural) = (text(&spec["group"]), text(&spec["names"]["plural"]));
    let name = text(&object["metadata"]["name"]);
    if name != format!("{plural}.{group}") {
        findings.invalid(&Path::root("metadata").child("name"), name, r#"must be spec.names.plural+"."+spec.group"#);
    }
    if group.is_empty() {
        findings.required(&path.child("group"), "");
    } else if let Err(problem) = names::subdomain(group) {
        findings.invalid(&path.child("group"), group, &problem);
    } else if !group.contains('.') {
        findings.invalid(&path.child("group"), group, "should be a domain with at least one dot");
    }
    findings.one_of(&path.child("scope"), &spec["scope"], &["Cluster", "Namespaced"]);
    let names_path = path.child("names");
    for field in ["plural", "singular", "kind", "listKind"] {
        let value = text(&spec["names"][field]);
        if value.is_empty() {
            findings.required(&names_path.child(field), "");
        } else if let Err(problem) = names::dns_1035(&value.to_lowercase()) {
            findings.invalid(&names_path.child(field), value, &problem);
        }
    }
    versions(&spec["versions"], &path.child("versions"), findings);
    if let Some(old) = old {
        for field in ["group", "scope"] {
            findings.immutable(&path.child(field), &spec[field], &old["spec"][field]);
        }
        let (plural, was) = (&spec["names"]["plural"], &old["spec"]["names"]["plural"]);
        if !same(plural, was) {
            findings.immutable(&names_path.child("plural"), plural, was);
        }
    }
}

fn versions(versions: &Value, path: &Path, findings: &mut Findings) {
    if is_empty(versions) {
        findings.required(path, "");
    }
    let mut seen = HashSet::new();
    for (index, version) in items(versions) {
        let path = path.index(index);
        let name = text(&version["name"]);
        if let Err(problem) = names::dns_1035(name) {
            findings.invalid(&path.child("name"), name, &problem);
        } else if !seen.insert(name) {
            findings.invalid(&path.child("name"), name, "must contain unique version names");
        }
        let schema = &version["schema"]["openAPIV3Schema"];
        let schema_path = path.child("schema").child("openAPIV3Schema");
        if !schema.is_object() {
            findings.required(&schema_path, "schemas are required");
        } else if schema["type"] != "object" {
            findings.invalid(&schema_path.child("type"), schema["type"].clone(), "must be object at the root");
        }
        for (index, column) in items(&version["additionalPrinterColumns"]) {
            let path = path.child("additionalPrinterColumns").index(index);
            for field in ["name", "jsonPath"] {
                if text(&column[field]).is_empty() {
                    findings.required(&path.child(field), "");
                }
            }
            let types = ["boolean", "date", "integer", "number", "string"];
            findings.one_of(&path.child("type"), &column["type"], &types);
        }
    }
    if items(versions).filter(|(_, version)| version["storage"] == true).count() != 1 {
        let problem = "must have exactly one version marked as storage version";
        findings.invalid(path, versions.clone(), problem);
    }
}
