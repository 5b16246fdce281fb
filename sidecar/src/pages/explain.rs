//! The page `/explain`: where a request goes, by which route, to which endpoints in which shares, and who has to answer there.
//! The data path's own code decides it ([`crate::explain`]); this is its form. `isthmus explain` shows it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use balance::{Algorithm, EndpointState, Locality};
use proxy::exchange::outbound::explain::{DestinationForecast, Explanation};
use proxy::failure::Failure;
use proxy::mesh::MeshSnapshot;
use proxy::upstream::Candidate;
use runtime::admin::{Query, Reply};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use wire::client::Link;

use super::Shown;
use crate::explain::{Explained, Question};

mod measured;
mod route;
mod tiers;

/// The largest number of endpoints of a destination that are listed; the rest is counted.
const LISTED: usize = 200;

/// Answers the question of a query.
pub(super) fn answer(shown: Shown, query: &Query) -> impl Future<Output = Reply> + Send + use<> {
    let question = match query.get("url") {
        None => Err("name a URL: /explain?url=http://reviews:9080/".to_owned()),
        Some(url) => Question::parse(url, query.get("method").unwrap_or_default(), query.all("header")),
    };
    let question = question.map(|question| question.measured(query.get("measure") == Some("true")));
    async move {
        let refused = |status, why: String| Reply::text(format!("{why}\n")).with_status(status);
        let question = match question {
            Ok(question) => question,
            Err(why) => return refused(400, why),
        };
        let Some(questions) = shown.questions.get() else {
            return refused(503, "the sidecar has not started: it has no identity yet".to_owned());
        };
        let about = json!({"url": question.url, "method": question.method.as_str(), "host": question.host,
            "port": question.port});
        let (reply, answer) = oneshot::channel();
        if questions.try_send((question, reply)).is_err() {
            return refused(503, "other questions wait for answers; ask again".to_owned());
        }
        match answer.await {
            Ok(explained) => Reply::json(&document(&explained, about, &shown)),
            Err(_) => refused(504, "the sidecar found no answer in time: does the controller answer?".to_owned()),
        }
    }
}

fn document(explained: &Explained, mut document: Value, shown: &Shown) -> Value {
    let snapshot = shown.newest().unwrap_or_default();
    document["caller"] = caller(&snapshot, shown);
    document["controller"] = link(&explained.link);
    document["name"] = match &explained.name {
        Ok(found) => json!({
            "full": found.name,
            "address": found.address.to_string(),
            "by": match (&found.name, found.by_mesh) {
                (None, _) => "address",
                (Some(_), true) => "mesh",
                (Some(_), false) => "dns",
            },
            "error": null,
        }),
        Err(why) => json!({"full": null, "address": null, "by": null, "error": why}),
    };
    document["workers"] = json!(explained.workers.len());
    let Some(first) = explained.workers.first() else {
        document["service"] = Value::Null;
        document["destinations"] = json!([]);
        return document;
    };
    document["service"] = json!(&*first.host);
    document["inMesh"] = json!(first.in_mesh);
    document["protocol"] = json!(super::protocol(first.protocol));
    document["as"] = json!(if first.as_request { "request" } else { "connection" });
    document["outboundPolicy"] = json!(snapshot.outbound_policy().as_str());
    document["route"] = first.routes.as_ref().map_or(Value::Null, |(table, at)| route::document(table, *at));
    document["failure"] = first.failure.as_ref().map_or(Value::Null, failure);
    document["measured"] = first.measured.iter().map(measured::document).collect();
    let own = snapshot.own.as_ref().map(|own| own.locality.clone()).unwrap_or_default();
    let destinations = first.destinations.iter().enumerate();
    document["destinations"] =
        destinations.map(|(at, of)| destination(of, at, &explained.workers, &own, &snapshot)).collect();
    document
}

fn caller(snapshot: &MeshSnapshot, shown: &Shown) -> Value {
    let own = snapshot.own.as_ref();
    json!({
        "name": shown.node.get(),
        "cluster": own.map(|own| &*own.cluster),
        "network": own.map(|own| &*own.network),
        "locality": own.map(|own| own.locality.to_string()),
        "address": shown.address.get().map(ToString::to_string),
        "identity": shown.identity.get().map(|identity| identity.id().as_str().to_owned()),
    })
}

fn link(link: &Link) -> Value {
    let seconds = |since: &SystemTime| since.elapsed().unwrap_or_default().as_secs_f64();
    match link {
        Link::Connecting => json!({"state": "connecting", "sinceSeconds": null, "reason": null}),
        Link::Connected { since } => json!({"state": "connected", "sinceSeconds": seconds(since), "reason": null}),
        Link::Lost { since, error } => json!({"state": "lost", "sinceSeconds": seconds(since), "reason": error}),
    }
}

/// Returns the answer that the proxy gives itself.
fn failure(failure: &Failure) -> Value {
    let reply = failure.local_reply();
    json!({"status": reply.status.as_u16(), "flags": reply.flags.to_string(), "reason": failure.to_string()})
}

/// Returns a destination, as all workers see it: shares are the mean of theirs.
fn destination(
    of: &DestinationForecast,
    at: usize,
    workers: &[Explanation],
    own: &Locality,
    snapshot: &MeshSnapshot,
) -> Value {
    let seen: Vec<&DestinationForecast> = workers.iter().filter_map(|worker| worker.destinations.get(at)).collect();
    let labels: serde_json::Map<_, _> =
        of.labels.iter().map(|(key, value)| (key.to_string(), json!(&**value))).collect();
    let mut value = json!({
        "host": &*of.host,
        "port": of.port,
        "subset": &*of.subset,
        "labels": labels,
        "percent": percent(of.share),
        "policies": of.policies.iter().map(|name| &**name).collect::<Vec<_>>(),
        "algorithm": algorithm(of.algorithm),
        "byHash": of.by_hash,
        "order": tiers::order(of.order),
        "failure": null,
        "panic": false,
        "tiers": [],
        "endpoints": [],
        "omitted": 0,
    });
    let forecast = match &of.forecast {
        Ok(forecast) => forecast,
        Err(why) => {
            value["failure"] = failure(why);
            return value;
        }
    };
    value["cluster"] = json!(&*forecast.name);
    value["failure"] = forecast.failure.as_ref().map_or(Value::Null, failure);
    value["panic"] = json!(seen.iter().any(|of| of.forecast.as_ref().is_ok_and(|of| of.panic)));
    let mut endpoints = means(&forecast.candidates, &seen);
    value["tiers"] = tiers::document(&endpoints, of.order, own);
    endpoints.sort_by(|one, other| {
        let by_share = other.share.total_cmp(&one.share);
        one.of.rank.cmp(&other.of.rank).then(by_share).then_with(|| one.of.id.cmp(&other.of.id))
    });
    value["omitted"] = json!(endpoints.len().saturating_sub(LISTED));
    let now = Instant::now();
    let known = snapshot.services.get(&of.host).and_then(|service| service.endpoints.as_deref()).unwrap_or_default();
    let behind = |candidate: &Candidate| {
        let (id, _) = candidate.id.rsplit_once('|').filter(|_| candidate.target.remote)?;
        // The weight of a summary is the number of ready endpoints behind the gateway.
        known.iter().find(|endpoint| *endpoint.id == *id).map(|endpoint| endpoint.weight)
    };
    let listed = endpoints.iter().take(LISTED).map(|endpoint| {
        let mut value = candidate(endpoint, of, own, now);
        value["endpointsBehind"] = json!(behind(endpoint.of));
        value
    });
    value["endpoints"] = listed.collect();
    value
}

/// An endpoint, as all workers see it.
struct Mean<'a> {
    of: &'a Candidate,
    /// The mean of the workers' shares.
    share: f64,
    /// The number of workers that have ejected it, and of those that are about to probe it.
    ejected: usize,
    probing: usize,
    /// The longest rest of an ejection.
    until: Option<Instant>,
    in_flight: u32,
}

fn means<'a>(candidates: &'a [Candidate], seen: &[&DestinationForecast]) -> Vec<Mean<'a>> {
    let mut means: Vec<Mean<'a>> = candidates
        .iter()
        .map(|of| Mean { of, share: 0.0, ejected: 0, probing: 0, until: None, in_flight: 0 })
        .collect();
    let at: HashMap<Arc<str>, usize> = candidates.iter().enumerate().map(|(at, of)| (of.id.clone(), at)).collect();
    for candidate in seen.iter().filter_map(|of| of.forecast.as_ref().ok()).flat_map(|of| &of.candidates) {
        let Some(at) = at.get(&candidate.id) else { continue };
        let mean = &mut means[*at];
        mean.share += candidate.share / seen.len() as f64;
        mean.in_flight += candidate.in_flight;
        match candidate.state {
            EndpointState::InUse { .. } => {}
            EndpointState::Ejected { until, .. } => {
                mean.ejected += 1;
                mean.until = mean.until.max(Some(until));
            }
            EndpointState::Probation { .. } => mean.probing += 1,
        }
    }
    means
}

fn candidate(mean: &Mean<'_>, of: &DestinationForecast, own: &Locality, now: Instant) -> Value {
    let target = &mean.of.target;
    let tls = target.tls.as_ref();
    let names = |of: &[Arc<str>]| of.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let identities: Option<Vec<_>> =
        tls.map(|tls| tls.expected.identities().iter().map(|id| id.as_str().to_owned()).collect());
    json!({
        "address": target.address.to_string(),
        "throughGateway": target.remote,
        "cluster": &*target.cluster,
        "workload": &*target.labels.workload,
        "locality": mean.of.locality.to_string(),
        "tier": tiers::name(mean.of.rank, of.order, own),
        "health": super::health(mean.of.health),
        "weight": mean.of.weight,
        "percent": percent(of.share * mean.share),
        "ejectedByWorkers": mean.ejected,
        "ejectedForSeconds": mean.until.map(|until| until.saturating_duration_since(now).as_secs_f64()),
        "probedByWorkers": mean.probing,
        "requestsInProgress": mean.in_flight,
        "tls": match (tls, &target.origination) {
            (Some(_), _) => "mutual",
            (None, Some(_)) => "originated",
            (None, None) => "none",
        },
        "serverName": tls.map(|tls| tls.sni.to_str()),
        "identities": identities,
        "issuers": tls.and_then(|tls| tls.expected.clusters()).map(names),
    })
}

/// Returns a share in percent, with two decimals.
fn percent(share: f64) -> f64 {
    (share * 10_000.0).round() / 100.0
}

fn algorithm(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::LeastRequest => "LEAST_REQUEST",
        Algorithm::RoundRobin => "ROUND_ROBIN",
        Algorithm::Random => "RANDOM",
        Algorithm::RingHash { .. } => "RING_HASH",
        Algorithm::Maglev { .. } => "MAGLEV",
    }
}
