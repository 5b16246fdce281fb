//! Workloads: Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs.

use serde_json::{Value, json};

use super::fields::{empty, object, present, set, set_text};
use super::pod;

pub(super) fn deployment(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    set(spec, "replicas", 1);
    set(spec, "revisionHistoryLimit", 10);
    set(spec, "progressDeadlineSeconds", 600);
    rolling(spec, "strategy", &[("maxUnavailable", json!("25%")), ("maxSurge", json!("25%"))]);
    pod::template(spec, "template");
}

pub(super) fn replica_set(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    set(spec, "replicas", 1);
    pod::template(spec, "template");
}

pub(super) fn replication_controller(controller: &mut Value) {
    let Some(spec) = spec(controller) else { return };
    set(spec, "replicas", 1);
    pod::template(spec, "template");
    let labels = spec["template"]["metadata"]["labels"].clone();
    if labels.is_object() {
        set(spec, "selector", labels.clone());
        if let Some(metadata) = object(controller, "metadata") {
            set(metadata, "labels", labels);
        }
    }
}

pub(super) fn stateful_set(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    set(spec, "replicas", 1);
    set(spec, "revisionHistoryLimit", 10);
    set_text(spec, "podManagementPolicy", "OrderedReady");
    rolling(spec, "updateStrategy", &[("partition", json!(0))]);
    let retention = json!({"whenDeleted": "Retain", "whenScaled": "Retain"});
    set(spec, "persistentVolumeClaimRetentionPolicy", retention);
    pod::template(spec, "template");
}

pub(super) fn daemon_set(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    set(spec, "revisionHistoryLimit", 10);
    rolling(spec, "updateStrategy", &[("maxUnavailable", json!(1)), ("maxSurge", json!(0))]);
    pod::template(spec, "template");
}

pub(super) fn job(object: &mut Value) {
    if let Some(spec) = spec(object) {
        job_spec(spec);
    }
}

pub(super) fn cron_job(cron_job: &mut Value) {
    let Some(spec) = spec(cron_job) else { return };
    set_text(spec, "concurrencyPolicy", "Allow");
    set(spec, "suspend", false);
    set(spec, "successfulJobsHistoryLimit", 3);
    set(spec, "failedJobsHistoryLimit", 1);
    if let Some(template) = present(spec, "jobTemplate") {
        object(template, "metadata");
        if let Some(job) = object(template, "spec") {
            pod::template(job, "template");
        }
    }
}

fn job_spec(spec: &mut Value) {
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        set(spec, "completions", 1);
    }
    set(spec, "parallelism", 1);
    set(spec, "backoffLimit", 6);
    set(spec, "completionMode", "NonIndexed");
    set(spec, "suspend", false);
    set(spec, "podReplacementPolicy", "TerminatingOrFailed");
    pod::template(spec, "template");
}

/// Sets a rolling update strategy with these bounds unless the object has another strategy.
fn rolling(spec: &mut Value, field: &str, bounds: &[(&str, Value)]) {
    let Some(strategy) = object(spec, field) else { return };
    set_text(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate"
        && let Some(rolling) = object(strategy, "rollingUpdate")
    {
        for (name, value) in bounds {
            set(rolling, name, value.clone());
        }
    }
}

/// The spec of a workload. The status is created too.
fn spec(workload: &mut Value) -> Option<&mut Value> {
    set(workload, "status", empty());
    object(workload, "spec")
}
