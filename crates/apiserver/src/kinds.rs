//! The kinds that the server knows without being told by a CustomResourceDefinition.
//!
//! One row per kind: names, scope, verbs and subresources, as a real API server lists them in its discovery documents
//! (`kubectl api-resources`, `kubectl api-versions`). Custom resources are described by the same [`Kind`], so that every
//! other part of the server treats both alike.
//!
//! Some kinds are here only because `kubectl get all`, `kubectl describe` or `kubectl apply --prune` asks for them:
//! ReplicationController, StatefulSet, DaemonSet, Job, CronJob, HorizontalPodAutoscaler, ResourceQuota, LimitRange, Ingress,
//! NetworkPolicy, PodDisruptionBudget, PersistentVolume and PersistentVolumeClaim are stored and printed, but nothing in a lab
//! acts on them.

mod builtin;
pub(crate) mod events;
mod kind;
#[cfg(test)]
mod tests;

pub(crate) use builtin::BUILTIN;
pub(crate) use kind::{GroupVersionKind, Kind, Subresource, Verbs};

/// The kind as which objects of `kind` are kept. It differs from `kind` only for `events.k8s.io` Events, which are the core group's
/// Events in another form; [`events::to_stored`] and [`events::from_stored`] convert.
pub(crate) fn stored_as(kind: &Kind) -> &Kind {
    if kind.is("events.k8s.io", "Event") { by_kind("", "v1", "Event").unwrap_or(kind) } else { kind }
}

/// The built-in kind with that resource name, as in a URL.
pub(crate) fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    BUILTIN.iter().find(|kind| kind.plural == plural && kind.group == group && kind.version == version)
}

/// The built-in kind with that name, as in a manifest.
pub(crate) fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    BUILTIN.iter().find(|known| known.kind == kind && known.group == group && known.version == version)
}
