//! Owner references.

/// Reports whether `meta` is controlled by the object of a UID.
pub(super) fn owned_by(meta: &kube::api::ObjectMeta, uid: &str) -> bool {
    meta.owner_references.iter().flatten().any(|owner| owner.controller == Some(true) && owner.uid == uid)
}
