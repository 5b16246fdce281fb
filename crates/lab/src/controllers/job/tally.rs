//! The pods of a Job by their state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use super::JobState;
use super::pods::{index_of, is_indexed};
use crate::controllers::pod_state::{active, finished, ready_since};

/// Delay before a failed pod is replaced; Kubernetes' is 10 s. It doubles with every failure since the last success.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Longest delay before a failed pod is replaced, as in Kubernetes.
const LONGEST_BACKOFF: Duration = Duration::from_secs(600);

/// The pods of a Job that have ended, with those that have been deleted since.
#[derive(Debug, Default)]
pub struct EndedPods {
    pods: BTreeMap<String, EndedPod>,
    disregarded: BTreeSet<String>,
}

#[derive(Debug)]
struct EndedPod {
    succeeded: bool,
    index: Option<i32>,
    at: Timestamp,
}

impl EndedPods {
    /// Records pods that have ended. A pod that is being deleted counts as failed, unless the Job's
    /// `podReplacementPolicy` is `Failed`: then it counts when it has ended.
    pub fn note(&mut self, job: &Job, pods: &[Arc<Pod>], now: Timestamp) {
        let policy = job.spec.as_ref().and_then(|spec| spec.pod_replacement_policy.as_deref());
        for pod in pods {
            let uid = pod.uid().unwrap_or_default();
            let over = if policy == Some("Failed") { finished(pod) } else { !active(pod) };
            if over && !self.disregarded.contains(&uid) {
                let succeeded = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Succeeded");
                let ended = EndedPod { succeeded, index: index_of(pod), at: now };
                self.pods.entry(uid).or_insert(ended);
            }
        }
    }

    /// Excludes pods that the controller deletes from the count.
    pub(super) fn disregard<'a>(&mut self, pods: impl Iterator<Item = &'a Arc<Pod>>) {
        self.disregarded.extend(pods.filter_map(|pod| pod.uid()));
    }
}

/// The pods of a Job by their state.
#[derive(Debug, Default)]
pub(super) struct PodTally<'a> {
    /// Pods that run or wait to.
    pub active: Vec<&'a Pod>,
    /// Pods that are being deleted.
    pub terminating: Vec<&'a Pod>,
    /// Number of pods that have succeeded; of completed indexes if the Job is indexed.
    pub succeeded: usize,
    /// Number of pods that have failed.
    pub failed: usize,
    /// Completed indexes.
    pub done: BTreeSet<i32>,
    /// The last failure since a success, and the delay before a pod is replaced.
    pub backoff: Option<(Timestamp, Duration)>,
}

impl<'a> PodTally<'a> {
    pub(super) fn of(state: &JobState<'a>) -> Self {
        let mut tally = Self::default();
        for pod in state.pods.iter().map(AsRef::as_ref).filter(|pod| !finished(pod)) {
            if active(pod) { tally.active.push(pod) } else { tally.terminating.push(pod) }
        }
        let ended = || state.ended.pods.values();
        tally.failed = ended().filter(|pod| !pod.succeeded).count();
        tally.succeeded = ended().count() - tally.failed;
        if let Some(spec) = state.job.spec.as_ref().filter(|spec| is_indexed(spec)) {
            let indexes = 0..spec.completions.unwrap_or(0);
            tally.done = ended().filter(|pod| pod.succeeded).filter_map(|pod| pod.index).collect();
            tally.done.retain(|index| indexes.contains(index));
            tally.succeeded = tally.done.len();
        }
        let last_success = ended().filter(|pod| pod.succeeded).map(|pod| pod.at).max();
        let failures = || ended().filter(move |pod| !pod.succeeded && last_success.is_none_or(|at| pod.at >= at));
        let doubled = u32::try_from(failures().count().saturating_sub(1)).unwrap_or(u32::MAX).min(16);
        let pause = (FIRST_BACKOFF * (1 << doubled)).min(LONGEST_BACKOFF);
        tally.backoff = failures().map(|pod| pod.at).max().map(|at| (at, pause));
        tally
    }

    /// Returns the number of ready pods.
    pub(super) fn ready(&self) -> usize {
        self.active.iter().filter(|pod| ready_since(pod).is_some()).count()
    }

    /// Returns how often containers have been restarted, which counts towards the backoff limit if the restart policy is
    /// `OnFailure`.
    pub(super) fn restarts(&self, spec: &JobSpec) -> i32 {
        let policy = spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        if policy != Some("OnFailure") {
            return 0;
        }
        let statuses = self.active.iter().filter_map(|pod| pod.status.as_ref());
        let containers = statuses.flat_map(|status| {
            status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten())
        });
        containers.map(|container| container.restart_count).sum()
    }
}

/// Returns indexes as `completedIndexes` has them, such as `0-2,5`.
pub(super) fn ranges(indexes: &BTreeSet<i32>) -> String {
    let mut ranges: Vec<(i32, i32)> = Vec::new();
    for index in indexes.iter().copied() {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ => ranges.push((index, index)),
        }
    }
    let text = |(first, last): &(i32, i32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}
