//! The text of an explanation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use crate::status::age_of;

mod tiers;

use tiers::tiers;

/// Formats an explanation.
pub(super) fn text(document: &Value) -> String {
    let mut out = String::new();
    if document["meshed"] == Value::Bool(false) {
        let caller = &document["caller"];
        let (cluster, namespace, pod) = (word(&caller["cluster"]), word(&caller["namespace"]), word(&caller["pod"]));
        return format!(
            "{pod} in namespace {namespace} of {cluster} has no sidecar, so the mesh does not carry its requests:\n  the \
             cluster's own DNS and Services lead to pods of {cluster} alone, in plaintext\n  to change that: kubectl label \
             namespace {namespace} istio-injection=enabled, and restart the pod\n"
        );
    }
    if let Some(error) = document["name"]["error"].as_str() {
        _ = writeln!(out, "{}   no address: the request is never sent\n  {error}", word(&document["host"]));
        return out + &link(document);
    }
    if document["workers"] == 0 {
        return "the sidecar is shutting down, or its workers do not answer: ask again\n".to_owned();
    }
    out.push_str(&headline(document));
    out.push_str(&route(document));
    if !document["failure"].is_null() {
        _ = writeln!(out, "every request is answered {}", failure(&document["failure"]));
    }
    let destinations = list(&document["destinations"]);
    let several = destinations.len() > 1 || !document["route"].is_null();
    for destination in destinations {
        out.push_str(&self::destination(destination, document, several));
    }
    out.push_str(&authorization(document));
    out.push_str(&identities(document));
    out + &link(document)
}

fn headline(document: &Value) -> String {
    let service = word(&document["service"]);
    let port = &document["port"];
    if document["inMesh"] != Value::Bool(true) {
        let what = match word(&document["service"]) {
            "BlackHoleCluster" => "not part of the mesh, which allows no other destinations (REGISTRY_ONLY)",
            "UnansweredCluster" => "the controller does not answer whether it is part of the mesh",
            _ => "not part of the mesh: passed through as it is (ALLOW_ANY), without identity and policies",
        };
        let address = word(&document["name"]["address"]);
        return format!("{}:{port} ({address})   {what}\n", word(&document["host"]));
    }
    let protocol = match word(&document["protocol"]) {
        "http" => "HTTP",
        "http2" => "HTTP/2",
        "grpc" => "gRPC",
        "tcp" => "TCP",
        _ => "protocol detected, as the port declares none",
    };
    let route = if document["route"].is_null() { ", no route rules" } else { "" };
    format!("{service}:{port}   {protocol}, {}{route}\n", tls(document))
}

/// Describes the encryption to endpoints that receive requests; of all, if none does.
fn tls(document: &Value) -> &'static str {
    let used = |all: bool| {
        let endpoints = endpoints(document).filter(move |endpoint| all || percent(&endpoint["percent"]) > 0.0);
        endpoints.map(|endpoint| word(&endpoint["tls"])).collect::<BTreeSet<_>>()
    };
    let used = if used(false).is_empty() { used(true) } else { used(false) };
    match used.into_iter().collect::<Vec<_>>()[..] {
        ["mutual"] => "mutual TLS",
        ["none"] => "plaintext",
        ["originated"] => "TLS with servers outside the mesh",
        [] => "no endpoints",
        _ => "mutual TLS with some endpoints, plaintext with others",
    }
}

fn route(document: &Value) -> String {
    let route = &document["route"];
    if route.is_null() {
        return String::new();
    }
    let object = format!("{} {}", word(&route["kind"]), word(&route["object"]));
    let Some(position) = route["position"].as_u64() else {
        return match word(&document["as"]) {
            "connection" => format!("route: of {object}\n"),
            _ => format!("route: none of the {} of {object} matches\n", route["of"]),
        };
    };
    let name = route["name"].as_str().filter(|name| !name.is_empty()).map(|name| format!(" \"{name}\""));
    let conditions: Vec<&str> = list(&route["conditions"]).iter().filter_map(Value::as_str).collect();
    let conditions = if conditions.is_empty() { "every request".to_owned() } else { conditions.join(", or ") };
    let mut out =
        format!("route: {position} of {} of {object}{}: {conditions}\n", route["of"], name.unwrap_or_default());
    match word(&route["action"]) {
        "redirect" => _ = writeln!(out, "  answered by the sidecar with a redirection ({})", route["status"]),
        "respond" => _ = writeln!(out, "  answered by the sidecar with status {}", route["status"]),
        _ => {}
    }
    let delay = &route["delay"];
    if !delay.is_null() {
        _ = writeln!(out, "  fault: {}% are delayed by {}s", delay["percent"], delay["seconds"]);
    }
    let abort = &route["abort"];
    if !abort.is_null() {
        _ = writeln!(out, "  fault: {}% are answered {}", abort["percent"], abort["status"]);
    }
    if let Some(limit) = route["timeoutSeconds"].as_f64() {
        _ = writeln!(out, "  timeout {limit}s");
    }
    for mirror in list(&route["mirrors"]) {
        _ = writeln!(out, "  copies of {}% go to {}", mirror["percent"], word(&mirror["host"]));
    }
    out
}

fn destination(destination: &Value, document: &Value, several: bool) -> String {
    let (mut out, indent) = (String::new(), if several { "    " } else { "  " });
    if several {
        let subset = destination["subset"].as_str().filter(|subset| !subset.is_empty());
        let subset = subset.map(|subset| format!(" subset {subset}")).unwrap_or_default();
        let to = format!("{}:{}", word(&destination["host"]), destination["port"]);
        _ = writeln!(out, "  {}% to {to}{subset}", shown(percent(&destination["percent"])));
    }
    let policies: Vec<&str> = list(&destination["policies"]).iter().filter_map(Value::as_str).collect();
    if !policies.is_empty() {
        let hash = if destination["byHash"] == Value::Bool(true) { ", this request's hash chooses" } else { "" };
        let policies = policies.join(", ");
        _ = writeln!(out, "{indent}policy: DestinationRule {policies} ({}{hash})", word(&destination["algorithm"]));
    }
    if document["inMesh"] == Value::Bool(true) {
        out.push_str(&tiers(destination, document, indent));
    }
    if !destination["failure"].is_null() {
        _ = writeln!(out, "{indent}every request is answered {}", failure(&destination["failure"]));
    }
    if destination["panic"] == Value::Bool(true) {
        _ = writeln!(out, "{indent}too few endpoints are in use, so ejected ones are used as well: requests may fail");
    }
    out
}

fn authorization(document: &Value) -> String {
    let decisions = list(&document["authorization"]);
    let mut out = String::new();
    for of in decisions {
        let place = match decisions.len() {
            1 => String::new(),
            _ => {
                let subset = of["subset"].as_str().filter(|subset| !subset.is_empty());
                let subset = subset.map(|subset| format!(" subset {subset}")).unwrap_or_default();
                format!(" at {}{subset} in {}", word(&of["host"]), word(&of["cluster"]))
            }
        };
        if let Some(error) = of["error"].as_str() {
            _ = writeln!(out, "authorization{place}: unknown: {error}");
            continue;
        }
        let decision = &of["decision"];
        let rule = |by: &Value| match by["policy"].as_str() {
            Some(policy) => format!("policy {policy}, rule {}", by["rule"]),
            None => by.as_str().unwrap_or_default().to_owned(),
        };
        let by = if decision["by"].is_null() { String::new() } else { format!(" ({})", rule(&decision["by"])) };
        let reason = decision["reason"].as_str().unwrap_or_default();
        let verdict = match &decision["allowed"] {
            Value::Bool(true) if by.is_empty() && reason.is_empty() => "allowed".to_owned(),
            Value::Bool(true) if reason.is_empty() => format!("allowed{by}"),
            Value::Bool(true) => format!("allowed: {reason}{by}"),
            Value::Bool(false) if document["as"] == "connection" => {
                format!("refused, the connection ends: {reason}{by}")
            }
            Value::Bool(false) => format!("refused with 403: {reason}{by}"),
            _ => format!("decided by provider {}", word(&decision["provider"])),
        };
        _ = writeln!(out, "authorization{place}: {verdict}, says {}", word(&of["pod"]));
    }
    out
}

fn identities(document: &Value) -> String {
    let mut lines: BTreeMap<String, ()> = BTreeMap::new();
    for endpoint in endpoints(document).filter(|endpoint| percent(&endpoint["percent"]) > 0.0) {
        if endpoint["tls"] != "mutual" {
            continue;
        }
        let names = |value: &Value| list(value).iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
        let identities = names(&endpoint["identities"]);
        let issuers = match endpoint["issuers"].is_null() {
            true => "issued by any intermediate of the root".to_owned(),
            false => format!("issued by {}'s intermediate", names(&endpoint["issuers"]).join("'s or ")),
        };
        lines.insert(
            match identities.is_empty() {
                true => "identity expected: none is known, so no endpoint is accepted".to_owned(),
                false => format!("identity expected: {}, {issuers}", identities.join(" or ")),
            },
            (),
        );
    }
    lines.into_keys().map(|line| format!("{line}\n")).collect()
}

/// Describes a link to the controller that is not connected: everything above is as of its loss.
fn link(document: &Value) -> String {
    let link = &document["controller"];
    let since = link["sinceSeconds"].as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match (word(&link["state"]), since) {
        ("lost", Some(since)) => {
            let reason = word(&link["reason"]);
            format!("the sidecar lost the controller {} ago and uses what it knew then: {reason}\n", age_of(since))
        }
        ("connecting", _) => "the sidecar has not reached the controller yet\n".to_owned(),
        _ => String::new(),
    }
}

fn failure(failure: &Value) -> String {
    let flags = failure["flags"].as_str().filter(|flags| !flags.is_empty() && *flags != "-");
    let flags = flags.map(|flags| format!(" ({flags})")).unwrap_or_default();
    format!("{}{flags}: {}", failure["status"], word(&failure["reason"]))
}

fn endpoints(document: &Value) -> impl Iterator<Item = &Value> {
    list(&document["destinations"]).iter().flat_map(|destination| list(&destination["endpoints"]))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn percent(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

/// Formats a share: without decimals if it has none.
fn shown(percent: f64) -> String {
    let rounded = (percent * 10.0).round() / 10.0;
    if rounded.fract() == 0.0 { format!("{rounded:.0}") } else { format!("{rounded:.1}") }
}

#[cfg(test)]
mod tests;
