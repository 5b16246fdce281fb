//! The fields that the server sets: identity, timestamps, generation, and fields that only a subresource can change.

use rand::RngExt as _;
use serde_json::{Value, json};

use crate::kinds::{ResourceKind, Subresource};
use crate::object;
use crate::registry::ServedResource;
use crate::timestamp;

/// Characters of generated names: without vowels and similar characters, as in Kubernetes.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Label of a Job's pods with the Job's UID.
const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";

/// Longest prefix of a generated name.
const MAX_PREFIX_LENGTH: usize = 58;

/// Sets the initial fields of a new object.
pub(crate) fn for_create(served: &ServedResource, object: &mut Value) {
    for key in [
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "generation",
    ] {
        object::set_metadata(object, key, None);
    }
    if served.has_generation() {
        object::set_metadata(object, "generation", Some(json!(1)));
    }
    let kind = &served.kind;
    // A node's creation may include its status.
    if kind.has(Subresource::Status)
        && !kind.is("", "Node")
        && let Some(map) = object.as_object_mut()
    {
        map.remove("status");
    }
    if kind.is("", "Pod") {
        object["status"] = json!({ "phase": "Pending", "qosClass": quality_of_service(object) });
    } else if kind.is("", "Namespace") {
        object["status"] = json!({ "phase": "Active" });
        object["spec"] = json!({ "finalizers": ["kubernetes"] });
        let name = object::name(object).to_owned();
        let labels = object::metadata(object).entry("labels").or_insert_with(|| json!({}));
        labels["kubernetes.io/metadata.name"] = json!(name);
    } else if served.custom.is_none() && kind.has(Subresource::Status) && object["status"].is_null() {
        object["status"] = empty_status(kind);
    }
}

/// The status of a new object. Kubernetes' types have a status always, with the fields that they do not omit: clients read
/// them without asking whether they exist.
fn empty_status(kind: &ResourceKind) -> Value {
    match (&*kind.group, &*kind.kind) {
        ("", "Service") | ("networking.k8s.io", "Ingress") => json!({"loadBalancer": {}}),
        ("", "ReplicationController") | ("apps", "ReplicaSet") => json!({"replicas": 0}),
        ("apps", "StatefulSet") => json!({"replicas": 0, "availableReplicas": 0}),
        ("apps", "DaemonSet") => json!({
            "currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0,
        }),
        _ => json!({}),
    }
}

/// Sets the generated name, UID and creation timestamp of a new object.
pub(crate) fn identify(object: &mut Value) {
    let prefix = object::text(object, "/metadata/generateName").to_owned();
    if object::name(object).is_empty() && !prefix.is_empty() {
        let mut rng = rand::rng();
        let suffix: String = (0..5).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect();
        let prefix: String = prefix.chars().take(MAX_PREFIX_LENGTH).collect();
        object::set_metadata(object, "name", Some(json!(format!("{prefix}{suffix}"))));
    }
    object::set_metadata(object, "uid", Some(json!(object::new_uid())));
    object::set_metadata(object, "creationTimestamp", Some(json!(timestamp::now())));
    if object["apiVersion"] == "batch/v1" && object["kind"] == "Job" {
        select_own_pods(object);
    }
}

/// A Job selects its pods by its UID, unless it has a `manualSelector`.
fn select_own_pods(job: &mut Value) {
    let (name, uid) = (object::name(job).to_owned(), object::uid(job).to_owned());
    let Some(spec) = job.get_mut("spec").filter(|spec| spec["template"].is_object()) else { return };
    if spec["manualSelector"] == true {
        return;
    }
    object::field(spec, "selector");
    object::field(&mut spec["selector"], "matchLabels").insert(CONTROLLER_UID.to_owned(), json!(uid));
    object::metadata(&mut spec["template"]);
    let labels = object::field(&mut spec["template"]["metadata"], "labels");
    for (label, value) in
        [(CONTROLLER_UID, &uid), ("controller-uid", &uid), ("batch.kubernetes.io/job-name", &name), ("job-name", &name)]
    {
        labels.insert(label.to_owned(), json!(value));
    }
}

/// Restores the fields of `old` that the client cannot change, or that do not belong to the addressed subresource.
pub(crate) fn for_update(served: &ServedResource, part: &str, old: &Value, new: &mut Value) {
    for key in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "generation",
        "namespace",
        "name",
    ] {
        object::copy_metadata(new, old, key);
    }
    let kind = &served.kind;
    match part {
        "status" => {
            let status = new.get("status").cloned();
            let metadata = new.get("metadata").cloned().unwrap_or_else(|| json!({}));
            let sent = new.clone();
            *new = old.clone();
            object::copy_field(new, &sent, "status");
            if status.is_none()
                && let Some(map) = new.as_object_mut()
            {
                map.remove("status");
            }
            new["metadata"] = metadata;
            // A status update cannot remove finalizers.
            let kept: &[&str] = if served.custom.is_some() {
                &["labels", "annotations", "finalizers", "ownerReferences"]
            } else {
                &["finalizers", "ownerReferences"]
            };
            for key in kept {
                object::copy_metadata(new, old, key);
            }
        }
        "finalize" => {
            let finalizers = new.pointer("/spec/finalizers").cloned().unwrap_or_else(|| json!([]));
            let metadata = new.get("metadata").cloned().unwrap_or_else(|| json!({}));
            *new = old.clone();
            new["spec"]["finalizers"] = finalizers;
            new["metadata"] = metadata;
        }
        _ => {
            if kind.has(Subresource::Status) {
                object::copy_field(new, old, "status");
            }
            if kind.is("", "Namespace") {
                object::copy_field(new, old, "spec");
            }
            if kind.is("", "Service") {
                keep_address(old, new);
                follow_address(old, new);
            }
        }
    }
    // Changes of metadata and status do not count.
    if served.has_generation() && spec_differs(served, old, new) {
        let generation = old.pointer("/metadata/generation").and_then(Value::as_u64).unwrap_or(0);
        object::set_metadata(new, "generation", Some(json!(generation + 1)));
    }
}

/// A Service that is updated without an address keeps its address.
fn keep_address(old: &Value, service: &mut Value) {
    let external = object::text(service, "/spec/type") == "ExternalName";
    if external
        || !object::text(service, "/spec/clusterIP").is_empty()
        || !object::list(service, "/spec/clusterIPs").is_empty()
    {
        return;
    }
    let spec = object::field(service, "spec");
    for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if let Some(value) = old.pointer("/spec").and_then(|spec| spec.get(key)) {
            spec.entry(key).or_insert_with(|| value.clone());
        }
    }
}

/// A client that knows `clusterIP` alone changes the first of `clusterIPs` with it.
fn follow_address(old: &Value, service: &mut Value) {
    let address = object::text(service, "/spec/clusterIP").to_owned();
    let is_changed = !address.is_empty() && address != object::text(old, "/spec/clusterIP");
    if is_changed
        && service.pointer("/spec/clusterIPs") == old.pointer("/spec/clusterIPs")
        && let Some(first) = service.pointer_mut("/spec/clusterIPs/0")
    {
        *first = json!(address);
    }
}

fn spec_differs(served: &ServedResource, old: &Value, new: &Value) -> bool {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return false };
    let has_status = served.kind.has(Subresource::Status);
    let counts =
        |key: &str| !(key == "metadata" || key == "apiVersion" || key == "kind" || key == "status" && has_status);
    old.iter().any(|(key, value)| counts(key) && new.get(key) != Some(value))
        || new.keys().any(|key| counts(key) && !old.contains_key(key))
}

/// Guaranteed, Burstable or BestEffort, by the containers' requests and limits.
fn quality_of_service(pod: &Value) -> &'static str {
    let containers = object::list(pod, "/spec/containers").iter().chain(object::list(pod, "/spec/initContainers"));
    let (mut any, mut all_equal) = (false, true);
    for container in containers {
        for resource in ["cpu", "memory"] {
            let value = |kind: &str| container.pointer(&format!("/resources/{kind}/{resource}"));
            let (request, limit) = (value("requests"), value("limits"));
            any |= request.is_some() || limit.is_some();
            all_equal &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, all_equal) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_and_uids_are_well_formed() {
        let mut object = json!({"metadata": {"generateName": "web-"}});
        identify(&mut object);
        let name = object::name(&object);
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        let uid = object::uid(&object);
        assert_eq!(uid.len(), 36);
        assert_eq!(uid.as_bytes()[14], b'4');
    }

    #[test]
    fn a_job_selects_its_pods_by_uid() {
        let job =
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once"}, "spec": {"template": {}}});
        let mut generated = job.clone();
        identify(&mut generated);
        let (spec, uid) = (&generated["spec"], &generated["metadata"]["uid"]);
        assert_eq!(spec["selector"]["matchLabels"][CONTROLLER_UID], *uid);
        let labels = &spec["template"]["metadata"]["labels"];
        assert_eq!((&labels[CONTROLLER_UID], &labels["controller-uid"]), (uid, uid));
        assert_eq!((&labels["batch.kubernetes.io/job-name"], &labels["job-name"]), (&json!("once"), &json!("once")));
        let mut manual = job;
        manual["spec"]["manualSelector"] = json!(true);
        identify(&mut manual);
        assert!(manual["spec"]["selector"].is_null() && manual["spec"]["template"]["metadata"].is_null());
    }

    #[test]
    fn quality_of_service_depends_on_requests_and_limits() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"resources": resources}]}});
        assert_eq!(quality_of_service(&pod(json!({}))), "BestEffort");
        assert_eq!(quality_of_service(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let same = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(quality_of_service(&pod(json!({"requests": same, "limits": same}))), "Guaranteed");
    }
}
