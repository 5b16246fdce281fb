//! The status of a pod, computed from the state of its containers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::slot::{ContainerRole, ContainerSlot, ContainerState, Termination};
use crate::node::container::own_image;
use crate::timestamp;

/// The input of a pod's status.
pub(super) struct PodFacts<'a> {
    pub pod: &'a Pod,
    pub slots: &'a [ContainerSlot],
    pub addresses: &'a [IpAddr],
    pub host: &'a [IpAddr],
    pub started_at: &'a str,
    /// Reason and message if the pod failed as a whole.
    pub failure: Option<(&'static str, String)>,
}

/// The value of each condition and the time of its last transition.
pub(super) type ConditionTimes = BTreeMap<&'static str, (bool, String)>;

/// Returns the status for the API server.
pub(super) fn status(facts: &PodFacts<'_>, since: &mut ConditionTimes) -> Value {
    let initialized = facts.slots.iter().all(ContainerSlot::passed);
    let phase = phase(facts);
    let lasting: Vec<_> = facts.slots.iter().filter(|slot| slot.role != ContainerRole::Init).collect();
    let unready: Vec<_> = lasting.iter().filter(|slot| !ready(slot)).map(|slot| slot.container.name.as_str()).collect();
    let gates = gates(facts.pod);
    let over = matches!(phase, "Succeeded" | "Failed");
    let reason = (!unready.is_empty()).then(|| match over {
        true => ("PodCompleted", String::new()),
        false => ("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" "))),
    });
    let containers_ready = unready.is_empty() && !over;
    let conditions: Vec<Value> = [
        ("PodReadyToStartContainers", !facts.addresses.is_empty() && !over, None),
        ("Initialized", initialized, None),
        ("Ready", containers_ready && gates.is_none(), reason.clone().or(gates)),
        ("ContainersReady", containers_ready, reason),
        ("PodScheduled", true, None),
    ]
    .into_iter()
    .map(|(kind, holds, reason)| condition(since, kind, holds, reason))
    .collect();

    let containers = |roles: &[ContainerRole]| -> Vec<Value> {
        let chosen = facts.slots.iter().filter(|slot| roles.contains(&slot.role));
        chosen.map(|slot| container(slot, initialized, facts.pod)).collect()
    };
    let list = |addresses: &[IpAddr]| addresses.iter().map(|address| json!({"ip": address})).collect::<Vec<_>>();
    let (reason, message) = facts.failure.clone().unzip();
    let mut status = json!({
        "phase": phase,
        "conditions": conditions,
        "hostIP": facts.host.first(),
        "hostIPs": list(facts.host),
        "podIP": facts.addresses.first(),
        "podIPs": list(facts.addresses),
        "startTime": facts.started_at,
        "qosClass": qos(facts.pod),
        "containerStatuses": containers(&[ContainerRole::Main]),
        "reason": reason,
        "message": message,
    });
    let init = containers(&[ContainerRole::Init, ContainerRole::Sidecar]);
    if !init.is_empty() {
        status["initContainerStatuses"] = init.into();
    }
    if let Value::Object(fields) = &mut status {
        fields.retain(|_, value| !value.is_null());
    }
    status
}

fn phase(facts: &PodFacts<'_>) -> &'static str {
    if facts.failure.is_some() {
        return "Failed";
    }
    let main = || facts.slots.iter().filter(|slot| slot.role == ContainerRole::Main);
    if main().all(|slot| slot.ended().is_some()) && facts.slots.iter().all(|slot| slot.running().is_none()) {
        let well = main().all(|slot| slot.ended().is_some_and(Termination::succeeded));
        return if well { "Succeeded" } else { "Failed" };
    }
    if main().all(|slot| slot.runs > 0) { "Running" } else { "Pending" }
}

fn ready(slot: &ContainerSlot) -> bool {
    match slot.role {
        ContainerRole::Init => slot.passed(),
        _ => slot.running().is_some_and(|running| running.started && running.ready),
    }
}

/// Returns the first readiness gate that is not True. Other programs set these conditions.
fn gates(pod: &Pod) -> Option<(&'static str, String)> {
    let wanted = pod.spec.as_ref()?.readiness_gates.as_ref()?;
    let held = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let holds = |kind: &str| held.iter().any(|condition| condition.type_ == kind && condition.status == "True");
    let missing = wanted.iter().find(|gate| !holds(&gate.condition_type))?;
    Some((
        "ReadinessGatesNotReady",
        format!("the status of pod readiness gate {:?} is not True", missing.condition_type),
    ))
}

fn condition(
    since: &mut ConditionTimes,
    kind: &'static str,
    holds: bool,
    reason: Option<(&'static str, String)>,
) -> Value {
    let now = || (holds, timestamp::seconds(Timestamp::now()));
    let entry = since.entry(kind).or_insert_with(now);
    if entry.0 != holds {
        *entry = now();
    }
    let mut value = json!({
        "type": kind,
        "status": if holds { "True" } else { "False" },
        "lastProbeTime": null,
        "lastTransitionTime": entry.1,
    });
    if let Some((reason, message)) = reason.filter(|_| !holds) {
        value["reason"] = reason.into();
        if !message.is_empty() {
            value["message"] = message.into();
        }
    }
    value
}

fn container(slot: &ContainerSlot, initialized: bool, pod: &Pod) -> Value {
    let image = slot.container.image.clone().unwrap_or_default();
    let mut value = json!({
        "name": slot.container.name,
        "image": image,
        "imageID": if own_image(&image).is_some() { format!("isthmus://{image}") } else { String::new() },
        "ready": ready(slot),
        "started": slot.running().is_some_and(|running| running.started),
        "restartCount": slot.runs.saturating_sub(1),
        "state": state(slot, initialized, pod),
        "lastState": slot.last.as_ref().map_or(json!({}), |last| json!({"terminated": terminated(last)})),
    });
    let id = match &slot.state {
        ContainerState::Running(running) => Some(&running.id),
        ContainerState::Ended(ended) => Some(&ended.id),
        ContainerState::Waiting { .. } => slot.last.as_ref().map(|last| &last.id),
    };
    if let Some(id) = id.filter(|id| !id.is_empty()) {
        value["containerID"] = format!("isthmus://{id}").into();
    }
    value
}

fn state(slot: &ContainerSlot, initialized: bool, pod: &Pod) -> Value {
    match &slot.state {
        ContainerState::Running(running) => json!({"running": {"startedAt": timestamp::seconds(running.started_at)}}),
        ContainerState::Ended(ended) => json!({"terminated": terminated(ended)}),
        ContainerState::Waiting { why: Some(why), .. } => {
            json!({"waiting": {"reason": why.reason, "message": why.message}})
        }
        ContainerState::Waiting { why: None, .. } => {
            let has_init = pod.spec.as_ref().is_some_and(|spec| spec.init_containers.iter().flatten().next().is_some());
            let turn = slot.role != ContainerRole::Main || initialized || !has_init;
            json!({"waiting": {"reason": if turn { "ContainerCreating" } else { "PodInitializing" }}})
        }
    }
}

fn terminated(ended: &Termination) -> Value {
    let mut value = json!({
        "exitCode": ended.exit.code(),
        "reason": ended.reason,
        "startedAt": timestamp::seconds(ended.started_at),
        "finishedAt": timestamp::seconds(ended.finished_at),
        "containerID": format!("isthmus://{}", ended.id),
    });
    if let net::process::Exit::Signal(signal) = ended.exit {
        value["signal"] = signal.into();
    }
    if let Some(message) = &ended.message {
        value["message"] = message.as_str().into();
    }
    value
}

/// Returns the pod's quality of service class (`pkg/apis/core/v1/helper/qos` of Kubernetes).
fn qos(pod: &Pod) -> &'static str {
    let containers =
        pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let (mut any, mut all) = (false, true);
    for container in containers {
        let resources = container.resources.clone().unwrap_or_default();
        let (limits, requests) = (resources.limits.unwrap_or_default(), resources.requests.unwrap_or_default());
        for name in ["cpu", "memory"] {
            let (limit, request) = (limits.get(name), requests.get(name));
            any |= limit.is_some() || request.is_some();
            all &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use net::process::Exit;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap()
    }

    fn status_of(pod: &Pod, slots: &[ContainerSlot]) -> Value {
        let facts = PodFacts {
            pod,
            slots,
            addresses: &["10.244.0.2".parse().unwrap(), "fd00:10:244::2".parse().unwrap()],
            host: &["203.0.113.1".parse().unwrap()],
            started_at: "2026-01-01T00:00:00Z",
            failure: None,
        };
        status(&facts, &mut ConditionTimes::new())
    }

    fn ended(code: i32) -> Termination {
        let now = Timestamp::now();
        let reason = if code == 0 { "Completed" } else { "Error" };
        Termination { exit: Exit::Code(code), reason, message: None, started_at: now, finished_at: now, id: "x".into() }
    }

    #[test]
    fn phases_follow_containers() {
        let pod = pod(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
        let mut slots = ContainerSlot::all(&pod);
        let first = status_of(&pod, &slots);
        assert_eq!(first["phase"], "Pending");
        assert_eq!(first["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
        assert_eq!(first["initContainerStatuses"][0]["state"]["waiting"]["reason"], "ContainerCreating");
        assert_eq!((&first["podIP"], &first["hostIP"]), (&"10.244.0.2".into(), &"203.0.113.1".into()));
        assert_eq!(first["podIPs"], json!([{"ip": "10.244.0.2"}, {"ip": "fd00:10:244::2"}]));
        slots[0].state = ContainerState::Ended(ended(0));
        slots[1].state = ContainerState::Ended(ended(0));
        let done = status_of(&pod, &slots);
        assert_eq!(done["phase"], "Succeeded");
        assert_eq!(done["conditions"][2]["reason"], "PodCompleted");
        slots[1].state = ContainerState::Ended(ended(3));
        let failed = status_of(&pod, &slots);
        assert_eq!(
            (&failed["phase"], &failed["containerStatuses"][0]["state"]["terminated"]["exitCode"]),
            (&"Failed".into(), &3.into())
        );
    }

    #[test]
    fn quality_of_service() {
        let with = |resources: Value| qos(&pod(json!({"containers": [{"name": "a", "resources": resources}]})));
        assert_eq!(with(json!({})), "BestEffort");
        assert_eq!(with(json!({"limits": {"cpu": "1", "memory": "1Mi"}})), "Guaranteed");
        assert_eq!(with(json!({"requests": {"cpu": "1"}})), "Burstable");
    }
}
