//! Kubernetes Events on objects that have no effect, or not the whole: exports, Gateways, gateway Services, rules of routing,
//! and objects of the kinds without effect, beside the notices of `/debug/clusters`, so that `kubectl describe` shows them where the user looks.
//!
//! As in client-go's recorder, an Event of the same object and reason is written once and then counted: its `count` and
//! `lastTimestamp` change. What lasts is repeated rarely, what is new waits until it has lasted for a moment, and all writes
//! together are limited. A remote cluster's credential may lack the permission; `isthmus status` then says so.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::Instant;

use crate::clusters::Clusters;
use crate::clusters::trouble::{self, Trouble};
use crate::inventory::{NoticedKind, ObjectNotice};
use crate::objects::{
    AuthorizationPolicy, DestinationRule, EnvoyFilter, Export, FederationPolicy, Gateway, HttpLocalRateLimitPolicy,
    HttpRouteGroup, Kind, PeerAuthentication, ProxyConfig, RateLimit, Record, RequestAuthentication, Server, Service,
    ServiceEntry, ServiceProfile, Sidecar, Text, TrafficSplit, VirtualService, WorkloadEntry, WorkloadGroup,
};
use crate::pipeline::State;

pub(crate) mod leases;

/// How often notices are looked at.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long a notice that may pass lasts before its Event: a LoadBalancer has its address, and a rollout its pods, after
/// some seconds.
const SETTLED: Duration = Duration::from_secs(30);
/// How often an Event is repeated while its notice lasts. An API server keeps Events for an hour.
const REPEAT: Duration = Duration::from_secs(30 * 60);
/// The number of Events that are written in one interval, over all clusters.
const WRITES: usize = 20;
/// Time between attempts in a cluster whose credential may not write Events.
const REFUSED: Duration = Duration::from_secs(10 * 60);

/// What is reported of a cluster whose credential may not write Events.
const SUBJECT: &str = "Events on its objects";

/// The component that Events name as their source.
const SOURCE: &str = "isthmus-controller";

/// Writes Events for as long as the controller runs.
pub(crate) async fn run(state: Arc<State>, clusters: Clusters) {
    let mut ledger = Ledger::default();
    loop {
        tokio::select! {
            () = state.stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let mut notices = state.inventory().object_notices();
        notices.extend(state.unwritten_exports());
        for notice in ledger.due(notices, Instant::now()) {
            let Some(client) = clusters.writer_or_reader(&notice.cluster).await else { continue };
            match write(client, &notice).await {
                Ok(()) => {
                    ledger.written(&notice, Instant::now());
                    clusters.set_unwritten(&notice.cluster, SUBJECT, None);
                }
                Err(Trouble::Refused(why)) => {
                    ledger.refused(notice.cluster.clone(), Instant::now());
                    clusters.set_unwritten(&notice.cluster, SUBJECT, Some(why));
                }
                Err(trouble) => {
                    tracing::debug!(cluster = %notice.cluster, %trouble, "an Event was not written; trying again")
                }
            }
        }
    }
}

/// The Events that have been written, and the notices that wait.
#[derive(Debug, Default)]
struct Ledger {
    notices: BTreeMap<ObjectNotice, Entry>,
    /// The clusters whose credentials do not permit Events, and until when.
    refused: BTreeMap<Text, Instant>,
}

#[derive(Debug)]
struct Entry {
    since: Instant,
    written: Option<Instant>,
}

impl Ledger {
    /// Takes the present notices, and returns those whose Event is due.
    fn due(&mut self, notices: BTreeSet<ObjectNotice>, now: Instant) -> Vec<ObjectNotice> {
        self.notices.retain(|notice, _| notices.contains(notice));
        self.refused.retain(|_, until| *until > now);
        for notice in notices {
            self.notices.entry(notice).or_insert(Entry { since: now, written: None });
        }
        let due = |notice: &ObjectNotice, entry: &Entry| match (entry.written, notice.kind) {
            (None, NoticedKind::WithoutEffect(_)) => true,
            (None, NoticedKind::Watched(_) | NoticedKind::Annotated) => {
                now.saturating_duration_since(entry.since) >= SETTLED
            }
            (Some(at), _) => now.saturating_duration_since(at) >= REPEAT,
        };
        let permitted = |notice: &ObjectNotice| !self.refused.contains_key(&notice.cluster);
        let mut all: Vec<_> =
            self.notices.iter().filter(|(notice, entry)| due(notice, entry) && permitted(notice)).collect();
        // First those that have no Event yet.
        all.sort_by_key(|(_, entry)| entry.written);
        all.into_iter().take(WRITES).map(|(notice, _)| notice.clone()).collect()
    }

    fn written(&mut self, notice: &ObjectNotice, now: Instant) {
        if let Some(entry) = self.notices.get_mut(notice) {
            entry.written = Some(now);
        }
    }

    fn refused(&mut self, cluster: Text, now: Instant) {
        self.refused.insert(cluster, now + REFUSED);
    }
}

/// Writes the Event of a notice, or counts it if it exists.
async fn write(client: Client, notice: &ObjectNotice) -> Result<(), Trouble> {
    let resource = match notice.kind {
        NoticedKind::WithoutEffect(kind) => kind.resource(),
        NoticedKind::Watched(Kind::Export) => resource::<Export>(),
        NoticedKind::Watched(Kind::Gateway) => resource::<Gateway>(),
        NoticedKind::Watched(Kind::VirtualService) => resource::<VirtualService>(),
        NoticedKind::Watched(Kind::DestinationRule) => resource::<DestinationRule>(),
        NoticedKind::Watched(Kind::TrafficSplit) => resource::<TrafficSplit>(),
        NoticedKind::Watched(Kind::HttpRouteGroup) => resource::<HttpRouteGroup>(),
        NoticedKind::Watched(Kind::ServiceProfile) => resource::<ServiceProfile>(),
        NoticedKind::Watched(Kind::AuthorizationPolicy) => resource::<AuthorizationPolicy>(),
        NoticedKind::Watched(Kind::PeerAuthentication) => resource::<PeerAuthentication>(),
        NoticedKind::Watched(Kind::RequestAuthentication) => resource::<RequestAuthentication>(),
        NoticedKind::Watched(Kind::EnvoyFilter) => resource::<EnvoyFilter>(),
        NoticedKind::Watched(Kind::RateLimit) => resource::<RateLimit>(),
        NoticedKind::Watched(Kind::FederationPolicy) => resource::<FederationPolicy>(),
        NoticedKind::Watched(Kind::Server) => resource::<Server>(),
        NoticedKind::Watched(Kind::HttpLocalRateLimitPolicy) => resource::<HttpLocalRateLimitPolicy>(),
        NoticedKind::Watched(Kind::ServiceEntry) => resource::<ServiceEntry>(),
        NoticedKind::Watched(Kind::Sidecar) => resource::<Sidecar>(),
        NoticedKind::Watched(Kind::ProxyConfig) => resource::<ProxyConfig>(),
        NoticedKind::Watched(Kind::WorkloadEntry) => resource::<WorkloadEntry>(),
        NoticedKind::Watched(Kind::WorkloadGroup) => resource::<WorkloadGroup>(),
        NoticedKind::Annotated | NoticedKind::Watched(_) => resource::<Service>(),
    };
    let objects: Api<DynamicObject> = Api::namespaced_with(client.clone(), &notice.object.namespace, &resource);
    let object = objects.get_metadata_opt(&notice.object.name).await.map_err(|error| trouble::of(&error))?;
    // The object is gone, and its notice with the next list.
    let Some(object) = object else { return Ok(()) };
    let events = Api::<Event>::namespaced(client, &notice.object.namespace);
    let name = name(notice, object.metadata.uid.as_deref().unwrap_or_default());
    let now = Timestamp::now().to_string();
    let known = events.get_opt(&name).await.map_err(|error| trouble::of(&error))?;
    let sent = match known {
        Some(known) => {
            let count = known.count.unwrap_or(1).saturating_add(1);
            let patch = json!({"count": count, "lastTimestamp": now, "message": notice.message});
            events.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await
        }
        None => {
            let event = json!({
                "apiVersion": "v1", "kind": "Event",
                "metadata": {"name": name, "namespace": *notice.object.namespace},
                "involvedObject": {
                    "apiVersion": resource.api_version, "kind": resource.kind, "namespace": *notice.object.namespace,
                    "name": *notice.object.name, "uid": object.metadata.uid,
                },
                "reason": notice.reason(), "message": notice.message, "type": "Warning", "count": 1,
                "firstTimestamp": now, "lastTimestamp": now, "source": {"component": SOURCE},
                "reportingComponent": SOURCE, "reportingInstance": "",
            });
            let event = serde_json::from_value(event).map_err(|error| Trouble::Failed(error.to_string()))?;
            events.create(&PostParams::default(), &event).await
        }
    };
    sent.map(drop).map_err(|error| trouble::of(&error))
}

fn resource<T: Record>() -> ApiResource {
    ApiResource::erase::<T::Source>(&())
}

/// Returns the name of an Event: the same in every process, so that a restarted controller counts on.
fn name(notice: &ObjectNotice, uid: &str) -> String {
    let seed = foldhash::quality::FixedState::with_seed(0x6576_656e);
    let hash = seed.hash_one((uid, notice.reason(), &*notice.message));
    let name: String = notice.object.name.chars().take(200).collect();
    format!("{}.{hash:016x}", name.trim_end_matches(['.', '-']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use crate::objects::Key;

    const EVENTS: &str = "/api/v1/events";
    const EXPORTS: &str = "/apis/multicluster.x-k8s.io/v1alpha1/serviceexports";

    fn notice(cluster: &str, name: &str) -> ObjectNotice {
        ObjectNotice {
            cluster: cluster.into(),
            kind: NoticedKind::Watched(Kind::Export),
            object: Key::new("default", name),
            message: format!("ServiceExport default/{name} has no effect: the cluster has no such Service"),
        }
    }

    #[test]
    fn an_event_is_written_when_its_notice_has_lasted_and_rarely_again() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        let one = BTreeSet::from([notice("east", "a")]);
        let due =
            |ledger: &mut Ledger, notices: &BTreeSet<_>, at: Duration| ledger.due(notices.clone(), start + at).len();
        assert_eq!(due(&mut ledger, &one, Duration::ZERO), 0);
        assert_eq!(due(&mut ledger, &one, SETTLED), 1);
        ledger.written(&notice("east", "a"), start + SETTLED);
        assert_eq!(due(&mut ledger, &one, SETTLED + REPEAT / 2), 0);
        assert_eq!(due(&mut ledger, &one, SETTLED + REPEAT), 1);
        // A notice that comes and goes has no Event.
        assert_eq!(due(&mut ledger, &BTreeSet::new(), REPEAT * 2), 0);
        assert_eq!(due(&mut ledger, &one, REPEAT * 2), 0);
        // Many are written in turn, and none where they are not permitted.
        let many: BTreeSet<_> = (0..100).map(|i| notice("west", &i.to_string())).chain(one).collect();
        let begin = REPEAT * 3;
        assert_eq!(due(&mut ledger, &many, begin), 1);
        let first = ledger.due(many.clone(), start + begin + SETTLED);
        assert_eq!(first.len(), WRITES);
        first.iter().for_each(|notice| ledger.written(notice, start + begin + SETTLED));
        let second = ledger.due(many.clone(), start + begin + SETTLED);
        assert!(second.len() == WRITES && second.iter().all(|notice| !first.contains(notice)));
        ledger.refused("west".into(), start + begin + SETTLED);
        let rest = ledger.due(many, start + begin + SETTLED);
        assert!(rest.iter().all(|notice| &*notice.cluster == "east"));
    }

    #[tokio::test]
    async fn an_object_without_effect_has_an_event_at_once() {
        let kind = api::compatibility::kinds::find("telemetry.istio.io", "Telemetry").unwrap();
        let notice = ObjectNotice {
            cluster: "west".into(),
            kind: NoticedKind::WithoutEffect(kind),
            object: Key::new("shop", "issuer"),
            message: kind.notice("shop/issuer"),
        };
        let due = Ledger::default().due([notice.clone()].into(), Instant::now());
        assert_eq!(due, std::slice::from_ref(&notice));
        let west = Fake::start("t").await;
        const TELEMETRIES: &str = "/apis/telemetry.istio.io/v1/telemetries";
        west.put(TELEMETRIES, json!({"metadata": {"name": "issuer", "namespace": "shop", "uid": "u2"}}));
        write(west.client("t").await, &notice).await.unwrap();
        let event = west.get(EVENTS, "shop", &name(&notice, "u2")).unwrap();
        assert_eq!((&event["type"], &event["reason"]), (&json!("Warning"), &json!("NoEffect")));
        assert_eq!(event["involvedObject"]["apiVersion"], "telemetry.istio.io/v1");
        assert!(event["message"].as_str().unwrap().contains("has no effect"));
    }

    #[tokio::test]
    async fn an_event_is_written_once_and_counted() {
        let east = Fake::start("t").await;
        let notice = notice("east", "reviews");
        let client = east.client("t").await;
        assert_eq!(write(client.clone(), &notice).await, Ok(()), "the object is gone");
        assert!(east.writes().is_empty());
        east.put(EXPORTS, json!({"metadata": {"name": "reviews", "namespace": "default", "uid": "u1"}}));
        for expected in 1..4 {
            write(client.clone(), &notice).await.unwrap();
            let event = east.get(EVENTS, "default", &name(&notice, "u1")).unwrap();
            assert_eq!(event["count"], expected);
            assert_eq!(event["involvedObject"]["uid"], "u1");
            assert_eq!((&event["type"], &event["reason"]), (&json!("Warning"), &json!("NotExported")));
            assert!(event["message"].as_str().unwrap().contains("no such Service"));
        }
        east.forbid(EVENTS);
        assert!(matches!(write(client, &notice).await, Err(Trouble::Refused(_))));
    }
}
