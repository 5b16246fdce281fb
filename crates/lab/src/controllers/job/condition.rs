//! The conditions of a Job, and how it ends.

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// How a Job ends. The end is announced by one condition while pods are still being stopped, and declared by another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Enough pods have succeeded.
    Complete,
    /// Too many pods have failed, or it took too long.
    Failed { reason: String, message: String },
}

impl Outcome {
    pub(super) fn failed(reason: &str, message: &str) -> Self {
        Self::Failed { reason: reason.to_owned(), message: message.to_owned() }
    }

    /// Returns the outcome that an earlier decision has announced.
    pub(super) fn announced(status: &JobStatus) -> Option<Self> {
        if holds(status, "SuccessCriteriaMet") {
            return Some(Self::Complete);
        }
        let target = find(status, "FailureTarget")?;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Some(Self::Failed { reason: text(&target.reason), message: text(&target.message) })
    }

    /// Sets the condition that announces the end.
    pub(super) fn announce(&self, status: &mut JobStatus, now: Timestamp) {
        let kind = if *self == Self::Complete { "SuccessCriteriaMet" } else { "FailureTarget" };
        let (reason, message) = self.words();
        set(status, kind, true, reason, message, now);
    }

    /// Sets the condition that declares the end, and returns the Event about it.
    pub(super) fn declare(&self, status: &mut JobStatus, now: Timestamp) -> (&'static str, String, String) {
        let (reason, message) = self.words();
        match self {
            Self::Complete => {
                set(status, "Complete", true, reason, message, now);
                status.completion_time = Some(Time(to_seconds(now)));
                ("Normal", "Completed".to_owned(), "Job completed".to_owned())
            }
            Self::Failed { .. } => {
                set(status, "Failed", true, reason, message, now);
                ("Warning", reason.to_owned(), message.to_owned())
            }
        }
    }

    fn words(&self) -> (&str, &str) {
        match self {
            Self::Complete => ("CompletionsReached", "Reached expected number of succeeded pods"),
            Self::Failed { reason, message } => (reason, message),
        }
    }
}

/// Returns whether a Job that has ended has succeeded; `None` if it has not ended.
#[must_use]
pub fn succeeded(job: &Job) -> Option<bool> {
    let status = job.status.as_ref()?;
    if holds(status, "Complete") { Some(true) } else { holds(status, "Failed").then_some(false) }
}

/// Returns when a Job has ended, if it has.
pub(super) fn ended_at(status: &JobStatus) -> Option<Timestamp> {
    let condition = find(status, "Complete").or_else(|| find(status, "Failed"))?;
    Some(condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// Reports whether a condition is true.
pub(super) fn holds(status: &JobStatus, kind: &str) -> bool {
    find(status, kind).is_some()
}

fn find<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind && condition.status == "True")
}

/// Sets a condition. One that has this value already keeps its times.
pub(super) fn set(status: &mut JobStatus, kind: &str, holds: bool, reason: &str, message: &str, now: Timestamp) {
    let value = if holds { "True" } else { "False" };
    let conditions = status.conditions.get_or_insert_default();
    if conditions.iter().any(|known| known.type_ == kind && known.status == value) {
        return;
    }
    conditions.retain(|known| known.type_ != kind);
    let now = Time(to_seconds(now));
    conditions.push(JobCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(now.clone()),
        last_transition_time: Some(now),
    });
}

/// Times of a status have seconds; a fraction would make the status differ from what the API server returns.
pub(super) fn to_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
