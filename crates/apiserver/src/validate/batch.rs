//! Jobs and CronJobs.

use serde_json::Value;

use super::field_errors::{FieldErrors, FieldPath, is_empty, text};
use super::{metadata, pod};
use crate::cron::CronSchedule;

/// Fields of a Job that cannot be changed. Others that Kubernetes fixes have no effect here.
const IMMUTABLE: [&str; 3] = ["selector", "template", "completionMode"];

pub(super) fn job(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let (spec, path) = (&object["spec"], FieldPath::root("spec"));
    job_spec(spec, &path, errors);
    if is_empty(&spec["selector"]) {
        errors.required(&path.child("selector"), "");
    } else {
        metadata::selector(&spec["selector"], &path.child("selector"), errors);
    }
    let Some(old) = old.map(|old| &old["spec"]) else { return };
    for field in IMMUTABLE {
        errors.immutable(&path.child(field), &spec[field], &old[field]);
    }
    // An indexed Job may be resized if all of its pods run at once.
    let elastic = spec["completionMode"] == "Indexed" && spec["completions"] == spec["parallelism"];
    if !elastic {
        errors.immutable(&path.child("completions"), &spec["completions"], &old["completions"]);
    }
}

fn job_spec(spec: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    for field in ["parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"] {
        errors.not_negative(&path.child(field), &spec[field]);
    }
    for (field, values) in
        [("completionMode", ["Indexed", "NonIndexed"]), ("podReplacementPolicy", ["Failed", "TerminatingOrFailed"])]
    {
        // The template of a CronJob has no defaults.
        if !spec[field].is_null() {
            errors.one_of(&path.child(field), &spec[field], &values);
        }
    }
    if spec["completionMode"] == "Indexed" && spec["completions"].is_null() {
        errors.required(&path.child("completions"), "when completion mode is Indexed");
    }
    pod::template(&spec["template"], &path.child("template"), &["OnFailure", "Never"], errors);
}

pub(super) fn cron_job(object: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&object["spec"], FieldPath::root("spec"));
    let schedule = text(&spec["schedule"]);
    if schedule.is_empty() {
        errors.required(&path.child("schedule"), "");
    } else if let Err(problem) = schedule.parse::<CronSchedule>() {
        errors.invalid(&path.child("schedule"), schedule, &problem.to_string());
    }
    let policies = ["Allow", "Forbid", "Replace"];
    errors.one_of(&path.child("concurrencyPolicy"), &spec["concurrencyPolicy"], &policies);
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        errors.not_negative(&path.child(field), &spec[field]);
    }
    job_spec(&spec["jobTemplate"]["spec"], &path.child("jobTemplate").child("spec"), errors);
}
