//! Kubernetes' validation of built-in kinds, with its messages.
//!
//! Validated are the fields that manifests usually get wrong and that the server and the mesh rely on: names, labels,
//! required and immutable fields, ranges, uniqueness, selectors. Messages are those of k8s.io/kubernetes
//! `pkg/apis/*/validation` and k8s.io/apimachinery `pkg/util/validation`.

mod access;
mod batch;
mod cluster;
mod extension;
mod field_errors;
mod fields;
mod metadata;
mod names;
mod pod;
mod service;
#[cfg(test)]
mod tests;
mod workload;

use serde_json::Value;

pub(crate) use crate::status::StatusCause;

use crate::kinds::{self, ResourceKind};
use field_errors::FieldErrors;

pub(crate) use fields::{prune, types, unknown_fields};

/// Validates an object after defaulting. `old` is the object that it replaces. For custom resources only the metadata
/// is validated: the rest is validated against the schema.
pub(crate) fn object(kind: &ResourceKind, object: &Value, old: Option<&Value>) -> Vec<StatusCause> {
    let mut errors = FieldErrors::default();
    metadata::check(kind, object, &mut errors);
    if kinds::by_kind(&kind.group, &kind.version, &kind.kind).is_none() {
        return errors.into_causes();
    }
    match (&*kind.group, &*kind.kind) {
        ("", "Pod") => pod::pod(object, old, &mut errors),
        ("", "Service") => service::service(object, old, &mut errors),
        ("", "Endpoints") => service::endpoints(object, &mut errors),
        ("", "ConfigMap") => cluster::config_map(object, old, &mut errors),
        ("", "Secret") => cluster::secret(object, old, &mut errors),
        ("", "ReplicationController") => workload::replication_controller(object, &mut errors),
        ("apps", "Deployment") => workload::deployment(object, old, &mut errors),
        ("apps", "ReplicaSet") => workload::replica_set(object, old, &mut errors),
        ("apps", "StatefulSet") => workload::stateful_set(object, old, &mut errors),
        ("apps", "DaemonSet") => workload::daemon_set(object, old, &mut errors),
        ("batch", "Job") => batch::job(object, old, &mut errors),
        ("batch", "CronJob") => batch::cron_job(object, &mut errors),
        ("discovery.k8s.io", "EndpointSlice") => service::endpoint_slice(object, old, &mut errors),
        ("networking.k8s.io", "IngressClass") => cluster::ingress_class(object, old, &mut errors),
        ("storage.k8s.io", "StorageClass") => cluster::has(object, "provisioner", &mut errors),
        ("node.k8s.io", "RuntimeClass") => cluster::has(object, "handler", &mut errors),
        ("scheduling.k8s.io", "PriorityClass") => cluster::priority_class(object, old, &mut errors),
        ("coordination.k8s.io", "Lease") => cluster::lease(object, &mut errors),
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => access::role(kind, object, &mut errors),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            access::binding(kind, object, old, &mut errors);
        }
        ("admissionregistration.k8s.io", _) => extension::webhooks(object, &mut errors),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => extension::definition(object, old, &mut errors),
        ("policy", "PodDisruptionBudget") => cluster::budget(object, &mut errors),
        ("autoscaling", "HorizontalPodAutoscaler") => cluster::autoscaler(object, &mut errors),
        _ => {}
    }
    errors.into_causes()
}
