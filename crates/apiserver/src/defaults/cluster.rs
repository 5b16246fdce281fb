//! Namespaces, nodes, secrets, access control, webhooks and definitions.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::fields::{each, empty, object, present, set, set_text};

const RBAC: &str = "rbac.authorization.k8s.io";

/// Label by which selectors match a namespace's name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(super) fn namespace(namespace: &mut Value) {
    let name = namespace["metadata"]["name"].clone();
    if let Some(labels) = object(namespace, "metadata").and_then(|metadata| object(metadata, "labels"))
        && name.is_string()
    {
        labels[NAME_LABEL] = name;
    }
    object(namespace, "spec");
    if let Some(status) = object(namespace, "status") {
        set_text(status, "phase", "Active");
    }
}

pub(super) fn node(node: &mut Value) {
    object(node, "spec");
    object(node, "status");
}

pub(super) fn volume(volume: &mut Value) {
    if let Some(spec) = object(volume, "spec") {
        set_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        set_text(spec, "volumeMode", "Filesystem");
    }
    if let Some(status) = object(volume, "status") {
        set_text(status, "phase", "Pending");
    }
}

pub(super) fn claim(claim: &mut Value) {
    if let Some(spec) = object(claim, "spec") {
        set_text(spec, "volumeMode", "Filesystem");
    }
    if let Some(status) = object(claim, "status") {
        set_text(status, "phase", "Pending");
    }
}

pub(super) fn with_status(object: &mut Value) {
    set(object, "status", empty());
}

pub(super) fn priority_class(class: &mut Value) {
    set_text(class, "preemptionPolicy", "PreemptLowerPriority");
}

pub(super) fn storage_class(class: &mut Value) {
    set_text(class, "reclaimPolicy", "Delete");
    set_text(class, "volumeBindingMode", "Immediate");
}

/// `stringData` is write-only: it is merged into `data`.
pub(super) fn secret(secret: &mut Value) {
    set_text(secret, "type", "Opaque");
    let written = secret.as_object_mut().and_then(|fields| fields.remove("stringData"));
    let Some(Value::Object(written)) = written else { return };
    if let Some(data) = object(secret, "data") {
        for (key, value) in written {
            if let Some(text) = value.as_str() {
                data[key] = STANDARD.encode(text).into();
            }
        }
    }
}

pub(super) fn webhooks(configuration: &mut Value) {
    let mutating = configuration["kind"] == "MutatingWebhookConfiguration";
    for webhook in each(configuration, "webhooks") {
        set_text(webhook, "failurePolicy", "Fail");
        set_text(webhook, "matchPolicy", "Equivalent");
        set(webhook, "timeoutSeconds", 10);
        set(webhook, "namespaceSelector", empty());
        set(webhook, "objectSelector", empty());
        if mutating {
            set_text(webhook, "reinvocationPolicy", "Never");
        }
        if let Some(service) = present(webhook, "clientConfig").and_then(|client| present(client, "service")) {
            set(service, "port", 443);
        }
        each(webhook, "rules").for_each(|rule| set_text(rule, "scope", "*"));
    }
}

pub(super) fn binding(binding: &mut Value) {
    if let Some(role) = present(binding, "roleRef") {
        set_text(role, "apiGroup", RBAC);
    }
    for subject in each(binding, "subjects") {
        if subject["kind"] == "User" || subject["kind"] == "Group" {
            set_text(subject, "apiGroup", RBAC);
        }
    }
}

pub(super) fn custom_resource_definition(definition: &mut Value) {
    let Some(spec) = present(definition, "spec") else { return };
    if let Some(names) = present(spec, "names")
        && let Some(kind) = names["kind"].as_str().map(str::to_owned)
    {
        set_text(names, "singular", &kind.to_lowercase());
        set_text(names, "listKind", &format!("{kind}List"));
    }
    set(spec, "conversion", json!({"strategy": "None"}));
}

pub(super) fn autoscaler(autoscaler: &mut Value) {
    object(autoscaler, "status");
    let Some(spec) = present(autoscaler, "spec") else { return };
    set(spec, "minReplicas", 1);
    let cpu = json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]);
    set(spec, "metrics", cpu);
}
