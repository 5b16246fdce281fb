//! The tiers of a destination.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use super::{list, percent, shown, word};
use crate::status::age_of;

/// Formats the tiers, with a line for each cluster and gateway of a tier.
pub(super) fn tiers(destination: &Value, document: &Value, indent: &str) -> String {
    let mut rows: Vec<[String; 4]> = Vec::new();
    for (number, tier) in list(&destination["tiers"]).iter().enumerate() {
        let name = word(&tier["name"]);
        let of_tier = list(&destination["endpoints"]).iter().filter(|endpoint| word(&endpoint["tier"]) == name);
        let mut groups: BTreeMap<(&str, &str), Vec<&Value>> = BTreeMap::new();
        for endpoint in of_tier {
            let gateway = if endpoint["throughGateway"] == Value::Bool(true) { word(&endpoint["address"]) } else { "" };
            groups.entry((word(&endpoint["cluster"]), gateway)).or_default().push(endpoint);
        }
        let label = format!("tier {}", number + 1);
        if groups.is_empty() {
            rows.push([label, name.to_owned(), "no endpoints".to_owned(), String::new()]);
            continue;
        }
        for (at, ((cluster, gateway), endpoints)) in groups.into_iter().enumerate() {
            let (label, name) = if at == 0 { (label.clone(), name.to_owned()) } else { Default::default() };
            let what = group(cluster, gateway, &endpoints);
            let share: f64 = endpoints.iter().map(|endpoint| percent(&endpoint["percent"])).sum();
            let state = format!("{}{}", health(&endpoints), age(cluster, document));
            let takes = if share > 0.0 { format!("{state}   <- takes {}%", shown(share)) } else { state };
            rows.push([label, name, what, takes]);
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths = [width(0), width(1), width(2)];
    let mut out = String::new();
    for [label, name, what, state] in &rows {
        let [a, b, c] = widths;
        let line = format!("{indent}{label:a$}  {name:b$}   {what:c$}   {state}");
        _ = writeln!(out, "{}", line.trim_end());
    }
    if destination["omitted"].as_u64().unwrap_or_default() > 0 {
        _ = writeln!(out, "{indent}and {} more endpoints", destination["omitted"]);
    }
    out
}

fn group(cluster: &str, gateway: &str, endpoints: &[&Value]) -> String {
    let behind = |endpoint: &&Value| endpoint["endpointsBehind"].as_u64();
    let count = match gateway.is_empty() {
        true => Some(endpoints.len() as u64),
        false => endpoints.iter().map(behind).sum(),
    };
    let count = match count {
        Some(1) => "1 endpoint".to_owned(),
        Some(count) => format!("{count} endpoints"),
        None => "endpoints".to_owned(),
    };
    match (gateway, cluster) {
        ("", "") => count,
        ("", cluster) => format!("{count} in {cluster}"),
        (gateway, cluster) => format!("{count} behind gateway {gateway} ({cluster})"),
    }
}

fn health(endpoints: &[&Value]) -> String {
    let ready = endpoints.iter().filter(|endpoint| word(&endpoint["health"]) == "ready").count();
    let ejected: Vec<_> = endpoints.iter().filter(|of| of["ejectedByWorkers"].as_u64().unwrap_or(0) > 0).collect();
    let probed = endpoints.iter().filter(|of| of["probedByWorkers"].as_u64().unwrap_or(0) > 0).count();
    let mut parts = Vec::new();
    parts.push(match ready {
        0 => "not ready".to_owned(),
        ready if ready == endpoints.len() => "healthy".to_owned(),
        ready => format!("{ready} of {} ready", endpoints.len()),
    });
    if !ejected.is_empty() {
        let left = ejected.iter().filter_map(|of| of["ejectedForSeconds"].as_f64()).fold(0.0, f64::max);
        let left = age_of(Duration::try_from_secs_f64(left).unwrap_or_default());
        let all = if ejected.len() == endpoints.len() { String::new() } else { format!("{} ", ejected.len()) };
        // Discovery reports it as ready; its requests failed.
        parts = vec![format!("{all}ejected after failures, for {left} more")];
    } else if probed > 0 {
        parts.push("the next request probes it after an ejection".to_owned());
    }
    parts.join(", ")
}

/// Describes the age of what is known of a cluster other than the controller's own.
fn age(cluster: &str, document: &Value) -> String {
    let ages = &document["ages"];
    if cluster.is_empty() {
        return String::new();
    }
    if ages["error"].is_string() {
        return ", age unknown".to_owned();
    }
    let of = &ages["clusters"][cluster];
    if of["own"] == Value::Bool(true) && of["link"] == "connected" {
        return String::new();
    }
    let seconds = of["contactSeconds"].as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let known = seconds.map_or_else(|| ", age unknown".to_owned(), |age| format!(", updated {} ago", age_of(age)));
    match of["link"].as_str() {
        Some("connected") | None => known,
        Some(link) => format!("{known} (link {link})"),
    }
}
