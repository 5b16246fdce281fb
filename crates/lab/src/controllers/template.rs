//! Pod templates.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::Resource;

use super::owner::references_to;

/// Label that distinguishes the pods of one template of a Deployment from those of another.
pub const TEMPLATE_HASH: &str = "pod-template-hash";

/// Returns a stable hash of a template, without the label that contains the hash.
#[must_use]
pub fn template_hash(template: &PodTemplateSpec) -> String {
    let mut template = template.clone();
    if let Some(meta) = &mut template.metadata {
        if let Some(labels) = &mut meta.labels {
            labels.remove(TEMPLATE_HASH);
        }
        // Clients omit an empty map or write it; `kubectl rollout undo` omits it.
        meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
        meta.annotations = meta.annotations.take().filter(|annotations| !annotations.is_empty());
    }
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(&template).unwrap_or_default().hash(&mut hasher);
    // Kubernetes' alphabet for such names: without vowels, so that no words appear.
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rest = hasher.finish();
    (0..10)
        .map(|_| {
            let letter = LETTERS[usize::try_from(rest % 27).unwrap_or(0)];
            rest /= 27;
            char::from(letter)
        })
        .collect()
}

/// Returns a pod of a template that `owner` controls, without a name.
pub(super) fn pod_of<K: Resource<DynamicType = ()>>(owner: &K, template: &PodTemplateSpec) -> Pod {
    let mut pod =
        Pod { metadata: template.metadata.clone().unwrap_or_default(), spec: template.spec.clone(), status: None };
    pod.metadata.name = None;
    pod.metadata.namespace = owner.meta().namespace.clone();
    pod.metadata.owner_references = references_to(owner);
    pod
}
