//! Configuration, leases, budgets and autoscalers.

use serde_json::{Value, json};

use super::finding::{Findings, Path, entries, is_empty, same, text};
use super::names;

/// Most that a ConfigMap or Secret may hold.
const DATA_LIMIT: usize = 1024 * 1024;

pub(super) fn config_map(object: &Value, old: Option<&Value>, findings: &mut Findings) {
    data(object, &["data", "binaryData"], findings);
    for (key, _) in entries(&object["binaryData"]) {
        if !object["data"][key].is_null() {
            let problem = format!("duplicate of key present in data.{key}");
            findings.invalid(&Path::root("binaryData").key(key), key.as_str(), &problem);
        }
    }
    immutable(object, old, &["data", "binaryData"], findings);
}

pub(super) fn secret(object: &Value, old: Option<&Value>, findings: &mut Findings) {
    data(object, &["data"], findings);
    let required: &[&str] = match text(&object["type"]) {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in required {
        if object["data"][key].is_null() {
            findings.required(&Path::root("data").key(key), "");
        }
    }
    let annotation = "kubernetes.io/service-account.name";
    if object["type"] == "kubernetes.io/service-account-token"
        && text(&object["metadata"]["annotations"][annotation]).is_empty()
    {
        findings.required(&Path::root("metadata").child("annotations").key(annotation), "");
    }
    if let Some(old) = old {
        findings.immutable(&Path::root("type"), &object["type"], &old["type"]);
    }
    immutable(object, old, &["data"], findings);
}

fn data(object: &Value, fields: &[&str], findings: &mut Findings) {
    let mut size = 0;
    for field in fields {
        let path = Path::root(field);
        for (key, value) in entries(&object[field]) {
            if let Err(problem) = names::config_key(key) {
                findings.invalid(&path.key(key), key.as_str(), &problem);
            }
            size += text(value).len();
        }
    }
    if size > DATA_LIMIT {
        findings.too_long(&Path::root(""), DATA_LIMIT);
    }
}

fn immutable(object: &Value, old: Option<&Value>, fields: &[&str], findings: &mut Findings) {
    let problem = "field is immutable when `immutable` is set";
    let Some(old) = old.filter(|old| old["immutable"] == true) else { return };
    if object["immutable"] != true {
        findings.forbidden(&Path::root("immutable"), problem);
    }
    for field in fields {
        if !same(&object[field], &old[field]) {
            findings.forbidden(&Path::root(field), problem);
        }
    }
}

pub(super) fn lease(object: &Value, findings: &mut Findings) {
    let (spec, path) = (&object["spec"], Path::root("spec"));
    if let Some(seconds) = spec["leaseDurationSeconds"].as_i64().filter(|seconds| *seconds <= 0) {
        findings.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    findings.not_negative(&path.child("leaseTransitions"), &spec["leaseTransitions"]);
}

pub(super) fn budget(object: &Value, findings: &mut Findings) {
    let (spec, path) = (&object["spec"], Path::root("spec"));
    if !is_empty(&spec["minAvailable"]) && !is_empty(&spec["maxUnavailable"]) {
        let both = json!({"minAvailable": spec["minAvailable"], "maxUnavailable": spec["maxUnavailable"]});
        findings.invalid(&path, both, "minAvailable and maxUnavailable cannot be both set");
    }
    findings.not_negative(&path.child("minAvailable"), &spec["minAvailable"]);
    findings.not_negative(&path.child("maxUnavailable"), &spec["maxUnavailable"]);
}

pub(super) fn autoscaler(object: &Value, findings: &mut Findings) {
    let (spec, path) = (&object["spec"], Path::root("spec"));
    let (least, most) = (spec["minReplicas"].as_i64().unwrap_or(1), spec["maxReplicas"].as_i64().unwrap_or(0));
    if least < 1 {
        findings.invalid(&path.child("minReplicas"), least, "must be greater than or equal to 1");
    }
    if most < 1 {
        findings.invalid(&path.child("maxReplicas"), most, "must be greater than 0");
    } else if most < least {
        findings.invalid(&path.child("maxReplicas"), most, "must be greater than or equal to `minReplicas`");
    }
    for field in ["kind", "name"] {
        if text(&spec["scaleTargetRef"][field]).is_empty() {
            findings.required(&path.child("scaleTargetRef").child(field), "");
        }
    }
}
