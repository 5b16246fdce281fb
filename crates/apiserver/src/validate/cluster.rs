//! Configuration, leases, disruption budgets and autoscalers.

use serde_json::{Value, json};

use super::field_errors::{FieldErrors, FieldPath, entries, is_empty, same, text};
use super::names;

/// Largest size of a ConfigMap's or Secret's data.
const DATA_LIMIT: usize = 1024 * 1024;

pub(super) fn config_map(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    data(object, &["data", "binaryData"], errors);
    for (key, _) in entries(&object["binaryData"]) {
        if !object["data"][key].is_null() {
            let problem = format!("duplicate of key present in data.{key}");
            errors.invalid(&FieldPath::root("binaryData").key(key), key.as_str(), &problem);
        }
    }
    immutable(object, old, &["data", "binaryData"], errors);
}

pub(super) fn secret(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    data(object, &["data"], errors);
    let required: &[&str] = match text(&object["type"]) {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in required {
        if object["data"][key].is_null() {
            errors.required(&FieldPath::root("data").key(key), "");
        }
    }
    let annotation = "kubernetes.io/service-account.name";
    if object["type"] == "kubernetes.io/service-account-token"
        && text(&object["metadata"]["annotations"][annotation]).is_empty()
    {
        errors.required(&FieldPath::root("metadata").child("annotations").key(annotation), "");
    }
    if let Some(old) = old {
        errors.immutable(&FieldPath::root("type"), &object["type"], &old["type"]);
    }
    immutable(object, old, &["data"], errors);
}

fn data(object: &Value, fields: &[&str], errors: &mut FieldErrors) {
    let mut size = 0;
    for field in fields {
        let path = FieldPath::root(field);
        for (key, value) in entries(&object[field]) {
            if let Err(problem) = names::config_key(key) {
                errors.invalid(&path.key(key), key.as_str(), &problem);
            }
            size += text(value).len();
        }
    }
    if size > DATA_LIMIT {
        errors.too_long(&FieldPath::root(""), DATA_LIMIT);
    }
}

fn immutable(object: &Value, old: Option<&Value>, fields: &[&str], errors: &mut FieldErrors) {
    let problem = "field is immutable when `immutable` is set";
    let Some(old) = old.filter(|old| old["immutable"] == true) else { return };
    if object["immutable"] != true {
        errors.forbidden(&FieldPath::root("immutable"), problem);
    }
    for field in fields {
        if !same(&object[field], &old[field]) {
            errors.forbidden(&FieldPath::root(field), problem);
        }
    }
}

pub(super) fn ingress_class(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let (spec, path) = (&object["spec"], FieldPath::root("spec").child("controller"));
    let controller = text(&spec["controller"]);
    if controller.is_empty() {
        errors.required(&path, "");
    } else if !controller
        .split_once('/')
        .is_some_and(|(domain, rest)| !rest.is_empty() && names::subdomain(domain).is_ok())
    {
        errors.invalid(&path, controller, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    }
    if let Some(old) = old {
        errors.immutable(&path, &spec["controller"], &old["spec"]["controller"]);
    }
}

/// Requires a text at the top level.
pub(super) fn has(object: &Value, field: &str, errors: &mut FieldErrors) {
    if text(&object[field]).is_empty() {
        errors.required(&FieldPath::root(field), "");
    }
}

pub(super) fn priority_class(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    /// Greater values are those of the system's own classes.
    const MOST: i64 = 1_000_000_000;
    let (path, value) = (FieldPath::root("value"), object["value"].as_i64().unwrap_or(0));
    if value > MOST && !text(&object["metadata"]["name"]).starts_with("system-") {
        errors.invalid(&path, value, "must be at most 1000000000");
    }
    if let Some(old) = old {
        errors.immutable(&path, &object["value"], &old["value"]);
        errors.immutable(&FieldPath::root("preemptionPolicy"), &object["preemptionPolicy"], &old["preemptionPolicy"]);
    }
}

pub(super) fn lease(object: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&object["spec"], FieldPath::root("spec"));
    if let Some(seconds) = spec["leaseDurationSeconds"].as_i64().filter(|seconds| *seconds <= 0) {
        errors.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    errors.not_negative(&path.child("leaseTransitions"), &spec["leaseTransitions"]);
}

pub(super) fn budget(object: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&object["spec"], FieldPath::root("spec"));
    if !is_empty(&spec["minAvailable"]) && !is_empty(&spec["maxUnavailable"]) {
        let both = json!({"minAvailable": spec["minAvailable"], "maxUnavailable": spec["maxUnavailable"]});
        errors.invalid(&path, both, "minAvailable and maxUnavailable cannot be both set");
    }
    errors.not_negative(&path.child("minAvailable"), &spec["minAvailable"]);
    errors.not_negative(&path.child("maxUnavailable"), &spec["maxUnavailable"]);
}

pub(super) fn autoscaler(object: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&object["spec"], FieldPath::root("spec"));
    let (least, most) = (spec["minReplicas"].as_i64().unwrap_or(1), spec["maxReplicas"].as_i64().unwrap_or(0));
    if least < 1 {
        errors.invalid(&path.child("minReplicas"), least, "must be greater than or equal to 1");
    }
    if most < 1 {
        errors.invalid(&path.child("maxReplicas"), most, "must be greater than 0");
    } else if most < least {
        errors.invalid(&path.child("maxReplicas"), most, "must be greater than or equal to `minReplicas`");
    }
    for field in ["kind", "name"] {
        if text(&spec["scaleTargetRef"][field]).is_empty() {
            errors.required(&path.child("scaleTargetRef").child(field), "");
        }
    }
}
