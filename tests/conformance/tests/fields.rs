//! Every field of the kinds that are compared with Istio, and every word of an enumeration, has a case.

use std::collections::BTreeSet;
use std::path::Path;

use isthmus_conformance::case::Kind;
use serde_json::Value;

/// The blocks of a policy. Those of ports and of subsets are the same: each block has a case there, not each of its fields.
const BLOCKS: [&str; 7] =
    ["loadBalancer", "connectionPool", "outlierDetection", "tls", "tunnel", "proxyProtocol", "retryBudget"];

/// The kinds whose fields have cases.
const KINDS: [&str; 9] = [
    "VirtualService",
    "DestinationRule",
    "AuthorizationPolicy",
    "PeerAuthentication",
    "RequestAuthentication",
    "Gateway",
    "ServiceEntry",
    "WorkloadEntry",
    "Sidecar",
];

/// Blocks that are those of another kind, whose fields have cases there.
const SHARED: [&str; 3] = ["Sidecar.ingress.tls", "Sidecar.ingress.connectionPool", "Sidecar.inboundConnectionPool"];

/// The keys of conditions of an AuthorizationPolicy, which its schema does not list.
const CONDITIONS: [&str; 14] = [
    "request.headers[",
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "request.auth.claims[",
    "destination.ip",
    "destination.port",
    "connection.sni",
];

/// Fields that both validations refuse, or that cannot be observed in this test bed. `docs/conformance.md` says why.
const NOT_OBSERVED: [&str; 8] = [
    "VirtualService.http.fault.abort.http2Error",
    "VirtualService.http.fault.delay.exponentialDelay",
    "VirtualService.http.fault.abort.percent",
    "DestinationRule.trafficPolicy.loadBalancer.zoneAwareLbSetting.failover.from",
    "DestinationRule.trafficPolicy.loadBalancer.zoneAwareLbSetting.failover.to",
    "DestinationRule.trafficPolicy.loadBalancer.zoneAwareLbSetting.failoverPriority",
    "DestinationRule.trafficPolicy.retryBudget.budgetInterval",
    "DestinationRule.trafficPolicy.outlierDetection.minRequestVolume",
];

/// Fields that Istio's API has dropped, which have no effect: docs/compatibility.md.
const DROPPED: [&str; 6] = [
    "VirtualService.http.appendHeaders",
    "VirtualService.http.appendRequestHeaders",
    "VirtualService.http.appendResponseHeaders",
    "VirtualService.http.removeRequestHeaders",
    "VirtualService.http.removeResponseHeaders",
    "VirtualService.http.websocketUpgrade",
];

/// Collects the fields of a schema.
fn fields(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    if schema["type"] == "array" {
        return fields(&schema["items"], path, found);
    }
    match schema["properties"].as_object() {
        Some(properties) => properties.iter().for_each(|(name, of)| fields(of, &format!("{path}.{name}"), found)),
        None => {
            found.insert(path.to_owned());
            for word in schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                found.insert(format!("{path}={word}"));
            }
        }
    }
}

/// Collects the fields that an object sets.
fn used(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    found.insert(path.to_owned());
    match value {
        Value::Object(of) => of.iter().for_each(|(name, value)| used(value, &format!("{path}.{name}"), found)),
        Value::Array(items) => items.iter().for_each(|item| used(item, path, found)),
        Value::String(word) => drop(found.insert(format!("{path}={word}"))),
        _ => {}
    }
}

/// Returns the path up to the block, of a field of a port's or a subset's policy, or of a block of another kind.
fn shortened(path: &str) -> String {
    if let Some(block) =
        SHARED.iter().find(|block| path.strip_prefix(**block).is_some_and(|rest| rest.starts_with('.')))
    {
        return (*block).to_owned();
    }
    if let Some((before, _)) = path.split_once(".subsets.trafficPolicy.portLevelSettings.") {
        return format!("{before}.subsets.trafficPolicy.portLevelSettings");
    }
    for at in [".portLevelSettings.", ".subsets.trafficPolicy."] {
        if let Some((before, rest)) = path.split_once(at) {
            let block = rest.split(['.', '=']).next().unwrap_or_default();
            if BLOCKS.contains(&block) {
                return format!("{before}{at}{block}");
            }
        }
    }
    path.to_owned()
}

#[test]
fn every_field_has_a_case() {
    let mut known = BTreeSet::new();
    for definition in install::definitions::all() {
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap_or_default();
        if KINDS.contains(&kind) {
            let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
            fields(schema, kind, &mut known);
        }
    }
    assert!(known.len() > 300, "{} fields", known.len());
    let known: BTreeSet<String> = known.iter().map(|path| shortened(path)).collect();
    let mut set = BTreeSet::new();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    for case in Kind::read_all(&directory).unwrap().iter().flat_map(|kind| &kind.cases) {
        for object in &case.config {
            used(&object["spec"], object["kind"].as_str().unwrap_or_default(), &mut set);
        }
    }
    let set: BTreeSet<String> = set.iter().map(|path| shortened(path)).collect();
    let excepted = |path: &&String| NOT_OBSERVED.contains(&path.as_str()) || DROPPED.contains(&path.as_str());
    let missing: Vec<&String> = known.difference(&set).filter(|path| !excepted(path)).collect();
    assert!(missing.is_empty(), "no case sets {missing:#?}");
    let observed: Vec<_> = NOT_OBSERVED.iter().filter(|path| set.contains(**path)).collect();
    assert!(observed.is_empty(), "cases set {observed:?}, which are listed as not observed");
}

#[test]
fn every_condition_has_a_case_with_values_and_one_with_exclusions() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut set = BTreeSet::new();
    for case in Kind::read_all(&directory).unwrap().iter().flat_map(|kind| &kind.cases) {
        let rules = case.config.iter().flat_map(|object| object["spec"]["rules"].as_array().into_iter().flatten());
        for condition in rules.flat_map(|rule| rule["when"].as_array().into_iter().flatten()) {
            let key = condition["key"].as_str().unwrap_or_default();
            let of = ["values", "notValues"].into_iter().filter(|of| condition.get(of).is_some());
            set.extend(of.map(|of| (key.split_inclusive('[').next().unwrap_or_default().to_owned(), of)));
        }
    }
    let all = CONDITIONS.iter().flat_map(|key| ["values", "notValues"].map(|of| ((*key).to_owned(), of)));
    let missing: Vec<_> = all.filter(|condition| !set.contains(condition)).collect();
    assert!(missing.is_empty(), "no case has {missing:?}");
}
