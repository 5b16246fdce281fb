//! Containers of a pod.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::quantity;
use crate::validate::field_errors::{FieldErrors, FieldPath, entries, items, text};
use crate::validate::names;

pub(super) fn check<'a>(
    container: &'a Value,
    path: &FieldPath,
    list: &str,
    volumes: &HashSet<&str>,
    port_names: &mut HashSet<&'a str>,
    errors: &mut FieldErrors,
) {
    let image = text(&container["image"]);
    if image.is_empty() {
        errors.required(&path.child("image"), "");
    } else if image.trim() != image {
        errors.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    errors.one_of(&path.child("imagePullPolicy"), &container["imagePullPolicy"], &policies);
    ports(&container["ports"], &path.child("ports"), port_names, errors);
    environment(&container["env"], &path.child("env"), errors);
    mounts(&container["volumeMounts"], &path.child("volumeMounts"), volumes, errors);
    resources(&container["resources"], &path.child("resources"), errors);
    let keeps_running = list == "containers" || container["restartPolicy"] == "Always";
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe_path = path.child(name);
        if container[name].is_null() {
        } else if keeps_running {
            probe(&container[name], name, &probe_path, errors);
        } else {
            let kind = if list == "initContainers" {
                "init containers without restartPolicy=Always"
            } else {
                "ephemeral containers"
            };
            errors.forbidden(&probe_path, &format!("may not be set for {kind}"));
        }
    }
    for hook in ["postStart", "preStop"] {
        if container["lifecycle"][hook].is_object() {
            handler(&container["lifecycle"][hook], &path.child("lifecycle").child(hook), errors);
        }
    }
}

fn ports<'a>(ports: &'a Value, path: &FieldPath, port_names: &mut HashSet<&'a str>, errors: &mut FieldErrors) {
    for (index, port) in items(ports) {
        let path = path.index(index);
        let name = text(&port["name"]);
        if name.is_empty() {
        } else if let Err(problem) = names::port_name(name) {
            errors.invalid(&path.child("name"), name, &problem);
        } else if !port_names.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
        match port["containerPort"].as_i64() {
            None | Some(0) => errors.required(&path.child("containerPort"), ""),
            Some(1..=65535) => {}
            Some(number) => errors.invalid(&path.child("containerPort"), number, names::PORT_RANGE),
        }
        if let Some(number) = port["hostPort"].as_i64().filter(|number| !(0..=65535).contains(number)) {
            errors.invalid(&path.child("hostPort"), number, names::PORT_RANGE);
        }
        errors.one_of(&path.child("protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
    }
}

fn environment(variables: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    for (index, variable) in items(variables) {
        let path = path.index(index);
        let name = text(&variable["name"]);
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if let Err(problem) = names::variable(name) {
            errors.invalid(&path.child("name"), name, &problem);
        }
        let source = &variable["valueFrom"];
        let Some(fields) = source.as_object() else { continue };
        let path = path.child("valueFrom");
        if !text(&variable["value"]).is_empty() {
            errors.invalid(&path, "", "may not be specified when `value` is not empty");
        }
        match fields.values().filter(|value| !value.is_null()).count() {
            0 => errors.invalid(
                &path,
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
            ),
            1 => {}
            _ => errors.invalid(&path, "", "may not have more than one field specified at a time"),
        }
        for reference in ["configMapKeyRef", "secretKeyRef"] {
            if source[reference].is_object() && text(&source[reference]["key"]).is_empty() {
                errors.required(&path.child(reference).child("key"), "");
            }
        }
    }
}

fn mounts(mounts: &Value, path: &FieldPath, volumes: &HashSet<&str>, errors: &mut FieldErrors) {
    let mut used = HashSet::new();
    for (index, mount) in items(mounts) {
        let path = path.index(index);
        let (name, target) = (text(&mount["name"]), text(&mount["mountPath"]));
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !volumes.contains(name) {
            errors.not_found(&path.child("name"), name);
        }
        if target.is_empty() {
            errors.required(&path.child("mountPath"), "");
        } else if !used.insert(target) {
            errors.invalid(&path.child("mountPath"), target, "must be unique");
        }
        let below = text(&mount["subPath"]);
        if below.starts_with('/') {
            errors.invalid(&path.child("subPath"), below, "must be a relative path");
        } else if below.split('/').any(|part| part == "..") {
            errors.invalid(&path.child("subPath"), below, "must not contain '..'");
        }
    }
}

fn resources(resources: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    for field in ["limits", "requests"] {
        for (resource, amount) in entries(&resources[field]) {
            let path = path.child(field).key(resource);
            match quantity::parse(amount) {
                None => errors.invalid(
                    &path,
                    amount.clone(),
                    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
                ),
                Some(parsed) if parsed < 0.0 => {
                    errors.invalid(&path, amount.clone(), "must be greater than or equal to 0");
                }
                Some(_) => {}
            }
        }
    }
    for (resource, request) in entries(&resources["requests"]) {
        let limit = &resources["limits"][resource];
        if let (Some(request_amount), Some(limit_amount)) = (quantity::parse(request), quantity::parse(limit))
            && request_amount > limit_amount
        {
            let limit = limit.as_str().map_or_else(|| limit.to_string(), str::to_owned);
            let problem = format!("must be less than or equal to {resource} limit of {limit}");
            errors.invalid(&path.child("requests"), request.clone(), &problem);
        }
    }
}

fn probe(probe: &Value, name: &str, path: &FieldPath, errors: &mut FieldErrors) {
    handler(probe, path, errors);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        errors.not_negative(&path.child(field), &probe[field]);
    }
    if name != "readinessProbe"
        && let Some(threshold) = probe["successThreshold"].as_i64().filter(|threshold| *threshold != 1)
    {
        errors.invalid(&path.child("successThreshold"), threshold, "must be 1");
    }
}

fn handler(handler: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    let kinds = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
    let given: Vec<&str> = kinds.into_iter().filter(|kind| handler[kind].is_object()).collect();
    if given.is_empty() {
        errors.required(path, "must specify a handler type");
    }
    for extra in given.iter().skip(1) {
        errors.forbidden(&path.child(extra), "may not specify more than 1 handler type");
    }
    if given.contains(&"exec") && items(&handler["exec"]["command"]).next().is_none() {
        errors.required(&path.child("exec").child("command"), "");
    }
    for kind in ["httpGet", "tcpSocket", "grpc"] {
        if handler[kind].is_object() {
            port(&handler[kind]["port"], &path.child(kind).child("port"), errors);
        }
    }
    if handler["httpGet"].is_object() {
        let get = path.child("httpGet");
        errors.one_of(&get.child("scheme"), &handler["httpGet"]["scheme"], &["HTTP", "HTTPS"]);
    }
}

/// A port number or name.
pub(in crate::validate) fn port(port: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    match port {
        Value::Number(number) if !number.as_i64().is_some_and(|number| (1..=65535).contains(&number)) => {
            errors.invalid(path, json!(number), names::PORT_RANGE);
        }
        Value::String(name) => {
            if let Err(problem) = names::port_name(name) {
                errors.invalid(path, name.as_str(), &problem);
            }
        }
        Value::Number(_) => {}
        _ => errors.invalid(path, 0, names::PORT_RANGE),
    }
}
