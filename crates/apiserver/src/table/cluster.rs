//! Namespaces, nodes, configuration, events and leases.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::age;
use super::cell::{Cells, Heading, column, items, name, number, or_none, text, wide};
use crate::kinds::ResourceKind;

pub(super) fn printer(kind: &ResourceKind) -> Option<(&'static [Heading], Cells)> {
    Some(match (&*kind.group, &*kind.kind) {
        ("", "Namespace") => (NAMESPACE, namespace),
        ("", "Node") => (NODE, node),
        ("", "ConfigMap") => (CONFIG_MAP, config_map),
        ("", "Secret") => (SECRET, secret),
        ("", "ServiceAccount") => (SERVICE_ACCOUNT, service_account),
        ("", "Event") => (EVENT, event),
        ("events.k8s.io", "Event") => (EVENT, newer_event),
        ("", "ResourceQuota") => (RESOURCE_QUOTA, resource_quota),
        ("", "PersistentVolume") => (VOLUME, volume),
        ("", "PersistentVolumeClaim") => (CLAIM, claim),
        ("coordination.k8s.io", "Lease") => (LEASE, lease),
        _ => return None,
    })
}

const NAMESPACE: &[Heading] = &[column("Name", "string"), column("Status", "string"), column("Age", "string")];

fn namespace(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    vec![name(object), text(&object["status"]["phase"]).into(), age::of(object, now)]
}

const NODE: &[Heading] = &[
    column("Name", "string"),
    column("Status", "string"),
    column("Roles", "string"),
    column("Age", "string"),
    column("Version", "string"),
    wide("Internal-IP", "string"),
    wide("External-IP", "string"),
    wide("OS-Image", "string"),
    wide("Kernel-Version", "string"),
    wide("Container-Runtime", "string"),
];

fn node(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
    let status = &object["status"];
    let ready = items(&status["conditions"]).iter().find(|condition| condition["type"] == "Ready");
    let mut state = match ready {
        Some(condition) if condition["status"] == "True" => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if object["spec"]["unschedulable"] == true {
        state.push_str(",SchedulingDisabled");
    }
    let labels = object["metadata"]["labels"].as_object().into_iter().flat_map(Map::iter);
    let roles = labels.filter_map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
        Some(role) => Some(role),
        None if key == "kubernetes.io/role" => value.as_str(),
        None => None,
    });
    let roles = roles.filter(|role| !role.is_empty()).collect::<Vec<_>>().join(",");
    let address = |type_: &str| {
        let found = items(&status["addresses"]).iter().find(|address| address["type"] == type_);
        or_none(found.map_or("", |address| text(&address["address"])))
    };
    let info = |field: &str| match text(&status["nodeInfo"][field]) {
        "" => json!("<unknown>"),
        known => known.into(),
    };
    vec![
        name(object),
        state.into(),
        or_none(roles),
        age::of(object, now),
        text(&status["nodeInfo"]["kubeletVersion"]).into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

const CONFIG_MAP: &[Heading] = &[column("Name", "string"), column("Data", "string"), column("Age", "string")];

fn config_map(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    vec![name(object), (size(&object["data"]) + size(&object["binaryData"])).into(), age::of(object, now)]
}

const SECRET: &[Heading] =
    &[column("Name", "string"), column("Type", "string"), column("Data", "string"), column("Age", "string")];

fn secret(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    vec![name(object), text(&object["type"]).into(), size(&object["data"]).into(), age::of(object, now)]
}

const SERVICE_ACCOUNT: &[Heading] = &[column("Name", "string"), column("Secrets", "string"), column("Age", "string")];

fn service_account(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    vec![name(object), items(&object["secrets"]).len().into(), age::of(object, now)]
}

fn size(map: &Value) -> usize {
    map.as_object().map_or(0, Map::len)
}

const EVENT: &[Heading] = &[
    column("Last Seen", "string"),
    column("Type", "string"),
    column("Reason", "string"),
    column("Object", "string"),
    wide("Subobject", "string"),
    wide("Source", "string"),
    column("Message", "string"),
    wide("First Seen", "string"),
    wide("Count", "string"),
    wide("Name", "string"),
];

fn newer_event(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    let mut core = object.clone();
    crate::kinds::events::to_stored(&mut core);
    event(&core, now)
}

fn event(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    let or_event_time = |timestamp: &Value| match timestamp {
        Value::Null => age::since(&object["eventTime"], now),
        timestamp => age::since(timestamp, now),
    };
    let first = or_event_time(&object["firstTimestamp"]);
    let series = &object["series"];
    let (last, count) = if series.is_object() {
        let count = number(&series["count"]);
        (format!("{} (x{count} over {first})", age::since(&series["lastObservedTime"], now)), count)
    } else {
        let last = or_event_time(&object["lastTimestamp"]);
        match number(&object["count"]) {
            count if count > 1 => (format!("{last} (x{count} over {first})"), count),
            // An event without a count happened once.
            _ => (last, 1),
        }
    };
    let about = &object["involvedObject"];
    let target = match text(&about["name"]) {
        "" => text(&about["kind"]).to_lowercase(),
        target => format!("{}/{target}", text(&about["kind"]).to_lowercase()),
    };
    let first_filled = |one: &Value, other: &Value| text(if text(one).is_empty() { other } else { one }).to_owned();
    let component = first_filled(&object["source"]["component"], &object["reportingComponent"]);
    let host = first_filled(&object["source"]["host"], &object["reportingInstance"]);
    let source = if host.is_empty() { component } else { format!("{component}, {host}") };
    vec![
        last.into(),
        text(&object["type"]).into(),
        text(&object["reason"]).into(),
        target.into(),
        text(&about["fieldPath"]).into(),
        source.into(),
        text(&object["message"]).trim().into(),
        first.into(),
        count.into(),
        name(object),
    ]
}

const RESOURCE_QUOTA: &[Heading] =
    &[column("Name", "string"), column("Request", "string"), column("Limit", "string"), column("Age", "string")];

fn resource_quota(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in object["status"]["hard"].as_object().into_iter().flat_map(Map::iter) {
        let used = object["status"]["used"][resource].as_str().unwrap_or("0");
        let part = format!("{resource}: {used}/{}", text(hard));
        if resource.starts_with("limits.") { limits.push(part) } else { requests.push(part) }
    }
    vec![name(object), requests.join(", ").into(), limits.join(", ").into(), age::of(object, now)]
}

const LEASE: &[Heading] = &[column("Name", "string"), column("Holder", "string"), column("Age", "string")];

fn lease(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    vec![name(object), text(&object["spec"]["holderIdentity"]).into(), age::of(object, now)]
}

const VOLUME: &[Heading] = &[
    column("Name", "string"),
    column("Capacity", "string"),
    column("Access Modes", "string"),
    column("Reclaim Policy", "string"),
    column("Status", "string"),
    column("Claim", "string"),
    column("StorageClass", "string"),
    column("VolumeAttributesClass", "string"),
    column("Reason", "string"),
    column("Age", "string"),
    wide("VolumeMode", "string"),
];

fn volume(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let claim = match text(&spec["claimRef"]["name"]) {
        "" => String::new(),
        claim => format!("{}/{claim}", text(&spec["claimRef"]["namespace"])),
    };
    vec![
        name(object),
        text(&spec["capacity"]["storage"]).into(),
        access_modes(&spec["accessModes"]),
        text(&spec["persistentVolumeReclaimPolicy"]).into(),
        text(&status["phase"]).into(),
        claim.into(),
        text(&spec["storageClassName"]).into(),
        or_unset(&spec["volumeAttributesClassName"]),
        text(&status["reason"]).into(),
        age::of(object, now),
        or_unset(&spec["volumeMode"]),
    ]
}

const CLAIM: &[Heading] = &[
    column("Name", "string"),
    column("Status", "string"),
    column("Volume", "string"),
    column("Capacity", "string"),
    column("Access Modes", "string"),
    column("StorageClass", "string"),
    column("VolumeAttributesClass", "string"),
    column("Age", "string"),
    wide("VolumeMode", "string"),
];

fn claim(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    vec![
        name(object),
        text(&status["phase"]).into(),
        text(&spec["volumeName"]).into(),
        text(&status["capacity"]["storage"]).into(),
        access_modes(&status["accessModes"]),
        text(&spec["storageClassName"]).into(),
        or_unset(&spec["volumeAttributesClassName"]),
        age::of(object, now),
        or_unset(&spec["volumeMode"]),
    ]
}

fn access_modes(modes: &Value) -> Value {
    let short = |mode: &str| match mode {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        _ => "",
    };
    items(modes).iter().map(|mode| short(text(mode))).collect::<Vec<_>>().join(",").into()
}

fn or_unset(value: &Value) -> Value {
    if text(value).is_empty() { json!("<unset>") } else { value.clone() }
}
