//! The Job controller: runs pods until enough of them have succeeded, or too many have failed.
//!
//! Semantics are those of Kubernetes' controller (`pkg/controller/job`), without `podFailurePolicy`, `successPolicy` and
//! `backoffLimitPerIndex`. A pod counts once, when it ends; the controller remembers it, so that it may be deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Preconditions};
use kube::{Client, ResourceExt as _};

use super::cache::Cache;
use super::owner::owned_by;
use super::reconcile::{self, BURST, ReconcileError, Reconciled, ReconciledKind, Reconciler};
use super::replica_set::victims;
use super::view::ClusterView;

mod condition;
mod pods;
mod tally;

pub use condition::succeeded;
use condition::{Outcome, ended_at, holds};
use pods::{index_of, is_indexed, new_pod};
pub use tally::EndedPods;
use tally::{PodTally, ranges};

/// Value of `managedBy` of the Jobs that this controller runs, unless they have none.
const OWN_MANAGER: &str = "kubernetes.io/job-controller";

/// The input of the decision.
#[derive(Debug)]
pub struct JobState<'a> {
    /// The Job.
    pub job: &'a Job,
    /// Pods of the Job.
    pub pods: &'a [Arc<Pod>],
    /// Pods of the Job that have ended.
    pub ended: &'a EndedPods,
    /// The current time.
    pub now: Timestamp,
}

/// The decision about a Job.
#[derive(Debug, Default, PartialEq)]
pub struct JobDecision {
    /// Pods to create, each with its completion index if the Job is indexed.
    pub create: Vec<Option<i32>>,
    /// Pods to delete.
    pub delete: Vec<String>,
    /// Whether the deleted pods count as failed. Those of a Job that is suspended or becomes smaller do not.
    pub deleted_fail: bool,
    /// The status.
    pub status: JobStatus,
    /// Events to write: type, reason and message.
    pub events: Vec<(&'static str, String, String)>,
    /// Whether the Job is to be deleted, by `ttlSecondsAfterFinished`.
    pub expired: bool,
    /// When to look at the Job again.
    pub next_look: Option<Duration>,
}

/// Returns the decision about a Job.
#[must_use]
pub fn decide(state: &JobState<'_>) -> JobDecision {
    let Some(spec) = &state.job.spec else { return JobDecision::default() };
    let mut decision = JobDecision { status: state.job.status.clone().unwrap_or_default(), ..JobDecision::default() };
    if let Some(at) = ended_at(&decision.status) {
        expire(&mut decision, spec, at, state.now);
        return decision;
    }
    let tally = PodTally::of(state);
    let suspended = spec.suspend == Some(true);
    suspend_or_resume(&mut decision, suspended, state.now);
    match outcome(&mut decision, spec, &tally, state.now) {
        Some(outcome) => end(&mut decision, &outcome, &tally, state.now),
        None if suspended => decision.delete = names(&tally.active),
        None => resize(&mut decision, spec, &tally, state.now),
    }
    count(&mut decision.status, spec, &tally);
    decision
}

/// A Job that has ended is deleted after its time to live.
fn expire(decision: &mut JobDecision, spec: &JobSpec, ended: Timestamp, now: Timestamp) {
    let Some(seconds) = spec.ttl_seconds_after_finished else { return };
    match left(ended, Duration::from_secs(u64::try_from(seconds).unwrap_or(0)), now) {
        Some(wait) => decision.next_look = Some(wait),
        None => decision.expired = true,
    }
}

/// Returns the time until `since + period`; `None` if that has passed.
fn left(since: Timestamp, period: Duration, now: Timestamp) -> Option<Duration> {
    let passed = now.as_millisecond().saturating_sub(since.as_millisecond());
    let passed = Duration::from_millis(u64::try_from(passed).unwrap_or(0));
    period.checked_sub(passed).filter(|left| !left.is_zero())
}

/// A Job starts when it is not suspended, and starts anew when it is resumed.
fn suspend_or_resume(decision: &mut JobDecision, suspended: bool, now: Timestamp) {
    let status = &mut decision.status;
    let was_suspended = holds(status, "Suspended");
    if suspended && !was_suspended {
        condition::set(status, "Suspended", true, "JobSuspended", "Job suspended", now);
        decision.events.push(("Normal", "Suspended".to_owned(), "Job suspended".to_owned()));
    } else if !suspended && was_suspended {
        condition::set(status, "Suspended", false, "JobResumed", "Job resumed", now);
        decision.events.push(("Normal", "Resumed".to_owned(), "Job resumed".to_owned()));
    }
    if suspended {
        status.start_time = None;
    } else if status.start_time.is_none() {
        status.start_time = Some(Time(condition::to_seconds(now)));
    }
}

/// Returns how the Job ends, if it does.
fn outcome(decision: &mut JobDecision, spec: &JobSpec, tally: &PodTally<'_>, now: Timestamp) -> Option<Outcome> {
    if let Some(known) = Outcome::announced(&decision.status) {
        return Some(known);
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    let restarts = tally.restarts(spec);
    let many_restarts = restarts > 0 && restarts >= limit;
    if tally.failed > usize::try_from(limit).unwrap_or(0) || many_restarts {
        return Some(Outcome::failed("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
    }
    if let (Some(seconds), Some(start)) = (spec.active_deadline_seconds, &decision.status.start_time) {
        let period = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        match left(start.0, period, now) {
            Some(wait) => decision.next_look = Some(wait),
            None => return Some(Outcome::failed("DeadlineExceeded", "Job was active longer than specified deadline")),
        }
    }
    let complete = match spec.completions {
        Some(completions) => tally.succeeded >= usize::try_from(completions).unwrap_or(0),
        None => tally.succeeded > 0 && tally.active.is_empty() && tally.terminating.is_empty(),
    };
    complete.then_some(Outcome::Complete)
}

/// Announces the end of the Job, and declares it once no pod is left running.
fn end(decision: &mut JobDecision, outcome: &Outcome, tally: &PodTally<'_>, now: Timestamp) {
    decision.next_look = None;
    decision.delete = names(&tally.active);
    decision.deleted_fail = *outcome != Outcome::Complete;
    outcome.announce(&mut decision.status, now);
    if tally.active.is_empty() && tally.terminating.is_empty() {
        decision.events.push(outcome.declare(&mut decision.status, now));
    }
}

/// Creates the pods that are missing, or deletes those that are too many.
fn resize(decision: &mut JobDecision, spec: &JobSpec, tally: &PodTally<'_>, now: Timestamp) {
    let parallelism = usize::try_from(spec.parallelism.unwrap_or(1)).unwrap_or(0);
    let wanted = match spec.completions {
        Some(completions) => parallelism.min(usize::try_from(completions).unwrap_or(0).saturating_sub(tally.succeeded)),
        // One success ends the work; pods that run may finish theirs.
        None if tally.succeeded > 0 => parallelism.min(tally.active.len()),
        None => parallelism,
    };
    if tally.active.len() > wanted {
        decision.delete = victims(&tally.active, tally.active.len() - wanted);
        return;
    }
    let replaced_late = spec.pod_replacement_policy.as_deref() == Some("Failed");
    let blocking: &[&Pod] = if replaced_late { &tally.terminating } else { &[] };
    let missing = wanted.saturating_sub(tally.active.len() + blocking.len()).min(BURST);
    if missing == 0 {
        return;
    }
    if let Some(wait) = tally.backoff.and_then(|(since, pause)| left(since, pause, now)) {
        decision.next_look = [decision.next_look, Some(wait)].into_iter().flatten().min();
        return;
    }
    decision.create = if is_indexed(spec) {
        let taken: BTreeSet<i32> = tally.active.iter().chain(blocking).filter_map(|pod| index_of(pod)).collect();
        let free = |index: &i32| !taken.contains(index) && !tally.done.contains(index);
        (0..spec.completions.unwrap_or(0)).filter(free).take(missing).map(Some).collect()
    } else {
        vec![None; missing]
    };
}

fn names(pods: &[&Pod]) -> Vec<String> {
    pods.iter().map(|pod| pod.name_any()).collect()
}

fn count(status: &mut JobStatus, spec: &JobSpec, tally: &PodTally<'_>) {
    let number = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let some = |count: usize| (count > 0).then(|| number(count));
    status.active = some(tally.active.len());
    status.ready = Some(number(tally.ready()));
    status.terminating = Some(number(tally.terminating.len()));
    status.succeeded = some(tally.succeeded);
    status.failed = some(tally.failed);
    status.completed_indexes = (is_indexed(spec) && !tally.done.is_empty()).then(|| ranges(&tally.done));
}

/// Runs the controller.
pub async fn run(client: Client, view: Arc<ClusterView>) {
    reconcile::run(client, view, Jobs::default()).await;
}

/// The pods that have ended, by the UID of their Job.
#[derive(Debug, Default)]
struct Jobs {
    ended: Mutex<BTreeMap<String, EndedPods>>,
}

impl ReconciledKind for Job {
    const CONTROLLER: &'static str = "job-controller";

    fn cache(view: &ClusterView) -> &Cache<Self> {
        &view.jobs
    }
}

impl Jobs {
    /// Counts pods that have ended, and decides.
    fn decide(&self, job: &Reconciled<'_, Job>) -> JobDecision {
        let uid = job.object.uid().unwrap_or_default();
        let mut pods = job.pods();
        pods.retain(|pod| owned_by(&pod.metadata, &uid));
        let mut all = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let jobs = job.view.jobs.list();
        all.retain(|known, _| jobs.iter().any(|job| job.metadata.uid.as_ref() == Some(known)));
        let ended = all.entry(uid).or_default();
        let now = Timestamp::now();
        ended.note(job.object, &pods, now);
        let decision = decide(&JobState { job: job.object, pods: &pods, ended, now });
        if !decision.deleted_fail {
            ended.disregard(pods.iter().filter(|pod| decision.delete.contains(&pod.name_any())));
        }
        decision
    }
}

impl Reconciler for Jobs {
    type Kind = Job;

    async fn reconcile(&self, job: &Reconciled<'_, Job>) -> Result<Option<Duration>, ReconcileError> {
        let manager = job.object.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
        if manager.is_some_and(|manager| manager != OWN_MANAGER) {
            return Ok(None);
        }
        let decision = self.decide(job);
        if decision.expired {
            let preconditions = Preconditions { uid: job.object.uid(), resource_version: None };
            let parameters = DeleteParams::foreground().preconditions(preconditions);
            job.api::<Job>().delete(&job.object.name_any(), &parameters).await?;
            return Ok(None);
        }
        job.write_status(job.object.status.as_ref(), &decision.status).await?;
        for (kind, reason, message) in &decision.events {
            job.event(kind, reason, message).await;
        }
        for name in &decision.delete {
            job.delete(name).await?;
        }
        for index in &decision.create {
            if let Some(pod) = new_pod(job.object, *index) {
                job.create(&pod).await?;
            }
        }
        Ok(decision.next_look)
    }
}

#[cfg(test)]
mod tests;
