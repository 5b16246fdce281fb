//! Runs cases in cells, wave by wave: applies their objects, sends their requests at the same time, and deletes the objects.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::stream::{StreamExt as _, TryStreamExt as _, iter};
use serde_json::Value;

use super::bed::CellBed;
use super::words::fill;
use crate::case::{Case, CaseRequest, Protocol};
use crate::client::{self, Order};
use crate::outcome::Outcome;
use crate::places::cells;
use crate::policies::run::Results;
use crate::run::{Raw, flags_of, summed_up};
use crate::waves::waves;

/// Cases that send requests at the same time.
const AT_ONCE: usize = 8;
/// The time between objects of which one must be older: creation times are in seconds.
const OLDER: Duration = Duration::from_millis(1200);
/// After the last response: attempts that were given up arrive on their own.
const LATE_ARRIVALS: Duration = Duration::from_millis(200);
/// The time within which proxies write their logs.
const LOGS: Duration = Duration::from_millis(1500);

/// A case that was run in a cell.
struct Ran<'a> {
    case: &'a Case,
    cell: String,
    tokens: BTreeMap<String, String>,
    raw: Vec<Raw>,
}

/// Runs cases, and returns what came of them. `round` differs each time that cases are run.
///
/// # Errors
/// Returns an error if a configuration is not in force in time, or a client does not answer.
pub async fn run(bed: &mut CellBed, cases: &[&Case], round: usize) -> Result<Results> {
    let mut results = Results::default();
    let mut ran = Vec::new();
    for wave in waves(cases, &cells()) {
        bed.set(wave.cases.first().and_then(|(case, _)| case.mesh.as_ref())).await?;
        let (mut first, mut later) = (Vec::new(), Vec::new());
        for (case, cell) in &wave.cases {
            for object in &case.config {
                let mut object = object.clone();
                let is_later = object.as_object_mut().is_some_and(|fields| fields.remove("later").is_some());
                fill(&mut object, &|text| bed.filled(text, cell, &BTreeMap::new()))?;
                if is_later { &mut later } else { &mut first }.push((case.name.clone(), object));
            }
        }
        let applied: Vec<Value> = first.iter().chain(&later).map(|(_, object)| object.clone()).collect();
        let mut refused = bed.refused(first).await?;
        if !later.is_empty() {
            tokio::time::sleep(OLDER).await;
            refused.extend(bed.refused(later).await?);
        }
        let in_wave: Vec<String> = wave.cases.iter().map(|(_, cell)| cell.clone()).collect();
        bed.in_force(&in_wave).await?;
        for (case, _) in wave.cases.iter().filter(|(case, _)| refused.contains_key(&case.name)) {
            println!("{} is refused: {}", case.name, refused[&case.name]);
            let outcome = Outcome { refused: true, ..Outcome::default() };
            results.outcomes.insert(case.name.clone(), vec![outcome; case.requests.len()]);
        }
        let running = iter(wave.cases).filter(|(case, _)| std::future::ready(!refused.contains_key(&case.name)));
        let running = running.map(|(case, cell)| {
            let bed = &*bed;
            async move { requests(bed, case, cell, round).await.with_context(|| format!("case {}", case.name)) }
        });
        ran.extend(running.buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?);
        bed.bed.delete(&applied).await?;
    }
    tokio::time::sleep(LOGS).await;
    let flags = flags_of(&bed.logs(&cells()).await?);
    for Ran { case, cell, tokens, raw } in ran {
        let same = |text: &str| bed.normal(text, &cell, &tokens);
        let outcomes = case.requests.iter().zip(raw).map(|(request, raw)| summed_up(case, request, raw, &flags, &same));
        results.outcomes.insert(case.name.clone(), outcomes.collect());
    }
    Ok(results)
}

async fn requests<'a>(bed: &CellBed, case: &'a Case, cell: String, round: usize) -> Result<Ran<'a>> {
    let tokens = case.tokens.iter().map(|(name, token)| Ok((name.clone(), bed.keys.token(token)?)));
    let tokens: BTreeMap<String, String> = tokens.collect::<Result<_>>()?;
    let mut raw = Vec::new();
    for (index, request) in case.requests.iter().enumerate() {
        tokio::time::sleep(Duration::from_millis(request.pause)).await;
        let id = format!("{}/{round}/{index}", case.name);
        let order = order(bed, request, &cell, &tokens, &id)?;
        let client = bed.filled(&request.from, &cell, &tokens)?;
        let replies = client::order(&bed.bed.client_socket(&client), &order).await?;
        raw.push(Raw { id, replies, seen: Vec::new() });
    }
    tokio::time::sleep(LATE_ARRIVALS).await;
    for raw in &mut raw {
        raw.seen = (0..raw.replies.len()).map(|n| bed.bed.ledger().take(&format!("{}.{n}", raw.id))).collect();
    }
    Ok(Ran { case, cell, tokens, raw })
}

fn order(
    bed: &CellBed,
    request: &CaseRequest,
    cell: &str,
    tokens: &BTreeMap<String, String>,
    id: &str,
) -> Result<Order> {
    let filled = |text: &str| bed.filled(text, cell, tokens);
    let all = |headers: &BTreeMap<String, String>| {
        headers.iter().map(|(name, value)| Ok((name.clone(), filled(value)?))).collect::<Result<BTreeMap<_, _>>>()
    };
    let to = request.to.clone().unwrap_or_default();
    let address = bed.destination(&to, cell)?;
    let host = match &request.host {
        Some(host) => filled(host)?,
        None => filled(&to)?,
    };
    let mut headers = all(&request.headers)?;
    headers.extend(request.script.clone().map(|script| ("x-script".to_owned(), script)));
    let sni = request.sni.clone().or_else(|| (request.protocol == Protocol::Tls).then(|| "localhost".to_owned()));
    Ok(Order {
        protocol: request.protocol,
        method: request.method.clone(),
        path: filled(&request.path)?,
        headers,
        repeated: all(&request.repeated)?,
        raw: request.raw,
        body: request.body.clone(),
        sni: sni.map(|name| filled(&name)).transpose()?,
        tls: request.tls.clone(),
        directory: bed.bed.directory().to_owned(),
        proxied: request.proxied,
        times: request.times,
        concurrent: request.concurrent,
        reconnect: request.reconnect,
        cookies: request.cookies,
        ..Order::get((address, request.port).into(), &host, id)
    })
}
