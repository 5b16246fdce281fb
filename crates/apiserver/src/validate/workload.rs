//! What makes pods: selectors that select their template, and bounds.

use serde_json::{Value, json};

use super::finding::{Findings, Path, entries, is_empty, items, same, text};
use super::{metadata, pod};

/// What may change in a StatefulSet's spec.
const STATEFUL_SET_MUTABLE: [&str; 8] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
    "serviceName",
];

pub(super) fn deployment(object: &Value, old: Option<&Value>, findings: &mut Findings) {
    let (spec, path) = (&object["spec"], Path::root("spec"));
    replicated(spec, old, &path, findings);
    findings.not_negative(&path.child("revisionHistoryLimit"), &spec["revisionHistoryLimit"]);
    findings.not_negative(&path.child("progressDeadlineSeconds"), &spec["progressDeadlineSeconds"]);
    let ready_after = spec["minReadySeconds"].as_i64().unwrap_or(0);
    if let Some(deadline) = spec["progressDeadlineSeconds"].as_i64().filter(|deadline| *deadline <= ready_after) {
        findings.invalid(&path.child("progressDeadlineSeconds"), deadline, "must be greater than minReadySeconds");
    }
    let (strategy, path) = (&spec["strategy"], path.child("strategy"));
    findings.one_of(&path.child("type"), &strategy["type"], &["Recreate", "RollingUpdate"]);
    let rolling = path.child("rollingUpdate");
    if strategy["type"] == "Recreate" && !strategy["rollingUpdate"].is_null() {
        findings.forbidden(&rolling, "may not be specified when strategy `type` is 'Recreate'");
    }
    let (unavailable, surge) = (&strategy["rollingUpdate"]["maxUnavailable"], &strategy["rollingUpdate"]["maxSurge"]);
    for (field, value) in [("maxUnavailable", unavailable), ("maxSurge", surge)] {
        count_or_percentage(&rolling.child(field), value, findings);
    }
    if is_zero(unavailable) && is_zero(surge) {
        findings.invalid(&rolling.child("maxUnavailable"), unavailable.clone(), "may not be 0 when `maxSurge` is 0");
    }
}

pub(super) fn replica_set(object: &Value, old: Option<&Value>, findings: &mut Findings) {
    replicated(&object["spec"], old, &Path::root("spec"), findings);
}

pub(super) fn replication_controller(object: &Value, findings: &mut Findings) {
    let (spec, path) = (&object["spec"], Path::root("spec"));
    findings.not_negative(&path.child("replicas"), &spec["replicas"]);
    if is_empty(&spec["selector"]) {
        findings.required(&path.child("selector"), "");
    }
    template(&spec["template"], &path, findings);
    if !is_empty(&spec["selector"]) {
        matches(&json!({"matchLabels": spec["selector"]}), &spec["template"], &path, findings);
    }
}

pub(super) fn stateful_set(object: &Value, old: Option<&Value>, findings: &mut Findings) {
    let (spec, path) = (&object["spec"], Path::root("spec"));
    findings.not_negative(&path.child("replicas"), &spec["replicas"]);
    selector(&spec["selector"], &spec["template"], &path, findings);
    template(&spec["template"], &path, findings);
    findings.one_of(&path.child("podManagementPolicy"), &spec["podManagementPolicy"], &["OrderedReady", "Parallel"]);
    let strategy = path.child("updateStrategy").child("type");
    findings.one_of(&strategy, &spec["updateStrategy"]["type"], &["OnDelete", "RollingUpdate"]);
    if let Some(old) = old {
        let fixed = |spec: &Value| -> Value {
            entries(spec)
                .filter(|(field, value)| !STATEFUL_SET_MUTABLE.contains(&field.as_str()) && !is_empty(value))
                .map(|(field, value)| (field.clone(), value.clone()))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        if fixed(spec) != fixed(&old["spec"]) {
            findings.forbidden(
                &path,
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            );
        }
    }
}

pub(super) fn daemon_set(object: &Value, old: Option<&Value>, findings: &mut Findings) {
    let (spec, path) = (&object["spec"], Path::root("spec"));
    selector(&spec["selector"], &spec["template"], &path, findings);
    template(&spec["template"], &path, findings);
    let strategy = path.child("updateStrategy").child("type");
    findings.one_of(&strategy, &spec["updateStrategy"]["type"], &["RollingUpdate", "OnDelete"]);
    if let Some(old) = old {
        findings.immutable(&path.child("selector"), &spec["selector"], &old["spec"]["selector"]);
    }
}

pub(super) fn job(spec: &Value, path: &Path, findings: &mut Findings) {
    for field in ["parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"] {
        findings.not_negative(&path.child(field), &spec[field]);
    }
    let template_path = path.child("template");
    pod::template(&spec["template"], &template_path, &["OnFailure", "Never"], findings);
}

pub(super) fn cron_job(object: &Value, findings: &mut Findings) {
    let (spec, path) = (&object["spec"], Path::root("spec"));
    let schedule = text(&spec["schedule"]);
    if schedule.is_empty() {
        findings.required(&path.child("schedule"), "");
    } else if !schedule.starts_with('@') && schedule.split_whitespace().count() != 5 {
        let found = schedule.split_whitespace().count();
        let problem = format!("expected exactly 5 fields, found {found}: [{schedule}]");
        findings.invalid(&path.child("schedule"), schedule, &problem);
    }
    let policies = ["Allow", "Forbid", "Replace"];
    findings.one_of(&path.child("concurrencyPolicy"), &spec["concurrencyPolicy"], &policies);
    job(&spec["jobTemplate"]["spec"], &path.child("jobTemplate").child("spec"), findings);
}

/// What Deployments and ReplicaSets have in common.
fn replicated(spec: &Value, old: Option<&Value>, path: &Path, findings: &mut Findings) {
    findings.not_negative(&path.child("replicas"), &spec["replicas"]);
    findings.not_negative(&path.child("minReadySeconds"), &spec["minReadySeconds"]);
    selector(&spec["selector"], &spec["template"], path, findings);
    template(&spec["template"], path, findings);
    if let Some(old) = old
        && !same(&spec["selector"], &old["spec"]["selector"])
    {
        findings.immutable(&path.child("selector"), &spec["selector"], &old["spec"]["selector"]);
    }
}

fn template(template: &Value, path: &Path, findings: &mut Findings) {
    let path = path.child("template");
    if template.is_null() {
        findings.required(&path, "");
    } else {
        pod::template(template, &path, &["Always"], findings);
    }
}

fn selector(selector: &Value, template: &Value, path: &Path, findings: &mut Findings) {
    let here = path.child("selector");
    if selector.is_null() {
        findings.required(&here, "");
        return;
    }
    if is_empty(&selector["matchLabels"]) && is_empty(&selector["matchExpressions"]) {
        findings.invalid(&here, selector.clone(), "empty selector is invalid for deployment");
    }
    metadata::selector(selector, &here, findings);
    matches(selector, template, path, findings);
}

/// The pods that a workload makes must be those that it counts.
fn matches(selector: &Value, template: &Value, path: &Path, findings: &mut Findings) {
    let labels = &template["metadata"]["labels"];
    let by_label = entries(&selector["matchLabels"]).all(|(key, value)| labels[key] == *value);
    let by_expression = items(&selector["matchExpressions"]).all(|(_, expression)| {
        let value = &labels[text(&expression["key"])];
        let listed = items(&expression["values"]).any(|(_, item)| item == value);
        match text(&expression["operator"]) {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => !value.is_null(),
            "DoesNotExist" => value.is_null(),
            _ => true,
        }
    });
    if !by_label || !by_expression {
        let path = path.child("template").child("metadata").child("labels");
        findings.invalid(&path, labels.clone(), "`selector` does not match template `labels`");
    }
}

fn count_or_percentage(path: &Path, value: &Value, findings: &mut Findings) {
    findings.not_negative(path, value);
    if let Some(percentage) = value.as_str()
        && percentage.strip_suffix('%').is_none_or(|digits| digits.parse::<u32>().is_err())
    {
        let problem = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
        findings.invalid(path, percentage, problem);
    }
}

fn is_zero(value: &Value) -> bool {
    *value == 0 || *value == "0%"
}
