//! The CronJob controller: creates Jobs by a schedule.
//!
//! Semantics are those of Kubernetes' controller (`pkg/controller/cronjob`). Schedules are in UTC.

use std::sync::Arc;
use std::time::Duration;

use apiserver::CronSchedule;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, Resource as _, ResourceExt as _};

use super::cache::Cache;
use super::job;
use super::owner::{owned_by, references_to};
use super::reconcile::{self, ReconcileError, Reconciled, ReconciledKind, Reconciler};
use super::view::ClusterView;
use crate::timestamp;

/// Annotation of a Job with the time for which it was created.
const SCHEDULED_FOR: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Number of missed times above which an Event reports them, as in Kubernetes.
const MANY_MISSED: usize = 100;

/// The input of the decision.
#[derive(Debug)]
pub struct CronJobState<'a> {
    /// The CronJob.
    pub cron_job: &'a CronJob,
    /// Jobs that it owns.
    pub jobs: &'a [Arc<Job>],
    /// The current time.
    pub now: Timestamp,
}

/// The decision about a CronJob.
#[derive(Debug, Default, PartialEq)]
pub struct CronJobDecision {
    /// The time for which to create a Job.
    pub create: Option<Timestamp>,
    /// Jobs to delete.
    pub delete: Vec<String>,
    /// The status, without the Job to create.
    pub status: CronJobStatus,
    /// Events to write: type, reason and message.
    pub events: Vec<(&'static str, &'static str, String)>,
    /// When the next time is due.
    pub next_look: Option<Duration>,
}

/// Returns the decision about a CronJob.
#[must_use]
pub fn decide(state: &CronJobState<'_>) -> CronJobDecision {
    let Some(spec) = &state.cron_job.spec else { return CronJobDecision::default() };
    let mut decision =
        CronJobDecision { status: state.cron_job.status.clone().unwrap_or_default(), ..CronJobDecision::default() };
    forget_ended(&mut decision, state.jobs);
    for (succeeded, limit) in [(true, spec.successful_jobs_history_limit), (false, spec.failed_jobs_history_limit)] {
        decision.delete.extend(beyond(limit, succeeded, state.jobs));
    }
    // The API server refuses a schedule that cannot be parsed.
    let Ok(schedule) = spec.schedule.parse::<CronSchedule>() else { return decision };
    if spec.suspend == Some(true) {
        return decision;
    }
    let (due, missed) = due(state, spec, &schedule, &decision.status);
    if missed > MANY_MISSED {
        let message = format!("too many missed start times: {missed}. Set or decrease .spec.startingDeadlineSeconds");
        decision.events.push(("Warning", "TooManyMissedTimes", message));
    }
    let running: Vec<String> =
        decision.status.active.iter().flatten().filter_map(|reference| reference.name.clone()).collect();
    match spec.concurrency_policy.as_deref() {
        // The Job's end is a change, after which the CronJob is looked at again.
        Some("Forbid") if !running.is_empty() => {}
        Some("Replace") if due.is_some() => {
            decision.delete.extend(running);
            decision.status.active = None;
            decision.create = due;
        }
        _ => decision.create = due,
    }
    let now = state.now.as_second();
    decision.next_look =
        schedule.next_after(now).map(|next| Duration::from_secs(u64::try_from(next - now).unwrap_or(1)));
    decision
}

/// Removes Jobs that have ended or are gone from the active ones.
fn forget_ended(decision: &mut CronJobDecision, jobs: &[Arc<Job>]) {
    let Some(mut active) = decision.status.active.take() else { return };
    active.retain(|reference| {
        let name = reference.name.as_deref().unwrap_or_default();
        let Some(job) = jobs.iter().find(|job| job.metadata.uid == reference.uid) else {
            let message = format!("Active job went missing: {name}");
            decision.events.push(("Normal", "MissingJob", message));
            return false;
        };
        let Some(succeeded) = job::succeeded(job) else { return true };
        let condition = if succeeded { "Complete" } else { "Failed" };
        decision.events.push((
            "Normal",
            "SawCompletedJob",
            format!("Saw completed job: {name}, condition: {condition}"),
        ));
        false
    });
    decision.status.active = (!active.is_empty()).then_some(active);
    let completed = jobs.iter().filter_map(|job| job.status.as_ref()?.completion_time.clone());
    decision.status.last_successful_time = completed.chain(decision.status.last_successful_time.take()).max();
}

/// Returns the oldest Jobs with an outcome beyond the history limit.
fn beyond(limit: Option<i32>, succeeded: bool, jobs: &[Arc<Job>]) -> Vec<String> {
    let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { return Vec::new() };
    let mut ended: Vec<&Arc<Job>> = jobs.iter().filter(|job| job::succeeded(job) == Some(succeeded)).collect();
    ended.sort_by_key(|job| (job.metadata.creation_timestamp.clone(), job.name_any()));
    let surplus = ended.len().saturating_sub(limit);
    ended.into_iter().take(surplus).map(|job| job.name_any()).collect()
}

/// Returns the latest time that is due, and the number of times since the last one that was used.
fn due(
    state: &CronJobState<'_>,
    spec: &CronJobSpec,
    schedule: &CronSchedule,
    status: &CronJobStatus,
) -> (Option<Timestamp>, usize) {
    let now = state.now.as_second();
    let last = status.last_schedule_time.as_ref().or(state.cron_job.metadata.creation_timestamp.as_ref());
    let mut since = last.map_or(now, |time| time.0.as_second());
    if let Some(deadline) = spec.starting_deadline_seconds {
        since = since.max(now.saturating_sub(deadline));
    }
    let mut missed = 0;
    while let Some(next) = schedule.next_after(since).filter(|next| *next <= now) {
        since = next;
        missed += 1;
    }
    ((missed > 0).then(|| Timestamp::from_second(since).ok()).flatten(), missed)
}

/// Returns the Job for a time.
fn new_job(cron_job: &CronJob, at: Timestamp) -> Option<Job> {
    let template = cron_job.spec.as_ref()?.job_template.clone();
    let mut job = Job { metadata: template.metadata.unwrap_or_default(), spec: template.spec, status: None };
    job.metadata.name = Some(format!("{}-{}", cron_job.name_any(), at.as_second() / 60));
    job.metadata.namespace = cron_job.namespace();
    job.metadata.owner_references = references_to(cron_job);
    job.annotations_mut().insert(SCHEDULED_FOR.to_owned(), timestamp::seconds(at));
    Some(job)
}

/// Runs the controller.
pub async fn run(client: Client, view: Arc<ClusterView>) {
    reconcile::run(client, view, CronJobs).await;
}

struct CronJobs;

impl ReconciledKind for CronJob {
    const CONTROLLER: &'static str = "cronjob-controller";

    fn cache(view: &ClusterView) -> &Cache<Self> {
        &view.cron_jobs
    }
}

impl Reconciler for CronJobs {
    type Kind = CronJob;

    async fn reconcile(&self, cron_job: &Reconciled<'_, CronJob>) -> Result<Option<Duration>, ReconcileError> {
        let uid = cron_job.object.uid().unwrap_or_default();
        let mut jobs = cron_job.view.jobs.list();
        jobs.retain(|job| owned_by(&job.metadata, &uid));
        let decision = decide(&CronJobState { cron_job: cron_job.object, jobs: &jobs, now: Timestamp::now() });
        for (kind, reason, message) in &decision.events {
            cron_job.event(kind, reason, message).await;
        }
        for name in &decision.delete {
            delete(cron_job, name).await?;
        }
        let mut status = decision.status;
        let created = match decision.create {
            Some(at) => create(cron_job, at, &mut status).await,
            None => Ok(()),
        };
        cron_job.write_status(cron_job.object.status.as_ref(), &status).await?;
        created.map(|()| decision.next_look)
    }
}

/// Creates the Job for a time, and notes it in the status.
async fn create(
    cron_job: &Reconciled<'_, CronJob>,
    at: Timestamp,
    status: &mut CronJobStatus,
) -> Result<(), ReconcileError> {
    let Some(job) = new_job(cron_job.object, at) else { return Ok(()) };
    match cron_job.api::<Job>().create(&PostParams::default(), &job).await {
        Ok(job) => {
            status.active.get_or_insert_default().push(job.object_ref(&()));
            cron_job.event("Normal", "SuccessfulCreate", &format!("Created job {}", job.name_any())).await;
            cron_job.view.jobs.put(job);
            cron_job.view.touch();
        }
        // An earlier attempt has created it, or it is another's.
        Err(kube::Error::Api(refused)) if refused.code == 409 => {}
        Err(error) => return Err(ReconcileError::Creation(error)),
    }
    status.last_schedule_time = Some(Time(at));
    Ok(())
}

async fn delete(cron_job: &Reconciled<'_, CronJob>, name: &str) -> kube::Result<()> {
    let api: Api<Job> = cron_job.api();
    match api.delete(name, &DeleteParams::background()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => drop(other?),
    }
    if let Some(job) = cron_job.view.jobs.get(&cron_job.namespace(), name) {
        cron_job.view.jobs.remove(&job);
    }
    cron_job.event("Normal", "SuccessfulDelete", &format!("Deleted job {name}")).await;
    Ok(())
}

#[cfg(test)]
mod tests;
