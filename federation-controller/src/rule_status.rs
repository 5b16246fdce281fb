//! The status of rules of routing and security policies, of any API, in Istio's form: condition `Reconciled`,
//! `observedGeneration`, and a `validationMessages` entry for each problem. Policies and limits have a condition `Enforced` as well
//! ([`enforcement`]).
//!
//! A status is written when it differs from the last one, a bounded number in each interval, objects with problems first. A
//! restarted controller reads each object before it writes, and writes nothing that is there.

mod enforcement;
#[cfg(test)]
mod tests;

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

use enforcement::{Enforcement, Enforcements, ProxyCount};

use crate::clusters::trouble::{self, Trouble};
use crate::discovery::Shared;
use crate::inventory::{CONFLICT, Inventory, MAX_PROBLEMS as SHOWN_PROBLEMS, NO_TARGET, REFUSED_EXPORT, RuleState};
use crate::objects::{
    AuthorizationPolicy, DestinationRule, EnvoyFilter, FederationPolicy, Gateway, HttpLocalRateLimitPolicy,
    HttpRouteGroup, Key, Kind, PeerAuthentication, ProxyConfig, RateLimit, Record, RequestAuthentication, RuleProblem,
    Server, ServiceEntry, ServiceProfile, Sidecar, TrafficSplit, VirtualService, WorkloadEntry, WorkloadGroup,
};

/// How often the states of rules are looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// The number of objects whose status is written in one interval.
const WRITES: usize = 200;
/// The number of writes at a time.
const AT_A_TIME: usize = 4;
/// Time between attempts while the credential does not permit them.
const REFUSED: Duration = Duration::from_secs(10 * 60);

/// How often they are looked at while proxies have not acknowledged a policy.
const SOON: Duration = Duration::from_millis(500);

/// The condition that the controller writes, as Istio's does.
const CONDITION: &str = "Reconciled";
/// The condition of security policies: whether the proxies that they select have acknowledged them.
const ENFORCED: &str = "Enforced";
/// The condition of FederationPolicies: whether they refuse exports.
const REFUSING: &str = "Refusing";
/// The condition of Linkerd's policies.
const ACCEPTED: &str = "Accepted";

/// Writes statuses for as long as the controller runs.
pub(crate) async fn run(shared: Arc<Shared>, client: Client) {
    let state = &shared.state;
    let mut written = Written::default();
    let mut enforcements = Enforcements::default();
    let mut refused: Option<Instant> = None;
    loop {
        let pause = if enforcements.any_waiting() { SOON } else { INTERVAL };
        tokio::select! {
            () = state.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        if !state.ready() || refused.is_some_and(|until| Instant::now() < until) {
            continue;
        }
        refused = None;
        let (states, published) = tokio::select! {
            () = state.stop.cancelled() => return,
            read = state.read_published(Inventory::rule_states) => read,
        };
        enforcements.note(&states, published, Instant::now());
        enforcements.update(&state.inventory(), &shared.proxies, Instant::now());
        let states = states.into_iter().map(|state| {
            let enforcement = enforcements.of(&state);
            StatusOf { state, enforcement }
        });
        let due = written.due(states.collect());
        let mut writes = stream::iter(due)
            .map(|of| async {
                let result = write(client.clone(), &of).await;
                (of, result)
            })
            .buffer_unordered(AT_A_TIME);
        while let Some((of, result)) = writes.next().await {
            match result {
                // Definitions that other meshes install may lack the status.
                Ok(()) | Err(Trouble::Missing) => written.note(&of),
                Err(Trouble::Refused(why)) if refused.is_none() => {
                    tracing::warn!(
                        why,
                        "the status of rules and policies is not written; permit patching the status of virtualservices, gateways, destinationrules, trafficsplits, httproutegroups, serviceprofiles, envoyfilters, ratelimits, federationpolicies, httplocalratelimitpolicies, servers, authorizationpolicies, peerauthentications and requestauthentications"
                    );
                    refused = Some(Instant::now() + REFUSED);
                }
                Err(trouble) => {
                    tracing::debug!(object = %of.state.object, %trouble, "a status was not written; trying again")
                }
            }
        }
    }
}

/// What the status of an object says.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct StatusOf {
    state: RuleState,
    /// Of a policy that is not refused.
    enforcement: Option<Enforcement>,
}

/// What has been written of each object.
#[derive(Debug, Default)]
struct Written {
    hashes: HashMap<(Kind, Key), u64>,
}

impl Written {
    /// Returns the states that differ from what was written, those with problems first.
    fn due(&mut self, statuses: Vec<StatusOf>) -> Vec<StatusOf> {
        let mut kept = HashMap::with_capacity(statuses.len());
        let mut due = Vec::new();
        for of in statuses {
            let key = (of.state.kind, of.state.object.clone());
            let known = self.hashes.remove(&key);
            if known == Some(hash(&of)) {
                kept.extend(known.map(|known| (key, known)));
            } else {
                due.push(of);
            }
        }
        self.hashes = kept;
        due.sort_by_key(|of| (of.state.problems.is_empty(), of.state.object.clone()));
        due.truncate(WRITES);
        due
    }

    fn note(&mut self, of: &StatusOf) {
        self.hashes.insert((of.state.kind, of.state.object.clone()), hash(of));
    }
}

fn hash(of: &StatusOf) -> u64 {
    FixedState::default().hash_one(of)
}

/// Writes the status of an object, if it differs.
async fn write(client: Client, of: &StatusOf) -> Result<(), Trouble> {
    let state = &of.state;
    let resource = match state.kind {
        Kind::Gateway => resource::<Gateway>(),
        Kind::DestinationRule => resource::<DestinationRule>(),
        Kind::AuthorizationPolicy => resource::<AuthorizationPolicy>(),
        Kind::PeerAuthentication => resource::<PeerAuthentication>(),
        Kind::RequestAuthentication => resource::<RequestAuthentication>(),
        Kind::EnvoyFilter => resource::<EnvoyFilter>(),
        Kind::RateLimit => resource::<RateLimit>(),
        Kind::FederationPolicy => resource::<FederationPolicy>(),
        Kind::Server => resource::<Server>(),
        Kind::HttpLocalRateLimitPolicy => resource::<HttpLocalRateLimitPolicy>(),
        Kind::ServiceEntry => resource::<ServiceEntry>(),
        Kind::Sidecar => resource::<Sidecar>(),
        Kind::ProxyConfig => resource::<ProxyConfig>(),
        Kind::WorkloadEntry => resource::<WorkloadEntry>(),
        Kind::WorkloadGroup => resource::<WorkloadGroup>(),
        Kind::TrafficSplit => resource::<TrafficSplit>(),
        Kind::HttpRouteGroup => resource::<HttpRouteGroup>(),
        Kind::ServiceProfile => resource::<ServiceProfile>(),
        _ => resource::<VirtualService>(),
    };
    let objects: Api<DynamicObject> = Api::namespaced_with(client, &state.object.namespace, &resource);
    let object = objects.get_opt(&state.object.name).await.map_err(|error| trouble::of(&error))?;
    // An object that is gone has no state with the next interval, and one that has changed has another.
    let Some(object) = object.filter(|of| of.metadata.generation.unwrap_or_default() == state.generation) else {
        return Ok(());
    };
    let present = object.data.get("status").cloned().unwrap_or_default();
    let Some(status) = merged(&present, of, &Timestamp::now().to_string()) else { return Ok(()) };
    let patch = Patch::Merge(json!({"status": status}));
    let sent = objects.patch_status(&state.object.name, &PatchParams::default(), &patch).await;
    sent.map(drop).map_err(|error| trouble::of(&error))
}

fn resource<T: Record>() -> ApiResource {
    ApiResource::erase::<T::Source>(&())
}

/// Returns the status with which an object has the state, or `None` if it has it already. Conditions of others stay.
fn merged(present: &Value, of: &StatusOf, now: &str) -> Option<Value> {
    let state = &of.state;
    let messages: Vec<Value> = state.problems.iter().map(message).collect();
    let same_version = present["observedGeneration"].as_i64() == Some(state.generation);
    let conditions = present["conditions"].as_array().cloned().unwrap_or_default();
    let (accepts, refuses) = (accepted(state), refusing(state));
    let further = [(ACCEPTED, accepts.is_some()), (REFUSING, refuses.is_some())];
    let further = further.into_iter().filter(|(_, written)| *written).map(|(name, _)| name);
    let names: Vec<&str> = [CONDITION, ENFORCED].into_iter().chain(further).collect();
    let (own, mut conditions): (Vec<Value>, Vec<Value>) =
        conditions.into_iter().partition(|of| names.iter().any(|name| of["type"] == **name));
    let none = Vec::new();
    let mut same = same_version && *present["validationMessages"].as_array().unwrap_or(&none) == messages;
    let mut wanted = vec![(CONDITION, condition(state))];
    wanted.extend(enforced(of).map(|condition| (ENFORCED, condition)));
    wanted.extend(accepts.map(|condition| (ACCEPTED, condition)));
    wanted.extend(refuses.map(|condition| (REFUSING, condition)));
    same &= own.len() == wanted.len();
    for (kind, (status, reason, text)) in wanted {
        let before = own.iter().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null);
        if kind == ENFORCED && status == "False" && same_version && before["status"] == "True" {
            // A controller that has restarted does not know yet what the proxies have, which keep it.
            conditions.push(before.clone());
            continue;
        }
        same &= before["status"] == status && before["reason"] == reason && before["message"] == text;
        let since = match before["lastTransitionTime"].as_str() {
            Some(since) if before["status"] == status => since,
            _ => now,
        };
        conditions.push(json!({
            "type": kind, "status": status, "reason": reason, "message": text,
            "lastTransitionTime": since, "lastProbeTime": now, "observedGeneration": state.generation,
        }));
    }
    let status =
        || json!({"observedGeneration": state.generation, "conditions": conditions, "validationMessages": messages});
    (!same).then(status)
}

/// Returns status, reason and message of the condition `Enforced`.
fn enforced(of: &StatusOf) -> Option<(&'static str, &'static str, String)> {
    let proxies = |count: ProxyCount| match count.away {
        0 => format!("{} of {} connected proxies", count.acknowledged, count.connected()),
        away => format!("{} of {} connected proxies; not connected: {away}", count.acknowledged, count.connected()),
    };
    match of.enforcement? {
        Enforcement::InForce(count) => Some(("True", "Acknowledged", format!("in force in {}", proxies(count)))),
        Enforcement::Waiting(count) => Some(("False", "Waiting", format!("acknowledged by {}", proxies(count)))),
    }
}

/// Returns status, reason and message of the condition `Accepted`, as Linkerd writes it.
fn accepted(state: &RuleState) -> Option<(&'static str, &'static str, String)> {
    if state.kind != Kind::HttpLocalRateLimitPolicy {
        return None;
    }
    let of = |code: &str| state.problems.iter().find(|problem| *problem.code == *code).map(|of| of.text.to_string());
    Some(match (of(NO_TARGET), of(CONFLICT)) {
        _ if state.refused => ("False", "Invalid", "it is invalid".to_owned()),
        (Some(text), _) => ("False", "NoMatchingTarget", text),
        (None, Some(text)) => ("False", "RateLimitReasonAlreadyExists", text),
        (None, None) => ("True", "Accepted", String::new()),
    })
}

/// Returns status, reason and message of the condition `Refusing`.
fn refusing(state: &RuleState) -> Option<(&'static str, &'static str, String)> {
    if state.kind != Kind::FederationPolicy {
        return None;
    }
    let count = state.problems.iter().filter(|problem| *problem.code == *REFUSED_EXPORT).count();
    Some(match count {
        0 => ("False", "NoneRefused", "no export is refused".to_owned()),
        1 => ("True", "ExportsRefused", "1 export".to_owned()),
        // A state has no more problems.
        SHOWN_PROBLEMS => ("True", "ExportsRefused", format!("{count} exports or more")),
        _ => ("True", "ExportsRefused", format!("{count} exports")),
    })
}

/// Returns status, reason and message of the condition.
fn condition(state: &RuleState) -> (&'static str, &'static str, String) {
    match (state.refused, state.in_force, state.problems.len()) {
        (true, true, _) => ("False", "Invalid", "this version is invalid: the last valid one stays in effect".into()),
        (true, false, _) => ("False", "Invalid", "it is invalid, and has no effect".into()),
        (false, _, 0) => ("True", "InEffect", "the controller has compiled it for the proxies".into()),
        (false, _, _) => {
            ("True", "InEffect", "the controller has compiled it for the proxies; see validationMessages".into())
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
