//! Pods: readiness, status and restarts.

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::age;
use super::cell::{Cells, Heading, column, items, name, number, or_none, text, wide};
use crate::kinds::ResourceKind;

pub(super) fn printer(kind: &ResourceKind) -> Option<(&'static [Heading], Cells)> {
    if kind.is("", "Pod") { Some((POD, cells)) } else { None }
}

const POD: &[Heading] = &[
    column("Name", "string"),
    column("Ready", "string"),
    column("Status", "string"),
    column("Restarts", "string"),
    column("Age", "string"),
    wide("IP", "string"),
    wide("Node", "string"),
    wide("Nominated Node", "string"),
    wide("Readiness Gates", "string"),
];

/// The sum of the container statuses.
#[derive(Default)]
struct PodSummary {
    reason: String,
    total: usize,
    ready: usize,
    restarts: i64,
    last_restart: Option<OffsetDateTime>,
}

fn cells(pod: &Value, now: OffsetDateTime) -> Vec<Value> {
    let summary = summarise(pod);
    let restarts = match summary.last_restart {
        Some(last) if summary.restarts > 0 => format!("{} ({} ago)", summary.restarts, age::human(now - last)),
        _ => summary.restarts.to_string(),
    };
    let address = items(&pod["status"]["podIPs"]).first().map_or(&pod["status"]["podIP"], |first| &first["ip"]);
    vec![
        name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age::of(pod, now),
        or_none(text(address)),
        or_none(text(&pod["spec"]["nodeName"])),
        or_none(text(&pod["status"]["nominatedNodeName"])),
        readiness_gates(pod),
    ]
}

fn summarise(pod: &Value) -> PodSummary {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let mut summary = PodSummary { reason: text(&status["phase"]).to_owned(), ..PodSummary::default() };
    if !text(&status["reason"]).is_empty() {
        summary.reason = text(&status["reason"]).to_owned();
    }
    if condition(pod, "PodScheduled").is_some_and(|scheduled| scheduled["reason"] == "SchedulingGated") {
        summary.reason = "SchedulingGated".to_owned();
    }
    let sidecars: Vec<&str> = items(&spec["initContainers"])
        .iter()
        .filter(|container| container["restartPolicy"] == "Always")
        .map(|container| text(&container["name"]))
        .collect();
    summary.total = items(&spec["containers"]).len() + sidecars.len();

    let initializing = init_containers(pod, &sidecars, &mut summary);
    if !initializing || condition(pod, "Initialized").is_some_and(|initialized| initialized["status"] == "True") {
        containers(pod, &mut summary);
    }

    if !pod["metadata"]["deletionTimestamp"].is_null() {
        if status["reason"] == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if !matches!(text(&status["phase"]), "Succeeded" | "Failed") {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

/// Adds the init containers. Returns whether the pod waits for one of them.
fn init_containers(pod: &Value, sidecars: &[&str], summary: &mut PodSummary) -> bool {
    let statuses = items(&pod["status"]["initContainerStatuses"]);
    let (mut all_restarts, mut all_last) = (0, None);
    let mut initializing = None;
    for (index, container) in statuses.iter().enumerate() {
        let is_sidecar = sidecars.contains(&text(&container["name"]));
        all_restarts += number(&container["restartCount"]);
        all_last = all_last.max(last_restart(container));
        if is_sidecar {
            summary.restarts += number(&container["restartCount"]);
            summary.last_restart = summary.last_restart.max(last_restart(container));
        }
        let (terminated, waiting) = (&container["state"]["terminated"], text(&container["state"]["waiting"]["reason"]));
        if terminated.is_object() && number(&terminated["exitCode"]) == 0 {
            continue;
        }
        if is_sidecar && container["started"] == true {
            summary.ready += usize::from(container["ready"] == true);
            continue;
        }
        initializing = Some(if terminated.is_object() {
            format!("Init:{}", end_of(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{}", items(&pod["spec"]["initContainers"]).len())
        });
        break;
    }
    let Some(reason) = initializing else { return false };
    summary.reason = reason;
    let initialized = condition(pod, "Initialized").is_some_and(|condition| condition["status"] == "True");
    if !initialized {
        (summary.restarts, summary.last_restart) = (all_restarts, all_last);
    }
    true
}

fn containers(pod: &Value, summary: &mut PodSummary) {
    let mut running = false;
    for container in items(&pod["status"]["containerStatuses"]).iter().rev() {
        summary.restarts += number(&container["restartCount"]);
        summary.last_restart = summary.last_restart.max(last_restart(container));
        let (waiting, terminated) = (text(&container["state"]["waiting"]["reason"]), &container["state"]["terminated"]);
        if !waiting.is_empty() {
            summary.reason = waiting.to_owned();
        } else if terminated.is_object() {
            summary.reason = end_of(terminated);
        } else if container["ready"] == true && container["state"]["running"].is_object() {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && running {
        let ready = condition(pod, "Ready").is_some_and(|condition| condition["status"] == "True");
        summary.reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

/// The reason for which a container terminated.
fn end_of(terminated: &Value) -> String {
    match (text(&terminated["reason"]), number(&terminated["signal"])) {
        ("", 0) => format!("ExitCode:{}", number(&terminated["exitCode"])),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn last_restart(container: &Value) -> Option<OffsetDateTime> {
    age::parse(&container["lastState"]["terminated"]["finishedAt"])
}

fn condition<'a>(pod: &'a Value, type_: &str) -> Option<&'a Value> {
    items(&pod["status"]["conditions"]).iter().find(|condition| condition["type"] == type_)
}

fn readiness_gates(pod: &Value) -> Value {
    let gates = items(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return json!("<none>");
    }
    let passed = |gate: &&Value| {
        condition(pod, text(&gate["conditionType"])).is_some_and(|condition| condition["status"] == "True")
    };
    format!("{}/{}", gates.iter().filter(passed).count(), gates.len()).into()
}
