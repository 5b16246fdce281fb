//! Kubernetes' defaulting of built-in kinds: what an object means when its author left fields out.
//!
//! Besides the defaults proper (`pkg/apis/*/v1/defaults.go`) this does what Kubernetes does to new objects before it stores them
//! and that their readers rely on: a Secret's `stringData` becomes `data`, a Namespace carries its name as a label, a Pod starts
//! as `Pending`. Cluster IPs and node ports are not assigned here.

mod cluster;
mod pod;
mod service;
#[cfg(test)]
mod tests;
mod workload;

use serde_json::{Map, Value, json};

use crate::kinds::{self, Kind};

/// Fills in the fields that Kubernetes would. Custom resources are left alone: their defaults come from their schema.
/// Doing it again changes nothing.
pub fn apply(kind: &Kind, object: &mut Value) {
    if !object.is_object() || kinds::by_kind(&kind.group, &kind.version, &kind.kind).is_none() {
        return;
    }
    let fill: fn(&mut Value) = match (&*kind.group, &*kind.kind) {
        ("", "Pod") => pod::pod,
        ("", "Namespace") => cluster::namespace,
        ("", "Node") => cluster::node,
        ("", "PersistentVolume") => cluster::volume,
        ("", "PersistentVolumeClaim") => cluster::claim,
        ("", "Secret") => cluster::secret,
        ("", "Service") => service::service,
        ("", "Endpoints") => service::endpoints,
        ("", "ReplicationController") => workload::replication_controller,
        ("", "ResourceQuota") => cluster::with_status,
        ("apps", "Deployment") => workload::deployment,
        ("apps", "ReplicaSet") => workload::replica_set,
        ("apps", "StatefulSet") => workload::stateful_set,
        ("apps", "DaemonSet") => workload::daemon_set,
        ("batch", "Job") => workload::job,
        ("batch", "CronJob") => workload::cron_job,
        ("discovery.k8s.io", "EndpointSlice") => service::endpoint_slice,
        ("networking.k8s.io", "Ingress") => service::ingress,
        ("networking.k8s.io", "NetworkPolicy") => service::network_policy,
        ("admissionregistration.k8s.io", _) => cluster::webhooks,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => cluster::binding,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => cluster::custom_resource_definition,
        ("autoscaling", "HorizontalPodAutoscaler") => cluster::autoscaler,
        ("policy", "PodDisruptionBudget") => cluster::with_status,
        _ => return,
    };
    fill(object);
}

/// The object in `field`, made if it is absent. None if something else is there: validation will say so.
fn object<'a>(parent: &'a mut Value, field: &str) -> Option<&'a mut Value> {
    let fields = parent.as_object_mut()?;
    let value = fields.entry(field).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value.is_object().then_some(value)
}

/// Sets `field` unless it has a value.
fn set(parent: &mut Value, field: &str, value: impl Into<Value>) {
    let Some(fields) = parent.as_object_mut() else { return };
    if fields.get(field).is_none_or(Value::is_null) {
        fields.insert(field.to_owned(), value.into());
    }
}

/// Sets `field` unless it has a value other than the empty string, which Kubernetes takes for absent in most text fields.
fn set_text(parent: &mut Value, field: &str, value: &str) {
    let Some(fields) = parent.as_object_mut() else { return };
    if fields.get(field).is_none_or(|present| present.is_null() || present == "") {
        fields.insert(field.to_owned(), value.into());
    }
}

/// The items of the list in `field`; none if it is absent.
fn each<'a>(parent: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    parent.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The value in `field`, if it is an object.
fn present<'a>(parent: &'a mut Value, field: &str) -> Option<&'a mut Value> {
    parent.get_mut(field).filter(|value| value.is_object())
}

fn empty() -> Value {
    json!({})
}
