//! Pods and pod templates.

use serde_json::{Value, json};

use super::fields::{each, empty, object, present, set, set_text};

/// Mode of files in mounted volumes.
const FILE_MODE: i64 = 0o644;

/// A Pod.
pub(super) fn pod(pod: &mut Value) {
    if let Some(spec) = object(pod, "spec") {
        set(spec, "enableServiceLinks", true);
        spec_of(spec);
    }
    let class = quality(&pod["spec"]);
    if let Some(status) = object(pod, "status") {
        set_text(status, "phase", "Pending");
        set_text(status, "qosClass", class);
    }
}

/// The pod template in `field` of a workload's spec.
pub(super) fn template(workload_spec: &mut Value, field: &str) {
    let Some(template) = present(workload_spec, field) else { return };
    object(template, "metadata");
    if let Some(spec) = object(template, "spec") {
        spec_of(spec);
    }
}

fn spec_of(spec: &mut Value) {
    set_text(spec, "dnsPolicy", "ClusterFirst");
    set_text(spec, "restartPolicy", "Always");
    set(spec, "terminationGracePeriodSeconds", 30);
    set(spec, "securityContext", empty());
    set_text(spec, "schedulerName", "default-scheduler");
    service_account(spec);
    let host_network = spec["hostNetwork"] == true;
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for item in each(spec, list) {
            container(item, host_network);
        }
    }
    for item in each(spec, "volumes") {
        volume(item);
    }
}

/// `serviceAccount` is the deprecated alias of `serviceAccountName`.
fn service_account(spec: &mut Value) {
    let name = [&spec["serviceAccountName"], &spec["serviceAccount"]];
    let Some(name) = name.into_iter().filter_map(Value::as_str).find(|name| !name.is_empty()) else { return };
    let name = name.to_owned();
    spec["serviceAccountName"] = name.clone().into();
    spec["serviceAccount"] = name.into();
}

fn container(container: &mut Value, host_network: bool) {
    let policy = pull_policy(container["image"].as_str().unwrap_or(""));
    set_text(container, "imagePullPolicy", policy);
    set_text(container, "terminationMessagePath", "/dev/termination-log");
    set_text(container, "terminationMessagePolicy", "File");
    if let Some(resources) = object(container, "resources") {
        requests_from_limits(resources);
    }
    for port in each(container, "ports") {
        set_text(port, "protocol", "TCP");
        if host_network {
            let number = port["containerPort"].clone();
            set(port, "hostPort", number);
        }
    }
    for variable in each(container, "env") {
        if let Some(source) = present(variable, "valueFrom") {
            field_reference(source);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = present(container, name) {
            handler(probe);
            for (field, value) in
                [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
            {
                // In Go's clients an unset number is zero.
                if probe[field].as_i64().unwrap_or(0) == 0 {
                    probe[field] = value.into();
                }
            }
        }
    }
    if let Some(lifecycle) = present(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = present(lifecycle, hook) {
                handler(hook);
            }
        }
    }
}

fn handler(handler: &mut Value) {
    if let Some(get) = present(handler, "httpGet") {
        set_text(get, "path", "/");
        set_text(get, "scheme", "HTTP");
    }
    if let Some(grpc) = present(handler, "grpc") {
        set(grpc, "service", "");
    }
}

fn field_reference(source: &mut Value) {
    if let Some(reference) = present(source, "fieldRef") {
        set_text(reference, "apiVersion", "v1");
    }
}

fn requests_from_limits(resources: &mut Value) {
    let Some(limits) = resources["limits"].as_object().filter(|limits| !limits.is_empty()).cloned() else { return };
    if let Some(requests) = object(resources, "requests") {
        for (resource, limit) in limits {
            set(requests, &resource, limit);
        }
    }
}

/// Images without a tag are `latest`.
fn pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or(image);
    match name.rsplit_once(':') {
        _ if name.contains('@') => "IfNotPresent",
        Some((_, tag)) if tag != "latest" => "IfNotPresent",
        _ => "Always",
    }
}

fn volume(volume: &mut Value) {
    let Some(fields) = volume.as_object_mut() else { return };
    if fields.keys().all(|field| field == "name") {
        fields.insert("emptyDir".into(), empty());
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = present(volume, source) {
            set(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(path) = present(volume, "hostPath") {
        set(path, "type", "");
    }
    if let Some(downward) = present(volume, "downwardAPI") {
        each(downward, "items").for_each(field_reference);
    }
    if let Some(projected) = present(volume, "projected") {
        for source in each(projected, "sources") {
            if let Some(token) = present(source, "serviceAccountToken") {
                set(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = present(source, "downwardAPI") {
                each(downward, "items").for_each(field_reference);
            }
        }
    }
}

/// The quality of service class, which determines the order of eviction.
fn quality(spec: &Value) -> &'static str {
    let containers = || ["initContainers", "containers"].into_iter().filter_map(|list| spec[list].as_array()).flatten();
    let resources = |container: &Value, field: &str, resource: &str| container["resources"][field][resource].clone();
    let named = ["cpu", "memory"];
    let any = containers().any(|container| {
        ["requests", "limits"].iter().any(|field| named.iter().any(|name| !resources(container, field, name).is_null()))
    });
    let all = containers().all(|container| {
        named.iter().all(|name| {
            let limit = resources(container, "limits", name);
            limit != json!(null) && resources(container, "requests", name) == limit
        })
    });
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
