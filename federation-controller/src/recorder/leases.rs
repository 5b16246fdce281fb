//! Events of leases: each transition is an Event on the remote Secret by which the cluster has joined, in the controller's own
//! cluster, so that `kubectl describe secret` shows what happened and when.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::json;

use super::SOURCE;
use crate::clusters::Clusters;
use crate::clusters::trouble::{self, Trouble};
use crate::leases::Transition;
use crate::leases::lease::LeaseState;
use crate::pipeline::State;

/// How often transitions are looked for.
const INTERVAL: Duration = Duration::from_secs(1);

/// Writes Events for as long as the controller runs. An Event that cannot be written is tried again while its transition is
/// among the newest.
pub(crate) async fn run(state: Arc<State>, clusters: Clusters) {
    let mut written = 0;
    loop {
        tokio::select! {
            () = state.stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let transitions = state.inventory().leases().transitions_after(written);
        for (number, transition) in transitions {
            let statuses = clusters.statuses();
            let secret = statuses.iter().find(|of| of.name == transition.cluster).and_then(|of| of.secret.clone());
            // A cluster that has left has no secret to write to.
            let Some((namespace, name)) = secret.as_deref().and_then(|secret| secret.split_once('/')) else {
                written = number;
                continue;
            };
            match write(clusters.own_client().clone(), namespace, name, &transition).await {
                Ok(()) => written = number,
                Err(Trouble::Refused(why)) => {
                    tracing::warn!(cluster = %transition.cluster, why, "Events of leases are not written");
                    written = number;
                }
                Err(trouble) => {
                    tracing::debug!(%trouble, "an Event was not written; trying again");
                    break;
                }
            }
        }
    }
}

/// Writes the Event of a transition. One that was written before stays as it is.
async fn write(client: Client, namespace: &str, secret: &str, transition: &Transition) -> Result<(), Trouble> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = secrets.get_metadata_opt(secret).await.map_err(|error| trouble::of(&error))?;
    let Some(found) = found else { return Ok(()) };
    let since = transition.at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let at = Timestamp::new(i64::try_from(since.as_secs()).unwrap_or_default(), 0).unwrap_or_default().to_string();
    let cluster: String = transition.cluster.chars().filter(|of| of.is_ascii_alphanumeric()).take(100).collect();
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {
            "name": format!("lease-{}-{:x}", cluster.to_lowercase(), since.as_millis()), "namespace": namespace,
        },
        "involvedObject": {
            "apiVersion": "v1", "kind": "Secret", "namespace": namespace, "name": secret, "uid": found.metadata.uid,
        },
        "reason": reason(transition.to), "message": transition.message,
        "type": if transition.to == LeaseState::Fresh { "Normal" } else { "Warning" }, "count": 1,
        "firstTimestamp": at, "lastTimestamp": at, "source": {"component": SOURCE},
        "reportingComponent": SOURCE, "reportingInstance": "",
    });
    let event: Event = serde_json::from_value(event).map_err(|error| Trouble::Failed(error.to_string()))?;
    let events = Api::<Event>::namespaced(client, namespace);
    match events.create(&PostParams::default(), &event).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(trouble::of(&error)),
        Ok(_) => Ok(()),
    }
}

fn reason(to: LeaseState) -> &'static str {
    match to {
        LeaseState::Fresh => "LeaseRenewed",
        LeaseState::Stale => "LeaseStale",
        LeaseState::Drained => "LeaseDrained",
        LeaseState::Expired => "LeaseExpired",
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::fake::Fake;

    #[tokio::test]
    async fn a_transition_is_an_event_on_the_remote_secret_once() {
        const SECRETS: &str = "/api/v1/secrets";
        let west = Fake::start("t").await;
        let transition = Transition {
            cluster: "east".into(),
            from: LeaseState::Stale,
            to: LeaseState::Drained,
            at: UNIX_EPOCH + Duration::from_millis(1_000_500),
            message: "cluster east: dead".into(),
        };
        let write = || async {
            let client = west.client("t").await;
            write(client, "istio-system", "istio-remote-secret-east", &transition).await
        };
        assert_eq!(write().await, Ok(()), "the Secret is gone");
        assert!(west.writes().is_empty());
        west.put(
            SECRETS,
            json!({"metadata": {"name": "istio-remote-secret-east", "namespace": "istio-system", "uid": "u1"}}),
        );
        write().await.unwrap();
        let event = west.get("/api/v1/events", "istio-system", "lease-east-f4434").expect("an Event");
        assert_eq!((&event["reason"], &event["type"]), (&json!("LeaseDrained"), &json!("Warning")));
        assert_eq!(event["involvedObject"]["uid"], "u1");
        assert_eq!(
            (&event["firstTimestamp"], &event["message"]),
            (&json!("1970-01-01T00:16:40Z"), &json!("cluster east: dead"))
        );
        assert_eq!(write().await, Ok(()), "written once");
    }
}
