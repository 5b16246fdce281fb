//! Workloads: selectors that match their template, and bounds.

use serde_json::{Value, json};

use super::field_errors::{FieldErrors, FieldPath, entries, is_empty, items, same, text};
use super::{metadata, pod};

/// Mutable fields of a StatefulSet's spec.
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

pub(super) fn deployment(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let (spec, path) = (&object["spec"], FieldPath::root("spec"));
    replicated(spec, old, &path, errors);
    errors.not_negative(&path.child("revisionHistoryLimit"), &spec["revisionHistoryLimit"]);
    errors.not_negative(&path.child("progressDeadlineSeconds"), &spec["progressDeadlineSeconds"]);
    let ready_after = spec["minReadySeconds"].as_i64().unwrap_or(0);
    if let Some(deadline) = spec["progressDeadlineSeconds"].as_i64().filter(|deadline| *deadline <= ready_after) {
        errors.invalid(&path.child("progressDeadlineSeconds"), deadline, "must be greater than minReadySeconds");
    }
    let (strategy, path) = (&spec["strategy"], path.child("strategy"));
    errors.one_of(&path.child("type"), &strategy["type"], &["Recreate", "RollingUpdate"]);
    let rolling = path.child("rollingUpdate");
    if strategy["type"] == "Recreate" && !strategy["rollingUpdate"].is_null() {
        errors.forbidden(&rolling, "may not be specified when strategy `type` is 'Recreate'");
    }
    let (unavailable, surge) = (&strategy["rollingUpdate"]["maxUnavailable"], &strategy["rollingUpdate"]["maxSurge"]);
    for (field, value) in [("maxUnavailable", unavailable), ("maxSurge", surge)] {
        count_or_percentage(&rolling.child(field), value, errors);
    }
    if is_zero(unavailable) && is_zero(surge) {
        errors.invalid(&rolling.child("maxUnavailable"), unavailable.clone(), "may not be 0 when `maxSurge` is 0");
    }
}

pub(super) fn replica_set(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    replicated(&object["spec"], old, &FieldPath::root("spec"), errors);
}

pub(super) fn replication_controller(object: &Value, errors: &mut FieldErrors) {
    let (spec, path) = (&object["spec"], FieldPath::root("spec"));
    errors.not_negative(&path.child("replicas"), &spec["replicas"]);
    if is_empty(&spec["selector"]) {
        errors.required(&path.child("selector"), "");
    }
    template(&spec["template"], &path, errors);
    if !is_empty(&spec["selector"]) {
        matches(&json!({"matchLabels": spec["selector"]}), &spec["template"], &path, errors);
    }
}

pub(super) fn stateful_set(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let (spec, path) = (&object["spec"], FieldPath::root("spec"));
    errors.not_negative(&path.child("replicas"), &spec["replicas"]);
    selector(&spec["selector"], &spec["template"], &path, errors);
    template(&with_claims(spec), &path, errors);
    errors.one_of(&path.child("podManagementPolicy"), &spec["podManagementPolicy"], &["OrderedReady", "Parallel"]);
    let strategy = path.child("updateStrategy").child("type");
    errors.one_of(&strategy, &spec["updateStrategy"]["type"], &["OnDelete", "RollingUpdate"]);
    if let Some(old) = old {
        let fixed = |spec: &Value| -> Value {
            entries(spec)
                .filter(|(field, value)| !STATEFUL_SET_MUTABLE.contains(&field.as_str()) && !is_empty(value))
                .map(|(field, value)| (field.clone(), value.clone()))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        if fixed(spec) != fixed(&old["spec"]) {
            errors.forbidden(
                &path,
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            );
        }
    }
}

/// The template with the volumes of `volumeClaimTemplates`, which replace others of their name.
fn with_claims(spec: &Value) -> Value {
    let mut template = spec["template"].clone();
    let claims: Vec<&str> =
        items(&spec["volumeClaimTemplates"]).map(|(_, claim)| text(&claim["metadata"]["name"])).collect();
    if let Some(pod) = template.get_mut("spec").and_then(Value::as_object_mut).filter(|_| !claims.is_empty()) {
        let volumes = pod.entry("volumes").or_insert_with(|| json!([]));
        if let Some(volumes) = volumes.as_array_mut() {
            volumes.retain(|volume| !claims.contains(&text(&volume["name"])));
            volumes.extend(claims.iter().map(|name| json!({"name": name, "emptyDir": {}})));
        }
    }
    template
}

pub(super) fn daemon_set(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let (spec, path) = (&object["spec"], FieldPath::root("spec"));
    selector(&spec["selector"], &spec["template"], &path, errors);
    template(&spec["template"], &path, errors);
    let strategy = path.child("updateStrategy").child("type");
    errors.one_of(&strategy, &spec["updateStrategy"]["type"], &["RollingUpdate", "OnDelete"]);
    if let Some(old) = old {
        errors.immutable(&path.child("selector"), &spec["selector"], &old["spec"]["selector"]);
    }
}

/// Fields of Deployments and ReplicaSets.
fn replicated(spec: &Value, old: Option<&Value>, path: &FieldPath, errors: &mut FieldErrors) {
    errors.not_negative(&path.child("replicas"), &spec["replicas"]);
    errors.not_negative(&path.child("minReadySeconds"), &spec["minReadySeconds"]);
    selector(&spec["selector"], &spec["template"], path, errors);
    template(&spec["template"], path, errors);
    if let Some(old) = old
        && !same(&spec["selector"], &old["spec"]["selector"])
    {
        errors.immutable(&path.child("selector"), &spec["selector"], &old["spec"]["selector"]);
    }
}

fn template(template: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    let path = path.child("template");
    if template.is_null() {
        errors.required(&path, "");
    } else {
        pod::template(template, &path, &["Always"], errors);
    }
}

fn selector(selector: &Value, template: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    let here = path.child("selector");
    if selector.is_null() {
        errors.required(&here, "");
        return;
    }
    if is_empty(&selector["matchLabels"]) && is_empty(&selector["matchExpressions"]) {
        errors.invalid(&here, selector.clone(), "empty selector is invalid for deployment");
    }
    metadata::selector(selector, &here, errors);
    matches(selector, template, path, errors);
}

/// The selector must match the labels of the template.
fn matches(selector: &Value, template: &Value, path: &FieldPath, errors: &mut FieldErrors) {
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
        errors.invalid(&path, labels.clone(), "`selector` does not match template `labels`");
    }
}

fn count_or_percentage(path: &FieldPath, value: &Value, errors: &mut FieldErrors) {
    errors.not_negative(path, value);
    if let Some(percentage) = value.as_str()
        && percentage.strip_suffix('%').is_none_or(|digits| digits.parse::<u32>().is_err())
    {
        let problem = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
        errors.invalid(path, percentage, problem);
    }
}

fn is_zero(value: &Value) -> bool {
    *value == 0 || *value == "0%"
}
