//! Webhook configurations and CustomResourceDefinitions.

use std::collections::HashSet;

use serde_json::Value;

use super::field_errors::{FieldErrors, FieldPath, is_empty, items, same, text};
use super::{metadata, names};

pub(super) fn webhooks(object: &Value, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (index, hook) in items(&object["webhooks"]) {
        let path = FieldPath::root("webhooks").index(index);
        let name = text(&hook["name"]);
        let name_path = path.child("name");
        if name.is_empty() {
            errors.required(&name_path, "");
        } else if let Err(problem) = names::subdomain(name) {
            errors.invalid(&name_path, name, &problem);
        } else if name.split('.').count() < 3 {
            errors.invalid(&name_path, name, "should be a domain with at least three segments separated by dots");
        } else if !seen.insert(name) {
            errors.duplicate(&name_path, name);
        }
        webhook(hook, &path, errors);
    }
}

fn webhook(hook: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    let client = &hook["clientConfig"];
    if client["url"].is_string() == client["service"].is_object() {
        errors.required(&path.child("clientConfig"), "exactly one of url or service is required");
    }
    if client["service"].is_object() {
        for field in ["name", "namespace"] {
            if text(&client["service"][field]).is_empty() {
                let problem = format!("service {field} is required");
                errors.required(&path.child("clientConfig").child("service").child(field), &problem);
            }
        }
    }
    match text(&hook["sideEffects"]) {
        "" => errors.required(&path.child("sideEffects"), "must specify one of None, NoneOnDryRun"),
        _ => errors.one_of(&path.child("sideEffects"), &hook["sideEffects"], &["None", "NoneOnDryRun"]),
    }
    let versions = path.child("admissionReviewVersions");
    if is_empty(&hook["admissionReviewVersions"]) {
        errors.required(&versions, "must specify one of v1, v1beta1");
    } else if !items(&hook["admissionReviewVersions"]).any(|(_, version)| version == "v1" || version == "v1beta1") {
        let problem = "must include at least one of v1, v1beta1";
        errors.invalid(&versions, hook["admissionReviewVersions"].clone(), problem);
    }
    errors.one_of(&path.child("failurePolicy"), &hook["failurePolicy"], &["Fail", "Ignore"]);
    errors.one_of(&path.child("matchPolicy"), &hook["matchPolicy"], &["Equivalent", "Exact"]);
    if let Some(seconds) = hook["timeoutSeconds"].as_i64().filter(|seconds| !(1..=30).contains(seconds)) {
        errors.invalid(&path.child("timeoutSeconds"), seconds, "the timeout value must be between 1 and 30 seconds");
    }
    for field in ["namespaceSelector", "objectSelector"] {
        metadata::selector(&hook[field], &path.child(field), errors);
    }
    for (index, rule) in items(&hook["rules"]) {
        let path = path.child("rules").index(index);
        for field in ["operations", "apiVersions", "resources", "apiGroups"] {
            if is_empty(&rule[field]) {
                errors.required(&path.child(field), "");
            }
        }
    }
}

pub(super) fn definition(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let (spec, path) = (&object["spec"], FieldPath::root("spec"));
    let (group, plural) = (text(&spec["group"]), text(&spec["names"]["plural"]));
    let name = text(&object["metadata"]["name"]);
    if name != format!("{plural}.{group}") {
        errors.invalid(&FieldPath::root("metadata").child("name"), name, r#"must be spec.names.plural+"."+spec.group"#);
    }
    if group.is_empty() {
        errors.required(&path.child("group"), "");
    } else if let Err(problem) = names::subdomain(group) {
        errors.invalid(&path.child("group"), group, &problem);
    } else if !group.contains('.') {
        errors.invalid(&path.child("group"), group, "should be a domain with at least one dot");
    }
    errors.one_of(&path.child("scope"), &spec["scope"], &["Cluster", "Namespaced"]);
    let names_path = path.child("names");
    for field in ["plural", "singular", "kind", "listKind"] {
        let value = text(&spec["names"][field]);
        if value.is_empty() {
            errors.required(&names_path.child(field), "");
        } else if let Err(problem) = names::dns_1035(&value.to_lowercase()) {
            errors.invalid(&names_path.child(field), value, &problem);
        }
    }
    versions(&spec["versions"], &path.child("versions"), errors);
    if let Some(old) = old {
        for field in ["group", "scope"] {
            errors.immutable(&path.child(field), &spec[field], &old["spec"][field]);
        }
        let (plural, was) = (&spec["names"]["plural"], &old["spec"]["names"]["plural"]);
        if !same(plural, was) {
            errors.immutable(&names_path.child("plural"), plural, was);
        }
    }
}

fn versions(versions: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    if is_empty(versions) {
        errors.required(path, "");
    }
    let mut seen = HashSet::new();
    for (index, version) in items(versions) {
        let path = path.index(index);
        let name = text(&version["name"]);
        if let Err(problem) = names::dns_1035(name) {
            errors.invalid(&path.child("name"), name, &problem);
        } else if !seen.insert(name) {
            errors.invalid(&path.child("name"), name, "must contain unique version names");
        }
        let schema = &version["schema"]["openAPIV3Schema"];
        let schema_path = path.child("schema").child("openAPIV3Schema");
        if !schema.is_object() {
            errors.required(&schema_path, "schemas are required");
        } else if schema["type"] != "object" {
            errors.invalid(&schema_path.child("type"), schema["type"].clone(), "must be object at the root");
        }
        for (index, column) in items(&version["additionalPrinterColumns"]) {
            let path = path.child("additionalPrinterColumns").index(index);
            for field in ["name", "jsonPath"] {
                if text(&column[field]).is_empty() {
                    errors.required(&path.child(field), "");
                }
            }
            let types = ["boolean", "date", "integer", "number", "string"];
            errors.one_of(&path.child("type"), &column["type"], &types);
        }
    }
    if items(versions).filter(|(_, version)| version["storage"] == true).count() != 1 {
        let problem = "must have exactly one version marked as storage version";
        errors.invalid(path, versions.clone(), problem);
    }
}
