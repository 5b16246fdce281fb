//! Containers of a pod.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::validate::finding::{Findings, Path, entries, items, text};
use crate::validate::{names, quantity};

pub(super) fn check<'a>(
    container: &'a Value,
    path: &Path,
    list: &str,
    volumes: &HashSet<&str>,
    port_names: &mut HashSet<&'a str>,
    findings: &mut Findings,
) {
    let image = text(&container["image"]);
    if image.is_empty() {
        findings.required(&path.child("image"), "");
    } else if image.trim() != image {
        findings.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    findings.one_of(&path.child("imagePullPolicy"), &container["imagePullPolicy"], &policies);
    ports(&container["ports"], &path.child("ports"), port_names, findings);
    environment(&container["env"], &path.child("env"), findings);
    mounts(&container["volumeMounts"], &path.child("volumeMounts"), volumes, findings);
    resources(&container["resources"], &path.child("resources"), findings);
    let keeps_running = list == "containers" || container["restartPolicy"] == "Always";
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe_path = path.child(name);
        if container[name].is_null() {
        } else if keeps_running {
            probe(&container[name], name, &probe_path, findings);
        } else {
            let place = if list == "initContainers" {
                "init containers without restartPolicy=Always"
            } else {
                "ephemeral containers"
            };
            findings.forbidden(&probe_path, &format!("may not be set for {place}"));
        }
    }
    for hook in ["postStart", "preStop"] {
        if container["lifecycle"][hook].is_object() {
            handler(&container["lifecycle"][hook], &path.child("lifecycle").child(hook), findings);
        }
    }
}

fn ports<'a>(ports: &'a Value, path: &Path, port_names: &mut HashSet<&'a str>, findings: &mut Findings) {
    for (index, port) in items(ports) {
        let path = path.index(index);
        let name = text(&port["name"]);
        if name.is_empty() {
        } else if let Err(problem) = names::port_name(name) {
            findings.invalid(&path.child("name"), name, &problem);
        } else if !port_names.insert(name) {
            findings.duplicate(&path.child("name"), name);
        }
        match port["containerPort"].as_i64() {
            None | Some(0) => findings.required(&path.child("containerPort"), ""),
            Some(1..=65535) => {}
            Some(number) => findings.invalid(&path.child("containerPort"), number, names::PORT_RANGE),
        }
        if let Some(number) = port["hostPort"].as_i64().filter(|number| !(0..=65535).contains(number)) {
            findings.invalid(&path.child("hostPort"), number, names::PORT_RANGE);
        }
        findings.one_of(&path.child("protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
    }
}

fn environment(variables: &Value, path: &Path, findings: &mut Findings) {
    for (index, variable) in items(variables) {
        let path = path.index(index);
        let name = text(&variable["name"]);
        if name.is_empty() {
            findings.required(&path.child("name"), "");
        } else if let Err(problem) = names::variable(name) {
            findings.invalid(&path.child("name"), name, &problem);
        }
        let source = &variable["valueFrom"];
        let Some(fields) = source.as_object() else { continue };
        let path = path.child("valueFrom");
        if !text(&variable["value"]).is_empty() {
            findings.invalid(&path, "", "may not be specified when `value` is not empty");
        }
        match fields.values().filter(|value| !value.is_null()).count() {
            0 => findings.invalid(
                &path,
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
            ),
            1 => {}
            _ => findings.invalid(&path, "", "may not have more than one field specified at a time"),
        }
        for reference in ["configMapKeyRef", "secretKeyRef"] {
            if source[reference].is_object() && text(&source[reference]["key"]).is_empty() {
                findings.required(&path.child(reference).child("key"), "");
            }
        }
    }
}

fn mounts(mounts: &Value, path: &Path, volumes: &HashSet<&str>, findings: &mut Findings) {
    let mut used = HashSet::new();
    for (index, mount) in items(mounts) {
        let path = path.index(index);
        let (name, target) = (text(&mount["name"]), text(&mount["mountPath"]));
        if name.is_empty() {
            findings.required(&path.child("name"), "");
        } else if !volumes.contains(name) {
            findings.not_found(&path.child("name"), name);
        }
        if target.is_empty() {
            findings.required(&path.child("mountPath"), "");
        } else if !used.insert(target) {
            findings.invalid(&path.child("mountPath"), target, "must be unique");
        }
        let below = text(&mount["subPath"]);
        if below.starts_with('/') {
            findings.invalid(&path.child("subPath"), below, "must be a relative path");
        } else if below.split('/').any(|part| part == "..") {
            findings.invalid(&path.child("subPath"), below, "must not contain '..'");
        }
    }
}

fn resources(resources: &Value, path: &Path, findings: &mut Findings) {
    for field in ["limits", "requests"] {
        for (resource, amount) in entries(&resources[field]) {
            let path = path.child(field).key(resource);
            match quantity::parse(amount) {
                None => findings.invalid(
                    &path,
                    amount.clone(),
                    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
                ),
                Some(parsed) if parsed < 0.0 => {
                    findings.invalid(&path, amount.clone(), "must be greater than or equal to 0");
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
            findings.invalid(&path.child("requests"), request.clone(), &problem);
        }
    }
}

fn probe(probe: &Value, name: &str, path: &Path, findings: &mut Findings) {
    handler(probe, path, findings);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        findings.not_negative(&path.child(field), &probe[field]);
    }
    if name != "readinessProbe"
        && let Some(threshold) = probe["successThreshold"].as_i64().filter(|threshold| *threshold != 1)
    {
        findings.invalid(&path.child("successThreshold"), threshold, "must be 1");
    }
}

fn handler(handler: &Value, path: &Path, findings: &mut Findings) {
    let kinds = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
    let given: Vec<&str> = kinds.into_iter().filter(|kind| handler[kind].is_object()).collect();
    if given.is_empty() {
        findings.required(path, "must specify a handler type");
    }
    for extra in given.iter().skip(1) {
        findings.forbidden(&path.child(extra), "may not specify more than 1 handler type");
    }
    if given.contains(&"exec") && items(&handler["exec"]["command"]).next().is_none() {
        findings.required(&path.child("exec").child("command"), "");
    }
    for kind in ["httpGet", "tcpSocket", "grpc"] {
        if handler[kind].is_object() {
            port(&handler[kind]["port"], &path.child(kind).child("port"), findings);
        }
    }
    if handler["httpGet"].is_object() {
        let get = path.child("httpGet");
        findings.one_of(&get.child("scheme"), &handler["httpGet"]["scheme"], &["HTTP", "HTTPS"]);
    }
}

/// A port by number or by name.
pub(in crate::validate) fn port(port: &Value, path: &Path, findings: &mut Findings) {
    match port {
        Value::Number(number) if !number.as_i64().is_some_and(|number| (1..=65535).contains(&number)) => {
            findings.invalid(path, json!(number), names::PORT_RANGE);
        }
        Value::String(name) => {
            if let Err(problem) = names::port_name(name) {
                findings.invalid(path, name.as_str(), &problem);
            }
        }
        Value::Number(_) => {}
        _ => findings.invalid(path, 0, names::PORT_RANGE),
    }
}
