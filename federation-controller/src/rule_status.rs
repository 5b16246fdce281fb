//! The status of rules of routing and security policies, in Istio's form: condition `Reconciled`, `observedGeneration`, and a
//! `validationMessages` entry for each problem.
//!
//! A status is written when it differs from the last one, a bounded number in each interval, objects with problems first. A
//! restarted controller reads each object before it writes, and writes nothing that is there.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::FixedState;
use futures_util::{StreamExt as _, stream};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::clusters::trouble::{self, Trouble};
use crate::inventory::RuleState;
use crate::objects::{
    AuthorizationPolicy, DestinationRule, Key, Kind, PeerAuthentication, Record, RequestAuthentication, RuleProblem,
    ServiceEntry, VirtualService, WorkloadEntry,
};
use crate::pipeline::State;

/// How often the states of rules are looked at.
const INTERVAL: Duration = Duration::from_secs(5);
/// The number of objects whose status is written in one interval.
const WRITES: usize = 200;
/// The number of writes at a time.
const AT_A_TIME: usize = 4;
/// Time between attempts while the credential does not permit them.
const REFUSED: Duration = Duration::from_secs(10 * 60);

/// The condition that the controller writes, as Istio's does.
const CONDITION: &str = "Reconciled";

/// Writes statuses for as long as the controller runs.
pub(crate) async fn run(state: Arc<State>, client: Client) {
    let mut written = Written::default();
    let mut refused: Option<Instant> = None;
    loop {
        tokio::select! {
            () = state.stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        if !state.ready() || refused.is_some_and(|until| Instant::now() < until) {
            continue;
        }
        refused = None;
        let states = state.inventory().rule_states();
        let due = written.due(states);
        let mut writes = stream::iter(due)
            .map(|of| async {
                let result = write(client.clone(), &of).await;
                (of, result)
            })
            .buffer_unordered(AT_A_TIME);
        while let Some((of, result)) = writes.next().await {
            match result {
                Ok(()) => written.note(&of),
                Err(Trouble::Refused(why)) if refused.is_none() => {
                    tracing::warn!(
                        why,
                        "the status of rules and policies is not written; permit patching the status of virtualservices, destinationrules, authorizationpolicies, peerauthentications and requestauthentications"
                    );
                    refused = Some(Instant::now() + REFUSED);
                }
                Err(trouble) => {
                    tracing::debug!(object = %of.object, %trouble, "a status was not written; trying again")
                }
            }
        }
    }
}

/// What has been written of each object.
#[derive(Debug, Default)]
struct Written {
    hashes: HashMap<(Kind, Key), u64>,
}

impl Written {
    /// Returns the states that differ from what was written, those with problems first.
    fn due(&mut self, states: Vec<RuleState>) -> Vec<RuleState> {
        let mut kept = HashMap::with_capacity(states.len());
        let mut due = Vec::new();
        for state in states {
            let key = (state.kind, state.object.clone());
            let known = self.hashes.remove(&key);
            if known == Some(hash(&state)) {
                kept.extend(known.map(|known| (key, known)));
            } else {
                due.push(state);
            }
        }
        self.hashes = kept;
        due.sort_by_key(|state| (state.problems.is_empty(), state.object.clone()));
        due.truncate(WRITES);
        due
    }

    fn note(&mut self, state: &RuleState) {
        self.hashes.insert((state.kind, state.object.clone()), hash(state));
    }
}

fn hash(state: &RuleState) -> u64 {
    FixedState::default().hash_one(state)
}

/// Writes the status of an object, if it differs.
async fn write(client: Client, state: &RuleState) -> Result<(), Trouble> {
    let resource = match state.kind {
        Kind::DestinationRule => resource::<DestinationRule>(),
        Kind::AuthorizationPolicy => resource::<AuthorizationPolicy>(),
        Kind::PeerAuthentication => resource::<PeerAuthentication>(),
        Kind::RequestAuthentication => resource::<RequestAuthentication>(),
        Kind::ServiceEntry => resource::<ServiceEntry>(),
        Kind::WorkloadEntry => resource::<WorkloadEntry>(),
        _ => resource::<VirtualService>(),
    };
    let objects: Api<DynamicObject> = Api::namespaced_with(client, &state.object.namespace, &resource);
    let object = objects.get_opt(&state.object.name).await.map_err(|error| trouble::of(&error))?;
    // An object that is gone has no state with the next interval, and one that has changed has another.
    let Some(object) = object.filter(|of| of.metadata.generation.unwrap_or_default() == state.generation) else {
        return Ok(());
    };
    let present = object.data.get("status").cloned().unwrap_or_default();
    let Some(status) = merged(&present, state, &Timestamp::now().to_string()) else { return Ok(()) };
    let patch = Patch::Merge(json!({"status": status}));
    let sent = objects.patch_status(&state.object.name, &PatchParams::default(), &patch).await;
    sent.map(drop).map_err(|error| trouble::of(&error))
}

fn resource<T: Record>() -> ApiResource {
    ApiResource::erase::<T::Source>(&())
}

/// Returns the status with which an object has the state, or `None` if it has it already. Conditions of others stay.
fn merged(present: &Value, state: &RuleState, now: &str) -> Option<Value> {
    let messages: Vec<Value> = state.problems.iter().map(message).collect();
    let (status, reason, text) = condition(state);
    let conditions = present["conditions"].as_array().cloned().unwrap_or_default();
    let (own, mut conditions): (Vec<Value>, Vec<Value>) =
        conditions.into_iter().partition(|condition| condition["type"] == CONDITION);
    let before = own.first().unwrap_or(&Value::Null);
    let same = before["status"] == status && before["reason"] == reason && before["message"] == text;
    let none = Vec::new();
    let same_messages = *present["validationMessages"].as_array().unwrap_or(&none) == messages;
    if same && same_messages && present["observedGeneration"].as_i64() == Some(state.generation) {
        return None;
    }
    let since = match before["lastTransitionTime"].as_str() {
        Some(since) if before["status"] == status => since,
        _ => now,
    };
    conditions.push(json!({
        "type": CONDITION, "status": status, "reason": reason, "message": text,
        "lastTransitionTime": since, "lastProbeTime": now,
    }));
    Some(json!({
        "observedGeneration": state.generation, "conditions": conditions, "validationMessages": messages,
    }))
}

/// Returns status, reason and message of the condition.
fn condition(state: &RuleState) -> (&'static str, &'static str, String) {
    match (state.refused, state.in_force, state.problems.len()) {
        (true, true, _) => ("False", "Invalid", "this version is invalid: the last valid one stays in effect".into()),
        (true, false, _) => ("False", "Invalid", "it is invalid, and has no effect".into()),
        (false, _, 0) => ("True", "InEffect", "the controller has compiled it for the proxies".into()),
        (false, _, problems) => {
            ("True", "InEffect", format!("the controller has compiled it for the proxies, with {problems} messages"))
        }
    }
}

/// Returns a problem as Istio's `validationMessages` have it, with its text.
fn message(of: &RuleProblem) -> Value {
    let code = of.code.to_ascii_lowercase();
    json!({
        "type": {"code": *of.code},
        "level": if of.error { "ERROR" } else { "WARNING" },
        "documentationUrl": format!("https://istio.io/latest/docs/reference/config/analysis/{code}/"),
        "message": *of.text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    const VIRTUAL_SERVICES: &str = "/apis/networking.istio.io/v1/virtualservices";

    fn state(name: &str, problems: &[(bool, &str)]) -> RuleState {
        let problem =
            |(error, text): &(bool, &str)| RuleProblem { error: *error, code: "IST0101".into(), text: (*text).into() };
        RuleState {
            kind: Kind::VirtualService,
            object: Key::new("default", name),
            generation: 2,
            refused: false,
            in_force: true,
            problems: problems.iter().map(problem).collect(),
        }
    }

    #[test]
    fn a_status_is_due_when_it_differs_and_problems_come_first() {
        let mut written = Written::default();
        let (good, bad) = (state("a", &[]), state("b", &[(true, "x")]));
        let due = written.due(vec![good.clone(), bad.clone()]);
        assert_eq!(due, [bad.clone(), good.clone()]);
        written.note(&good);
        written.note(&bad);
        assert!(written.due(vec![good.clone(), bad.clone()]).is_empty());
        assert_eq!(written.due(vec![RuleState { generation: 3, ..good.clone() }]).len(), 1);
        assert_eq!(written.due(vec![good, bad]).len(), 2, "an object that was gone is new");
    }

    #[tokio::test]
    async fn a_status_is_written_once_and_keeps_the_conditions_of_others() {
        let west = Fake::start("t").await;
        let other = json!({"type": "Other", "status": "True"});
        west.put(
            VIRTUAL_SERVICES,
            json!({"metadata": {"name": "a", "namespace": "default", "generation": 2},
            "spec": {"hosts": ["a"]}, "status": {"conditions": [other]}}),
        );
        let client = west.client("t").await;
        write(client.clone(), &state("a", &[(true, "http[0]: no such host")])).await.unwrap();
        let status = west.get(VIRTUAL_SERVICES, "default", "a").unwrap()["status"].clone();
        assert_eq!((&status["conditions"][0], &status["observedGeneration"]), (&other, &json!(2)));
        let condition = &status["conditions"][1];
        assert_eq!((&condition["type"], &condition["status"]), (&json!("Reconciled"), &json!("True")));
        let message = &status["validationMessages"][0];
        assert_eq!((&message["type"]["code"], &message["level"]), (&json!("IST0101"), &json!("ERROR")));
        assert!(west.writes().iter().all(|write| write.ends_with("/virtualservices/a/status")), "{:?}", west.writes());
        write(client.clone(), &state("a", &[(true, "http[0]: no such host")])).await.unwrap();
        assert_eq!(west.writes().len(), 1, "nothing differs");
        let refused = RuleState { refused: true, ..state("a", &[(true, "invalid")]) };
        write(client.clone(), &refused).await.unwrap();
        let status = west.get(VIRTUAL_SERVICES, "default", "a").unwrap()["status"].clone();
        assert_eq!(
            (&status["conditions"][1]["status"], status["conditions"].as_array().unwrap().len()),
            (&json!("False"), 2)
        );
        // The object has changed since, or is gone.
        for of in [RuleState { generation: 1, ..state("a", &[]) }, state("gone", &[])] {
            write(client.clone(), &of).await.unwrap();
        }
        assert_eq!(west.writes().len(), 2);
    }
}
