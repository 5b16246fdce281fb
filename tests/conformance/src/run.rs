//! Runs cases on a test bed: applies all configurations at once, and sends the requests of several cases at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::stream::{StreamExt as _, TryStreamExt as _, iter};
use serde_json::{Value, json};

use crate::bed::{Bed, CLIENTS};
use crate::case::{Case, CaseRequest, CaseService, Summary, replace};
use crate::client::{self, Order, Reply};
use crate::ledger::Seen;
use crate::outcome::{Arrival, Outcome};

/// Cases that run at the same time.
const AT_ONCE: usize = 6;
/// The time between objects of which one must be older: creation times are in seconds.
const OLDER: Duration = Duration::from_millis(1200);
/// After the route that is applied last: proxies receive clusters and routes one after the other.
const SETTLE: Duration = Duration::from_secs(2);
/// After the last response: copies of requests, and attempts that were given up, arrive on their own.
const LATE_ARRIVALS: Duration = Duration::from_millis(400);
/// The time within which proxies write their logs.
const LOGS: Duration = Duration::from_millis(1500);

/// What came of one request of a case, before it is summed up.
pub(crate) struct Raw {
    pub(crate) id: String,
    pub(crate) replies: Vec<Reply>,
    pub(crate) seen: Vec<Vec<Seen>>,
}

/// Applies the configurations of all cases, and waits until they are in force. Returns the cases of which an object is refused, and
/// why.
///
/// # Errors
/// Returns an error if a Service is refused, or the configuration is not in force in time.
pub async fn apply(bed: &Bed, cases: &[&Case]) -> Result<BTreeMap<String, String>> {
    let services = cases.iter().flat_map(|case| &case.services).map(service);
    bed.apply(services.collect()).await?;
    let certificates = bed.directory().display().to_string();
    let objects = cases.iter().flat_map(|case| case.config.iter().map(|object| (case.name.clone(), object.clone())));
    let objects = objects.map(|(case, mut object)| {
        let is_later = object.as_object_mut().is_some_and(|fields| fields.remove("later").is_some());
        replace(&mut object, "CERTIFICATES", &certificates);
        (is_later, (case, object))
    });
    let (later, first): (Vec<_>, Vec<_>) = objects.partition(|(is_later, _)| *is_later);
    let mut refused: BTreeMap<String, String> =
        bed.refused(first.into_iter().map(|(_, object)| object).collect()).await.into_iter().collect();
    if !later.is_empty() {
        tokio::time::sleep(OLDER).await;
        refused.extend(bed.refused(later.into_iter().map(|(_, object)| object).collect()).await);
    }
    bed.in_force(1, &CLIENTS).await?;
    tokio::time::sleep(SETTLE).await;
    Ok(refused)
}

/// Sends the requests of cases, and returns their outcomes by the case's name. `round` differs each time that cases are run.
///
/// # Errors
/// Returns an error if a client does not answer.
pub async fn run(bed: &Bed, cases: &[&Case], round: usize) -> Result<BTreeMap<String, Vec<Outcome>>> {
    let running = iter(cases.iter().copied()).map(|case| async move {
        let raw = requests(bed, case, round).await.with_context(|| format!("case {}", case.name))?;
        anyhow::Ok((case, raw))
    });
    let all: Vec<(&Case, Vec<Raw>)> = running.buffer_unordered(AT_ONCE).try_collect().await?;
    tokio::time::sleep(LOGS).await;
    let mut flags = BTreeMap::new();
    for client in CLIENTS {
        flags.extend(flags_of(&bed.proxy_log(client).await?));
    }
    let outcomes = all.into_iter().map(|(case, raw)| {
        let outcomes =
            case.requests.iter().zip(raw).map(|(request, raw)| summed_up(case, request, raw, &flags, &normal));
        (case.name.clone(), outcomes.collect())
    });
    Ok(outcomes.collect())
}

/// The flags in an access log, by the request's ID.
pub(crate) fn flags_of(log: &str) -> BTreeMap<String, String> {
    let of_line = |line: &str| {
        let mut words = line.split_whitespace();
        let (id, flag) = (words.next()?, words.next()?);
        // Their order says nothing: Envoy's is the one in which they were set.
        let mut all: Vec<&str> = flag.split(',').collect();
        all.sort_unstable();
        Some((id.to_owned(), all.join(",")))
    };
    log.lines().filter_map(of_line).collect()
}

fn service(service: &CaseService) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": service.name, "namespace": service.namespace, "annotations": service.annotations},
        "spec": {"selector": service.selector, "ports": service.ports},
    })
}

async fn requests(bed: &Bed, case: &Case, round: usize) -> Result<Vec<Raw>> {
    let mut all = Vec::new();
    for (index, request) in case.requests.iter().enumerate() {
        tokio::time::sleep(Duration::from_millis(request.pause)).await;
        let id = format!("{}/{round}/{index}", case.name);
        let to = request.to.as_deref().unwrap_or(&case.name);
        let service = if to.contains('.') { to.to_owned() } else { format!("{to}.shop") };
        let host = request.host.clone().unwrap_or_else(|| match request.port {
            80 => to.to_owned(),
            port => format!("{to}:{port}"),
        });
        let address = bed.address(&service)?;
        let host = host.replace("ADDRESS", &address.to_string());
        let mut headers = request.headers.clone();
        headers.extend(request.script.clone().map(|script| ("x-script".to_owned(), script)));
        let order = Order {
            address: (address, request.port).into(),
            protocol: request.protocol,
            method: request.method.clone(),
            host,
            path: request.path.clone(),
            headers,
            repeated: request.repeated.clone(),
            raw: request.raw,
            body: request.body.clone(),
            sni: request.sni.clone(),
            tls: request.tls.clone(),
            directory: bed.directory().to_owned(),
            proxied: request.proxied,
            id: id.clone(),
            times: request.times,
            concurrent: request.concurrent,
            reconnect: request.reconnect,
            cookies: request.cookies,
        };
        let replies = client::order(&bed.client_socket(&request.from), &order).await?;
        all.push(Raw { id, replies, seen: Vec::new() });
    }
    tokio::time::sleep(LATE_ARRIVALS).await;
    for raw in &mut all {
        raw.seen = (0..raw.replies.len()).map(|n| bed.ledger().take(&format!("{}.{n}", raw.id))).collect();
    }
    Ok(all)
}

/// What came of a request and its repetitions. `same` replaces in texts what differs from one lab to another.
pub(crate) fn summed_up(
    case: &Case,
    request: &CaseRequest,
    raw: Raw,
    flags: &BTreeMap<String, String>,
    same: &dyn Fn(&str) -> String,
) -> Outcome {
    let observe = &case.observe;
    let flag = |n: usize| flags.get(&format!("{}.{n}", raw.id)).cloned().unwrap_or_else(|| "none".to_owned());
    let version = |reply: &Reply| reply.headers.get("x-version").cloned();
    if request.times > 1 {
        let mut outcome = Outcome::default();
        for (n, reply) in raw.replies.iter().enumerate() {
            let mut key = reply.status.to_string();
            if request.summary == Summary::Counts {
                key.extend(version(reply).map(|version| format!(" {version}")));
            }
            if observe.flags {
                key.push_str(&format!(" {}", flag(n)));
            }
            *outcome.counts.entry(key).or_default() += 1;
        }
        match request.summary {
            Summary::Distinct => {
                let versions: BTreeSet<_> = raw.replies.iter().filter_map(version).collect();
                outcome.versions = u32::try_from(versions.len()).ok();
            }
            Summary::Counts => {
                for seen in raw.seen.into_iter().flatten() {
                    *outcome.arrived.entry(seen.version).or_default() += 1;
                }
            }
        }
        return outcome;
    }
    let Some(reply) = raw.replies.first() else { return Outcome::default() };
    let observed = |names: &[String], headers: &BTreeMap<String, String>| {
        let of = |name: &String| headers.get(name).map(|value| (name.clone(), same(value)));
        names.iter().filter_map(of).collect::<BTreeMap<_, _>>()
    };
    let arrival = |seen: Seen| Arrival {
        headers: observed(&observe.request_headers, &seen.headers),
        tls: observe.tls.then_some(seen.tls),
        port: observe.port.then_some(seen.port),
        version: seen.version,
        method: seen.method,
        host: same(&seen.host),
        path: seen.path,
    };
    let mut arrivals: Vec<Arrival> = raw.seen.into_iter().flatten().map(arrival).collect();
    arrivals.sort();
    Outcome {
        status: Some(reply.status),
        error: reply.error.clone(),
        grpc: reply.headers.get("grpc-status").cloned(),
        version: version(reply),
        headers: observed(&observe.response_headers, &reply.headers),
        body: observe.body.then(|| reply.body.clone()),
        handshake: observe.handshake.then(|| reply.handshake.clone()).flatten(),
        flags: observe.flags.then(|| flag(0)),
        milliseconds: observe.duration.then_some(reply.milliseconds),
        arrivals,
        ..Outcome::default()
    }
}

/// Replaces what differs from one lab to another: addresses of pods and Services with the ports of clients, and hashes in cookies.
pub(crate) fn normal(value: &str) -> String {
    normal_of(value, &|ip| Some(if ip.octets()[1] == 96 { "SERVICE" } else { "POD" }.to_owned()))
}

/// The same with names of addresses; those without a name stay.
pub(crate) fn normal_of(value: &str, named: &dyn Fn(Ipv4Addr) -> Option<String>) -> String {
    let mut text = String::new();
    let mut rest = value;
    while !rest.is_empty() {
        let address =
            rest.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(rest.len());
        let hash = rest.find(|character: char| !character.is_ascii_hexdigit()).unwrap_or(rest.len());
        let word = rest.find(|character: char| !character.is_ascii_alphanumeric()).unwrap_or(rest.len());
        if let Ok(ip) = rest[..address].parse::<Ipv4Addr>() {
            text.push_str(&named(ip).unwrap_or_else(|| ip.to_string()));
            rest = &rest[address..];
            let digits = rest.strip_prefix(':').map(|port| port.bytes().take_while(u8::is_ascii_digit).count());
            if let Some(digits @ 5..) = digits {
                text.push_str(":PORT");
                rest = &rest[1 + digits..];
            }
        } else if hash >= 15 && hash == word {
            text.push_str("HASH");
            rest = &rest[hash..];
        } else {
            let length = word.max(rest.chars().next().map_or(1, char::len_utf8));
            text.push_str(&rest[..length]);
            rest = &rest[length..];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::normal;

    #[test]
    fn what_differs_between_labs_is_replaced() {
        for (value, expected) in [
            ("10.244.0.7:43210, 10.96.0.9:80", "POD:PORT, SERVICE:80"),
            ("user=\"9a3fd0c2b1e47f60\"; Max-Age=60", "user=\"HASH\"; Max-Age=60"),
            ("v1.2 ü /a/b", "v1.2 ü /a/b"),
            ("", ""),
        ] {
            assert_eq!(normal(value), expected);
        }
    }
}
