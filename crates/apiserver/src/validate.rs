//! Kubernetes' checks of built-in kinds, in its words: clients compare them, and people search for them.
//!
//! Covered is what a wrong manifest is usually refused for, and what the rest of the server and the mesh rely on: names,
//! labels, required and immutable fields, ranges, uniqueness, selectors that select. Wording follows
//! k8s.io/kubernetes `pkg/apis/*/validation` and k8s.io/apimachinery `pkg/util/validation`.

mod access;
mod cluster;
mod extension;
mod fields;
mod finding;
mod metadata;
mod names;
mod pod;
mod quantity;
mod service;
#[cfg(test)]
mod tests;
mod workload;

use serde_json::Value;

pub(crate) use crate::status::Cause;

use crate::kinds::{self, Kind};
use finding::{Findings, Path};

pub(crate) use fields::{prune, types, unknown_fields};

/// What is wrong with `object`, which has its defaults; `old` is what it replaces. Of custom resources only the metadata is
/// looked at: the rest is up to their schema.
pub(crate) fn object(kind: &Kind, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut findings = Findings::default();
    metadata::check(kind, object, &mut findings);
    if kinds::by_kind(&kind.group, &kind.version, &kind.kind).is_none() {
        return findings.into_causes();
    }
    let spec = Path::root("spec");
    match (&*kind.group, &*kind.kind) {
        ("", "Pod") => pod::pod(object, old, &mut findings),
        ("", "Service") => service::service(object, old, &mut findings),
        ("", "Endpoints") => service::endpoints(object, &mut findings),
        ("", "ConfigMap") => cluster::config_map(object, old, &mut findings),
        ("", "Secret") => cluster::secret(object, old, &mut findings),
        ("", "ReplicationController") => workload::replication_controller(object, &mut findings),
        ("apps", "Deployment") => workload::deployment(object, old, &mut findings),
        ("apps", "ReplicaSet") => workload::replica_set(object, old, &mut findings),
        ("apps", "StatefulSet") => workload::stateful_set(object, old, &mut findings),
        ("apps", "DaemonSet") => workload::daemon_set(object, old, &mut findings),
        ("batch", "Job") => workload::job(&object["spec"], &spec, &mut findings),
        ("batch", "CronJob") => workload::cron_job(object, &mut findings),
        ("discovery.k8s.io", "EndpointSlice") => service::endpoint_slice(object, old, &mut findings),
        ("coordination.k8s.io", "Lease") => cluster::lease(object, &mut findings),
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => access::role(kind, object, &mut findings),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            access::binding(kind, object, old, &mut findings);
        }
        ("admissionregistration.k8s.io", _) => extension::webhooks(object, &mut findings),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => extension::definition(object, old, &mut findings),
        ("policy", "PodDisruptionBudget") => cluster::budget(object, &mut findings),
        ("autoscaling", "HorizontalPodAutoscaler") => cluster::autoscaler(object, &mut findings),
        _ => {}
    }
    findings.into_causes()
}
