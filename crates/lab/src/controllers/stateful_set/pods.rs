//! The pods of a StatefulSet.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, PodTemplateSpec, Volume};
use kube::ResourceExt as _;

use crate::controllers::revision::REVISION_HASH;
use crate::controllers::template::pod_of;

/// Label with the pod's own name, by which a Service can select one pod.
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// Label with the pod's ordinal.
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// Returns the name of the pod with an ordinal.
pub(super) fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.name_any())
}

/// Returns the ordinal of a pod whose name is one of the StatefulSet's.
pub(super) fn ordinal_of(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let ordinal = pod.name_any().rsplit_once('-')?.1.parse().ok()?;
    (pod_name(set, ordinal) == pod.name_any()).then_some(ordinal)
}

/// Returns the pod with an ordinal, of one revision's template.
pub(super) fn new_pod(set: &StatefulSet, template: &PodTemplateSpec, ordinal: i32, revision: &str) -> Pod {
    let name = pod_name(set, ordinal);
    let mut pod = pod_of(set, template);
    pod.metadata.name = Some(name.clone());
    pod.metadata.generate_name = Some(format!("{}-", set.name_any()));
    for (label, value) in
        [(POD_NAME, name.clone()), (POD_INDEX, ordinal.to_string()), (REVISION_HASH, revision.to_owned())]
    {
        pod.labels_mut().insert(label.to_owned(), value);
    }
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone()).filter(|name| !name.is_empty());
    let claims = set.spec.iter().flat_map(|spec| spec.volume_claim_templates.iter().flatten());
    for name in claims.map(|claim| claim.name_any()) {
        let volumes = spec.volumes.get_or_insert_default();
        volumes.retain(|volume| volume.name != name);
        volumes.push(Volume { name, empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() });
    }
    pod
}
