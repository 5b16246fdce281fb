//! The built-in kinds.
//!
//! Each row has names, scope, verbs and subresources, as a Kubernetes API server lists them in discovery (`kubectl
//! api-resources`, `kubectl api-versions`). Custom resources are described by the same [`ResourceKind`].
//!
//! Some kinds exist only because `kubectl get all`, `kubectl describe` or `kubectl apply --prune` reads them, or because
//! charts and informers of controllers use them: ReplicationController, HorizontalPodAutoscaler, ResourceQuota, LimitRange,
//! Ingress, IngressClass, NetworkPolicy, PodDisruptionBudget, PersistentVolume, PersistentVolumeClaim, StorageClass,
//! PriorityClass and RuntimeClass are stored and printed, but no controller of a lab reconciles them.

mod builtin;
pub(crate) mod events;
mod kind;
#[cfg(test)]
mod tests;

pub(crate) use builtin::BUILTIN;
pub(crate) use kind::{GroupVersionKind, ResourceKind, Subresource, Verbs};

/// The kind in which objects of `kind` are stored. Only Events of `events.k8s.io` are stored in another kind: as core
/// Events. They are converted by [`events::to_stored`] and [`events::from_stored`].
pub(crate) fn stored_as(kind: &ResourceKind) -> &ResourceKind {
    if kind.is("events.k8s.io", "Event") { by_kind("", "v1", "Event").unwrap_or(kind) } else { kind }
}

/// The built-in kind of a resource name, as in a URL.
pub(crate) fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static ResourceKind> {
    BUILTIN.iter().find(|kind| kind.plural == plural && kind.group == group && kind.version == version)
}

/// The built-in kind of a kind name, as in a manifest.
pub(crate) fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static ResourceKind> {
    BUILTIN.iter().find(|known| known.kind == kind && known.group == group && known.version == version)
}
