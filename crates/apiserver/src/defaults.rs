//! Kubernetes' defaulting of built-in kinds.
//!
//! Besides the defaults (`pkg/apis/*/v1/defaults.go`) this module makes the changes of new objects that Kubernetes
//! makes before it stores them and that clients rely on: a Secret's `stringData` is moved to `data`, a Namespace has
//! its name as a label, a Pod is `Pending`. Cluster IPs and node ports are assigned by the allocator.

mod cluster;
mod fields;
mod pod;
mod service;
#[cfg(test)]
mod tests;
mod workload;

use serde_json::Value;

use crate::kinds::{self, ResourceKind};

/// Applies the defaults of a built-in kind. Custom resources are unchanged: their defaults are in their schema.
/// Applying the defaults again changes nothing.
pub(crate) fn apply(kind: &ResourceKind, object: &mut Value) {
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
        ("scheduling.k8s.io", "PriorityClass") => cluster::priority_class,
        ("storage.k8s.io", "StorageClass") => cluster::storage_class,
        _ => return,
    };
    fill(object);
}
