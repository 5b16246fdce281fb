//! Pods and pod templates.

pub(super) mod container;

use std::collections::HashSet;

use serde_json::{Value, json};

use super::field_errors::{FieldErrors, FieldPath, is_empty, items, same, text};
use super::{metadata, names};

/// Error of changes to the immutable part of a pod's spec.
const MUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

const VOLUME_SOURCES_MANY: &str = "may not specify more than 1 volume type";

pub(super) fn pod(pod: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let path = FieldPath::root("spec");
    spec(&pod["spec"], &path, errors);
    if let Some(old) = old
        && !same(&fixed_part(&pod["spec"]), &fixed_part(&old["spec"]))
        // A pod is assigned to a node once, by a binding or an update of its spec.
        && !assigns_node(&old["spec"], &pod["spec"])
    {
        errors.forbidden(&path, MUTABLE);
    }
}

/// The immutable part of a pod's spec.
fn fixed_part(spec: &Value) -> Value {
    let mut fixed = spec.clone();
    let Some(fields) = fixed.as_object_mut() else { return fixed };
    for field in [
        "activeDeadlineSeconds",
        "tolerations",
        "terminationGracePeriodSeconds",
        "ephemeralContainers",
        "schedulingGates",
    ] {
        fields.remove(field);
    }
    for list in ["containers", "initContainers"] {
        for container in fields.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(container) = container.as_object_mut() {
                container.remove("image");
            }
        }
    }
    fields.retain(|_, value| !is_empty(value));
    fixed
}

fn assigns_node(old: &Value, new: &Value) -> bool {
    let mut assigned = fixed_part(old);
    if !text(&old["nodeName"]).is_empty() {
        return false;
    }
    if let Some(fields) = assigned.as_object_mut() {
        fields.insert("nodeName".into(), new["nodeName"].clone());
    }
    same(&assigned, &fixed_part(new))
}

/// The pod template of a workload whose restart policy is one of `policies`.
pub(super) fn template(template: &Value, path: &FieldPath, policies: &[&str], errors: &mut FieldErrors) {
    metadata::labels(&template["metadata"]["labels"], &path.child("metadata").child("labels"), errors);
    let (path, policy) = (path.child("spec"), &template["spec"]["restartPolicy"]);
    spec(&template["spec"], &path, errors);
    if !policies.contains(&text(policy)) && !text(policy).is_empty() {
        errors.one_of(&path.child("restartPolicy"), policy, policies);
    }
}

fn spec(spec: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    let volumes = volumes(&spec["volumes"], &path.child("volumes"), errors);
    containers(spec, path, &volumes, errors);
    errors.one_of(&path.child("restartPolicy"), &spec["restartPolicy"], &["Always", "OnFailure", "Never"]);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    errors.one_of(&path.child("dnsPolicy"), &spec["dnsPolicy"], &policies);
    errors.not_negative(&path.child("terminationGracePeriodSeconds"), &spec["terminationGracePeriodSeconds"]);
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64().filter(|seconds| *seconds < 1) {
        errors.invalid(&path.child("activeDeadlineSeconds"), seconds, "must be between 1 and 2147483647, inclusive");
    }
    metadata::labels(&spec["nodeSelector"], &path.child("nodeSelector"), errors);
    for (field, check) in [
        ("serviceAccountName", names::subdomain as fn(&str) -> Result<(), String>),
        ("nodeName", names::subdomain),
        ("hostname", names::label),
        ("subdomain", names::label),
    ] {
        if !text(&spec[field]).is_empty()
            && let Err(problem) = check(text(&spec[field]))
        {
            errors.invalid(&path.child(field), spec[field].clone(), &problem);
        }
    }
    host_aliases(&spec["hostAliases"], &path.child("hostAliases"), errors);
    tolerations(&spec["tolerations"], &path.child("tolerations"), errors);
}

fn containers(spec: &Value, path: &FieldPath, volumes: &HashSet<&str>, errors: &mut FieldErrors) {
    if items(&spec["containers"]).next().is_none() {
        errors.required(&path.child("containers"), "");
    }
    let mut names = HashSet::new();
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        // Port names are unique per list: init containers run before the others.
        let mut port_names = HashSet::new();
        for (index, item) in items(&spec[list]) {
            let path = path.child(list).index(index);
            let name = text(&item["name"]);
            if name.is_empty() {
                errors.required(&path.child("name"), "");
            } else if let Err(problem) = names::label(name) {
                errors.invalid(&path.child("name"), name, &problem);
            } else if !names.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
            container::check(item, &path, list, volumes, &mut port_names, errors);
        }
    }
}

/// Validates the volumes and returns their names.
fn volumes<'a>(volumes: &'a Value, path: &FieldPath, errors: &mut FieldErrors) -> HashSet<&'a str> {
    let mut found = HashSet::new();
    for (index, volume) in items(volumes) {
        let path = path.index(index);
        let name = text(&volume["name"]);
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if let Err(problem) = names::label(name) {
            errors.invalid(&path.child("name"), name, &problem);
        } else if !found.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
        let sources =
            volume.as_object().into_iter().flatten().filter(|(field, value)| *field != "name" && !value.is_null());
        for (source, _) in sources.skip(1) {
            errors.forbidden(&path.child(source), VOLUME_SOURCES_MANY);
        }
        for (source, field) in [("secret", "secretName"), ("configMap", "name"), ("hostPath", "path")] {
            if volume[source].is_object() && text(&volume[source][field]).is_empty() {
                errors.required(&path.child(source).child(field), "");
            }
        }
        let projected = path.child("projected").child("sources");
        for (index, source) in items(&volume["projected"]["sources"]) {
            let token = &source["serviceAccountToken"];
            let path = projected.index(index).child("serviceAccountToken");
            if token.is_object() && text(&token["path"]).is_empty() {
                errors.required(&path.child("path"), "");
            }
            if let Some(seconds) = token["expirationSeconds"].as_i64().filter(|seconds| *seconds < 600) {
                errors.invalid(
                    &path.child("expirationSeconds"),
                    seconds,
                    "may not specify a duration less than 10 minutes",
                );
            }
        }
    }
    found
}

fn host_aliases(aliases: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    for (index, alias) in items(aliases) {
        let ip = text(&alias["ip"]);
        if ip.parse::<std::net::IpAddr>().is_err() {
            let problem = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.invalid(&path.index(index).child("ip"), ip, problem);
        }
        for (_, host) in items(&alias["hostnames"]) {
            if let Err(problem) = names::subdomain(text(host)) {
                errors.invalid(&path.index(index).child("hostnames"), host.clone(), &problem);
            }
        }
    }
}

fn tolerations(tolerations: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    for (index, toleration) in items(tolerations) {
        let path = path.index(index);
        let operator = toleration["operator"].as_str().filter(|operator| !operator.is_empty()).unwrap_or("Equal");
        if text(&toleration["key"]).is_empty() && operator != "Exists" {
            let problem = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(&path.child("operator"), operator, problem);
        }
        match operator {
            "Equal" => {}
            "Exists" if text(&toleration["value"]).is_empty() => {}
            "Exists" => {
                errors.invalid(
                    &path.child("operator"),
                    toleration.clone(),
                    "value must be empty when `operator` is 'Exists'",
                );
            }
            _ => errors.one_of(&path.child("operator"), &json!(operator), &["Equal", "Exists"]),
        }
    }
}
