//! Owner references.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::api::ObjectMeta;
use kube::{Resource, ResourceExt as _};

use super::pod_state::finished;
use super::selector;

/// Returns the reference to the object that controls `meta`.
pub(super) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Reports whether `meta` is controlled by the object of a UID.
pub(super) fn owned_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|owner| owner.uid == uid)
}

/// Returns the owner references of an object that `owner` controls, and that a deletion of `owner` in the foreground
/// waits for.
pub(super) fn references_to<K: Resource<DynamicType = ()>>(owner: &K) -> Option<Vec<OwnerReference>> {
    let reference = owner.controller_owner_ref(&())?;
    Some(vec![OwnerReference { block_owner_deletion: Some(true), ..reference }])
}

/// The pods of a controller's object, by its label selector.
#[derive(Debug, Default)]
pub(super) struct PodClaims<'a> {
    /// Pods of the object, with those to adopt.
    pub owned: Vec<&'a Pod>,
    /// Matching pods without an owner, to adopt.
    pub adopt: Vec<String>,
    /// Owned pods that no longer match, to release.
    pub release: Vec<String>,
}

impl<'a> PodClaims<'a> {
    /// Returns the claims of `owner` on the pods of its namespace.
    pub(super) fn of(owner: &ObjectMeta, selector: &LabelSelector, pods: &'a [Arc<Pod>]) -> Self {
        let uid = owner.uid.as_deref().unwrap_or_default();
        let deleting = owner.deletion_timestamp.is_some();
        let mut claims = Self::default();
        for pod in pods.iter().map(AsRef::as_ref) {
            let matches = selector::matches(selector, pod.labels());
            let gone = pod.metadata.deletion_timestamp.is_some();
            match (owned_by(&pod.metadata, uid), controller_of(&pod.metadata).is_some(), matches) {
                (true, _, true) => claims.owned.push(pod),
                (true, _, false) if !gone => claims.release.push(pod.name_any()),
                (false, false, true) if !gone && !deleting && !finished(pod) => {
                    claims.adopt.push(pod.name_any());
                    claims.owned.push(pod);
                }
                _ => {}
            }
        }
        claims
    }
}
