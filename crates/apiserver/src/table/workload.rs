//! Workloads: Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs.

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::age;
use super::cell::{Cells, Heading, column, items, labels, name, number, or_none, selector, text, wide};
use crate::kinds::ResourceKind;

pub(super) fn printer(kind: &ResourceKind) -> Option<(&'static [Heading], Cells)> {
    Some(match (&*kind.group, &*kind.kind) {
        ("apps", "Deployment") => (DEPLOYMENT, deployment),
        ("apps", "ReplicaSet") => (REPLICA_SET, replica_set),
        ("", "ReplicationController") => (REPLICA_SET, replication_controller),
        ("apps", "StatefulSet") => (STATEFUL_SET, stateful_set),
        ("apps", "DaemonSet") => (DAEMON_SET, daemon_set),
        ("apps", "ControllerRevision") => (CONTROLLER_REVISION, controller_revision),
        ("batch", "Job") => (JOB, job),
        ("batch", "CronJob") => (CRON_JOB, cron_job),
        _ => return None,
    })
}

const DEPLOYMENT: &[Heading] = &[
    column("Name", "string"),
    column("Ready", "string"),
    column("Up-to-date", "string"),
    column("Available", "string"),
    column("Age", "string"),
    wide("Containers", "string"),
    wide("Images", "string"),
    wide("Selector", "string"),
];

fn deployment(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let [containers, images] = template(&spec["template"]);
    vec![
        name(object),
        format!("{}/{}", number(&status["readyReplicas"]), replicas(spec)).into(),
        number(&status["updatedReplicas"]).into(),
        number(&status["availableReplicas"]).into(),
        age::of(object, now),
        containers,
        images,
        selector(&spec["selector"]),
    ]
}

const REPLICA_SET: &[Heading] = &[
    column("Name", "string"),
    column("Desired", "integer"),
    column("Current", "integer"),
    column("Ready", "integer"),
    column("Age", "string"),
    wide("Containers", "string"),
    wide("Images", "string"),
    wide("Selector", "string"),
];

fn replica_set(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    replicated(object, now, selector(&object["spec"]["selector"]))
}

fn replication_controller(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    replicated(object, now, or_none(labels(&object["spec"]["selector"])))
}

fn replicated(object: &Value, now: OffsetDateTime, selector: Value) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let [containers, images] = template(&spec["template"]);
    vec![
        name(object),
        replicas(spec).into(),
        number(&status["replicas"]).into(),
        number(&status["readyReplicas"]).into(),
        age::of(object, now),
        containers,
        images,
        selector,
    ]
}

const STATEFUL_SET: &[Heading] = &[
    column("Name", "string"),
    column("Ready", "string"),
    column("Age", "string"),
    wide("Containers", "string"),
    wide("Images", "string"),
];

fn stateful_set(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    let [containers, images] = template(&object["spec"]["template"]);
    let ready = format!("{}/{}", number(&object["status"]["readyReplicas"]), replicas(&object["spec"]));
    vec![name(object), ready.into(), age::of(object, now), containers, images]
}

const DAEMON_SET: &[Heading] = &[
    column("Name", "string"),
    column("Desired", "integer"),
    column("Current", "integer"),
    column("Ready", "integer"),
    column("Up-to-date", "integer"),
    column("Available", "integer"),
    column("Node Selector", "string"),
    column("Age", "string"),
    wide("Containers", "string"),
    wide("Images", "string"),
    wide("Selector", "string"),
];

fn daemon_set(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let [containers, images] = template(&spec["template"]);
    vec![
        name(object),
        number(&status["desiredNumberScheduled"]).into(),
        number(&status["currentNumberScheduled"]).into(),
        number(&status["numberReady"]).into(),
        number(&status["updatedNumberScheduled"]).into(),
        number(&status["numberAvailable"]).into(),
        or_none(labels(&spec["template"]["spec"]["nodeSelector"])),
        age::of(object, now),
        containers,
        images,
        selector(&spec["selector"]),
    ]
}

const CONTROLLER_REVISION: &[Heading] =
    &[column("Name", "string"), column("Controller", "string"), column("Revision", "integer"), column("Age", "string")];

fn controller_revision(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    let owners = items(&object["metadata"]["ownerReferences"]);
    let controller = owners.iter().find(|owner| owner["controller"] == true).map(|owner| {
        let group = text(&owner["apiVersion"]).split_once('/').map_or("", |(group, _)| group);
        let kind = text(&owner["kind"]).to_lowercase();
        format!("{}/{}", [&kind, group].join(".").trim_end_matches('.'), text(&owner["name"]))
    });
    vec![name(object), or_none(controller.unwrap_or_default()), object["revision"].clone(), age::of(object, now)]
}

const JOB: &[Heading] = &[
    column("Name", "string"),
    column("Status", "string"),
    column("Completions", "string"),
    column("Duration", "string"),
    column("Age", "string"),
    wide("Containers", "string"),
    wide("Images", "string"),
    wide("Selector", "string"),
];

fn job(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let [containers, images] = template(&spec["template"]);
    let succeeded = number(&status["succeeded"]);
    let completions = match (spec["completions"].as_i64(), spec["parallelism"].as_i64()) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, Some(parallel)) if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let duration = match (age::parse(&status["startTime"]), age::parse(&status["completionTime"])) {
        (None, _) => String::new(),
        (Some(start), end) => age::human(end.unwrap_or(now) - start),
    };
    let has = |type_: &str| {
        items(&status["conditions"]).iter().any(|condition| condition["type"] == type_ && condition["status"] == "True")
    };
    let state = match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if !object["metadata"]["deletionTimestamp"].is_null() => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () => "Running",
    };
    vec![
        name(object),
        state.into(),
        completions.into(),
        duration.into(),
        age::of(object, now),
        containers,
        images,
        selector(&spec["selector"]),
    ]
}

const CRON_JOB: &[Heading] = &[
    column("Name", "string"),
    column("Schedule", "string"),
    column("Timezone", "string"),
    column("Suspend", "boolean"),
    column("Active", "integer"),
    column("Last Schedule", "string"),
    column("Age", "string"),
    wide("Containers", "string"),
    wide("Images", "string"),
    wide("Selector", "string"),
];

fn cron_job(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let [containers, images] = template(&spec["jobTemplate"]["spec"]["template"]);
    let last = match &status["lastScheduleTime"] {
        Value::Null => json!("<none>"),
        time => age::since(time, now).into(),
    };
    vec![
        name(object),
        spec["schedule"].clone(),
        or_none(text(&spec["timeZone"])),
        if spec["suspend"] == true { "True" } else { "False" }.into(),
        items(&status["active"]).len().into(),
        last,
        age::of(object, now),
        containers,
        images,
        selector(&spec["jobTemplate"]["spec"]["selector"]),
    ]
}

/// Columns of a Scale.
pub(super) const SCALE: (&[Heading], Cells) = (
    &[column("Name", "string"), column("Desired", "integer"), column("Available", "integer"), column("Age", "string")],
    |scale, now| {
        let count = |part: &str| number(&scale[part]["replicas"]).into();
        vec![name(scale), count("spec"), count("status"), age::of(scale, now)]
    },
);

fn replicas(spec: &Value) -> i64 {
    spec["replicas"].as_i64().unwrap_or(1)
}

/// Names and images of a template's containers.
fn template(template: &Value) -> [Value; 2] {
    let containers = items(&template["spec"]["containers"]);
    ["name", "image"]
        .map(|field| containers.iter().map(|container| text(&container[field])).collect::<Vec<_>>().join(",").into())
}
