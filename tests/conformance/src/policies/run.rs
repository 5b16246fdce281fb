//! Runs cases of policies, wave by wave: applies their policies, sends their requests at the same time, and deletes the policies.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::stream::{StreamExt as _, TryStreamExt as _, iter};
use serde_json::Value;

use super::bed::PolicyBed;
use super::question::{self, Answer};
use crate::case::{Case, CaseRequest, Protocol};
use crate::client::{self, Order, Reply};
use crate::ledger::Seen;
use crate::outcome::{Arrival, Outcome};
use crate::places::{SLOTS, slot};
use crate::run::normal;
use crate::waves::waves;

/// Cases that send requests at the same time.
const AT_ONCE: usize = 8;
/// The time between objects of which one must be older: creation times are in seconds.
const OLDER: Duration = Duration::from_millis(1200);
/// The time within which proxies write their logs.
const LOGS: Duration = Duration::from_millis(1500);
/// Of the response's headers, that by which a server asks for a token; cases need not observe it.
const CHALLENGE: &str = "www-authenticate";
/// The beginnings of response code details that policies cause.
const DETAILS: [&str; 3] = ["rbac_access_denied", "jwt_authn_access_denied", "ext_authz_"];
/// Shorter texts are no tokens: they occur by chance.
const SHORTEST: usize = 16;
/// Statuses whose bodies are those of policies.
const REFUSALS: [u16; 2] = [401, 403];

/// What came of the cases.
#[derive(Debug, Default)]
pub struct Results {
    /// The outcomes, by the name of the case.
    pub outcomes: BTreeMap<String, Vec<Outcome>>,
    /// Requests about which the sidecar's answer is not what it did, by the name of the case.
    pub disagreements: BTreeMap<String, Vec<String>>,
    /// How many requests it was asked about.
    pub asked: usize,
}

/// What came of one request.
struct Raw {
    id: String,
    reply: Reply,
    seen: Vec<Seen>,
    answer: Option<Answer>,
}

/// A case that was run in a namespace.
struct Ran<'a> {
    case: &'a Case,
    namespace: String,
    tokens: BTreeMap<String, String>,
    raw: Vec<Raw>,
}

/// Runs cases, and returns what came of them. `round` differs each time that cases are run.
///
/// # Errors
/// Returns an error if a policy is not in force in time, or a client does not answer.
pub async fn run(bed: &mut PolicyBed, cases: &[&Case], round: usize) -> Result<Results> {
    let mut results = Results::default();
    let mut ran = Vec::new();
    let slots: Vec<String> = (0..SLOTS).map(slot).collect();
    for wave in waves(cases, &slots) {
        bed.set(wave.cases.first().and_then(|(case, _)| case.mesh.as_ref())).await?;
        let mut first = Vec::new();
        let mut later = Vec::new();
        for (case, namespace) in &wave.cases {
            for object in &case.config {
                let mut object = object.clone();
                let is_later = object.as_object_mut().is_some_and(|fields| fields.remove("later").is_some());
                fill(&mut object, &|text| bed.filled(text, namespace, &BTreeMap::new()))?;
                if is_later { &mut later } else { &mut first }.push((case.name.clone(), object));
            }
        }
        let applied: Vec<Value> = first.iter().chain(&later).map(|(_, object)| object.clone()).collect();
        let mut refused = bed.refused(first).await?;
        if !later.is_empty() {
            tokio::time::sleep(OLDER).await;
            refused.extend(bed.refused(later).await?);
        }
        let servers: Vec<String> = wave.cases.iter().map(|(_, namespace)| namespace.clone()).collect();
        bed.in_force(&servers).await?;
        for (name, why) in &refused {
            println!("{name} is refused: {why}");
            let requests =
                wave.cases.iter().find(|(case, _)| case.name == *name).map_or(0, |(case, _)| case.requests.len());
            let outcome = Outcome { refused: true, ..Outcome::default() };
            results.outcomes.insert(name.clone(), vec![outcome; requests]);
        }
        let running = iter(wave.cases).filter(|(case, _)| std::future::ready(!refused.contains_key(&case.name)));
        let running = running.map(|(case, namespace)| {
            let bed = &*bed;
            async move { requests(bed, case, namespace, round).await.with_context(|| format!("case {}", case.name)) }
        });
        ran.extend(running.buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?);
        bed.bed.delete(&applied).await?;
    }
    tokio::time::sleep(LOGS).await;
    let mut servers: Vec<String> = ran.iter().map(|ran| ran.namespace.clone()).collect();
    servers.sort();
    servers.dedup();
    let log = bed.logs(&servers).await?;
    let details = details(&log);
    for ran in ran {
        let mut outcomes = Vec::new();
        for (index, (request, raw)) in ran.case.requests.iter().zip(&ran.raw).enumerate() {
            let outcome = outcome(&ran, raw, &details);
            if let Some(answer) = &raw.answer
                && let Some(agrees) = answer.agrees(&outcome)
            {
                results.asked += 1;
                if !agrees {
                    let what =
                        format!("request {} {} {}: {answer}, but {outcome:?}", index + 1, request.method, request.path);
                    results.disagreements.entry(ran.case.name.clone()).or_default().push(what);
                }
            }
            outcomes.push(outcome);
        }
        results.outcomes.insert(ran.case.name.clone(), outcomes);
    }
    Ok(results)
}

/// Reads why policies refused requests, by the request's ID.
fn details(log: &str) -> BTreeMap<&str, &str> {
    let words = log.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?, words.nth(1)?))
    });
    words.filter(|(_, details)| DETAILS.iter().any(|begin| details.starts_with(begin))).collect()
}

async fn requests<'a>(bed: &PolicyBed, case: &'a Case, namespace: String, round: usize) -> Result<Ran<'a>> {
    let tokens = case.tokens.iter().map(|(name, token)| Ok((name.clone(), bed.keys.token(token)?)));
    let tokens: BTreeMap<String, String> = tokens.collect::<Result<_>>()?;
    let mut raw = Vec::new();
    for (index, request) in case.requests.iter().enumerate() {
        tokio::time::sleep(Duration::from_millis(request.pause)).await;
        let id = format!("{}/{round}/{index}", case.name);
        let order = order(bed, request, &namespace, &tokens, &id)?;
        let answer =
            if bed.bed.is_istio() { None } else { question::ask(bed, case, index, &order, &namespace).await? };
        let replies = client::order(&bed.bed.client_socket(&request.from), &order).await?;
        let reply = replies.into_iter().next().context("no reply")?;
        let seen = bed.bed.ledger().take(&format!("{id}.0"));
        raw.push(Raw { id, reply, seen, answer });
    }
    Ok(Ran { case, namespace, tokens, raw })
}

fn order(
    bed: &PolicyBed,
    request: &CaseRequest,
    namespace: &str,
    tokens: &BTreeMap<String, String>,
    id: &str,
) -> Result<Order> {
    ensure!(request.times == 1, "requests of policies are sent once");
    let filled = |text: &str| bed.filled(text, namespace, tokens);
    let all = |headers: &BTreeMap<String, String>| {
        headers.iter().map(|(name, value)| Ok((name.clone(), filled(value)?))).collect::<Result<BTreeMap<_, _>>>()
    };
    let server = format!("server.{namespace}");
    let address = match request.to.as_deref() {
        Some("pod") => bed.address(&format!("{namespace}/server"))?,
        _ => bed.bed.address(&server)?,
    };
    let host = request.host.clone().unwrap_or_else(|| match request.port {
        80 => server.clone(),
        port => format!("{server}:{port}"),
    });
    let mut order = Order::get((address, request.port).into(), &filled(&host)?, id);
    order.protocol = request.protocol;
    order.method = request.method.clone();
    order.path = filled(&request.path)?;
    order.headers = all(&request.headers)?;
    order.repeated = all(&request.repeated)?;
    order.raw = request.raw;
    order.body = request.body.clone();
    order.sni = request.sni.clone().or_else(|| (request.protocol == Protocol::Tls).then(|| "localhost".to_owned()));
    Ok(order)
}

fn outcome(ran: &Ran<'_>, raw: &Raw, details: &BTreeMap<&str, &str>) -> Outcome {
    let observe = &ran.case.observe;
    let same = |text: &str| {
        let mut text = text.replace(&ran.namespace, "SLOT");
        for (name, token) in &ran.tokens {
            let payload = token.split('.').nth(1).unwrap_or_default();
            for (what, part) in [("token", token.as_str()), ("payload", payload)] {
                if part.len() >= SHORTEST {
                    text = text.replace(part, &format!("{{{what}:{name}}}"));
                }
            }
        }
        normal(&text)
    };
    let observed = |names: &[String], headers: &BTreeMap<String, String>| {
        let of = |name: &String| headers.get(name).map(|value| (name.clone(), same(value)));
        names.iter().filter_map(of).collect::<BTreeMap<_, _>>()
    };
    let arrival = |seen: &Seen| Arrival {
        headers: observed(&observe.request_headers, &seen.headers),
        tls: None,
        port: None,
        version: seen.version.clone(),
        method: seen.method.clone(),
        host: same(&seen.host),
        path: same(&seen.path),
    };
    let reply = &raw.reply;
    let mut headers = observed(&observe.response_headers, &reply.headers);
    headers.extend(observed(&[CHALLENGE.to_owned()], &reply.headers));
    let has_arrived = !raw.seen.is_empty();
    Outcome {
        status: Some(reply.status),
        grpc: reply.headers.get("grpc-status").cloned(),
        version: reply.headers.get("x-version").cloned(),
        headers,
        body: (!has_arrived && REFUSALS.contains(&reply.status) || observe.body).then(|| same(&reply.body)),
        details: details.get(format!("{}.0", raw.id).as_str()).map(|details| same(details)),
        arrivals: raw.seen.iter().map(arrival).collect(),
        ..Outcome::default()
    }
}

/// Fills in the texts of a value, and the keys of its mappings.
fn fill(value: &mut Value, filled: &dyn Fn(&str) -> Result<String>) -> Result<()> {
    match value {
        Value::String(text) => *text = filled(text)?,
        Value::Array(items) => items.iter_mut().try_for_each(|item| fill(item, filled))?,
        Value::Object(fields) => fields.values_mut().try_for_each(|field| fill(field, filled))?,
        _ => {}
    }
    Ok(())
}

impl PolicyBed {
    /// Replaces `SLOT`, `{ip:POD}`, `{jwks:KEYS}` and `{token:NAME}` in a text.
    fn filled(&self, text: &str, namespace: &str, tokens: &BTreeMap<String, String>) -> Result<String> {
        let mut text = text.replace("SLOT", namespace);
        for word in ["ip", "jwks", "token"] {
            let begin = format!("{{{word}:");
            while let Some(at) = text.find(&begin) {
                let length = text[at..].find('}').context("a word in braces does not end")?;
                let name = &text[at + begin.len()..at + length];
                let with = match word {
                    "ip" if name == "server" => self.address(&format!("{namespace}/server"))?.to_string(),
                    "ip" => self.address(name)?.to_string(),
                    "jwks" => self.keys.set(name),
                    _ => tokens.get(name).with_context(|| format!("the case has no token {name:?}"))?.clone(),
                };
                text.replace_range(at..=at + length, &with);
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::details;

    #[test]
    fn the_log_says_why_policies_refuse() {
        let log =
            "a/0/1.0 - via_upstream x\na/0/1.0 - rbac_access_denied_matched_policy[none] -\nb - via_upstream x\n\n";
        let found: Vec<_> = details(log).into_iter().collect();
        assert_eq!(found, [("a/0/1.0", "rbac_access_denied_matched_policy[none]")]);
    }
}
