//! The pods of a Job.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use kube::ResourceExt as _;

use crate::controllers::template::pod_of;

/// Label and annotation with the index of an indexed Job's pod.
const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Environment variable with the index.
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// Reports whether each pod of the Job has an index.
pub(super) fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// Returns the index of a pod of an indexed Job.
pub(super) fn index_of(pod: &Pod) -> Option<i32> {
    pod.labels().get(COMPLETION_INDEX)?.parse().ok()
}

/// Returns a pod of the Job; the API server completes its name.
pub(super) fn new_pod(job: &Job, index: Option<i32>) -> Option<Pod> {
    let mut pod = pod_of(job, &job.spec.as_ref()?.template);
    let base = match index {
        Some(index) => format!("{}-{index}", job.name_any()),
        None => job.name_any(),
    };
    if let Some(index) = index {
        pod.labels_mut().insert(COMPLETION_INDEX.to_owned(), index.to_string());
        pod.annotations_mut().insert(COMPLETION_INDEX.to_owned(), index.to_string());
        let spec = pod.spec.get_or_insert_default();
        spec.hostname = Some(base.clone());
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            let env = container.env.get_or_insert_default();
            if env.iter().all(|variable| variable.name != INDEX_VARIABLE) {
                env.push(index_variable());
            }
        }
    }
    pod.metadata.generate_name = Some(format!("{base}-"));
    Some(pod)
}

fn index_variable() -> EnvVar {
    let field_path = format!("metadata.labels['{COMPLETION_INDEX}']");
    let field_ref = Some(ObjectFieldSelector { field_path, ..ObjectFieldSelector::default() });
    let value_from = Some(EnvVarSource { field_ref, ..EnvVarSource::default() });
    EnvVar { name: INDEX_VARIABLE.to_owned(), value_from, ..EnvVar::default() }
}
