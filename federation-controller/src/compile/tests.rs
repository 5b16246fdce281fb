//! Golden files: the resources of clusters whose objects are written as users write them.
//!
//! `golden/<case>.yaml` has the objects of each cluster, and `golden/<case>.txt` all resources that are compiled from them,
//! without fields of default values. `ISTHMUS_UPDATE_GOLDEN=1 cargo test` writes the expected files anew: review the
//! difference, which is what proxies will receive.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::Value;
use wire::delta::Body;
use wire::name::Role;
use wire::{Kind, name};

use super::*;
use crate::compile::resource::{Compiled, Resource};
use crate::inventory::{RuleNotice, Settings};
use crate::objects::event::{Cluster, Event, Mesh};
use crate::objects::{self, Key, Object, Record, Text, for_each_kind};

/// A case.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// The clusters, by name.
    clusters: BTreeMap<String, CaseCluster>,
    /// The controller's own cluster.
    own: String,
    /// Whether every service is exported.
    #[serde(default)]
    export_all: bool,
    /// `defaultServiceExportTo`, `defaultVirtualServiceExportTo` and `defaultDestinationRuleExportTo`.
    #[serde(default)]
    export_to: Vec<String>,
    /// `extensionProviders`.
    #[serde(default)]
    extension_providers: Vec<Value>,
    /// Pods with connected proxies, as `<cluster>/<namespace>/<pod>`.
    #[serde(default)]
    connected: Vec<String>,
    /// Those that are ingress or egress gateways.
    #[serde(default)]
    routers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseCluster {
    #[serde(default)]
    network: String,
    #[serde(default)]
    objects: Vec<Value>,
}

#[test]
fn golden_files() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/compile/golden");
    let mut cases: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    cases.sort();
    assert!(cases.len() >= 7, "{cases:?}");
    let update = std::env::var_os("ISTHMUS_UPDATE_GOLDEN").is_some();
    let mut differing = Vec::new();
    for path in cases {
        let found = compiled(&std::fs::read_to_string(&path).unwrap());
        // Compiling is pure: another process, with other hash seeds, has the same result.
        assert_eq!(found, compiled(&std::fs::read_to_string(&path).unwrap()), "{}", path.display());
        let expected = path.with_extension("txt");
        if update {
            std::fs::write(&expected, &found).unwrap();
        } else if std::fs::read_to_string(&expected).ok().as_deref() != Some(&found) {
            println!(
                "{}:\n{}",
                expected.display(),
                difference(&std::fs::read_to_string(&expected).unwrap_or_default(), &found)
            );
            differing.push(expected);
        }
    }
    assert!(differing.is_empty(), "these files differ, ISTHMUS_UPDATE_GOLDEN=1 writes them anew: {differing:?}");
}

/// Returns all resources of a case.
fn compiled(text: &str) -> String {
    let case: Case = api::yaml::from_str(text).unwrap();
    let mut inventory = inventory(&case);
    let mut compiler = Compiler::default();
    let mut resources = Vec::new();
    let mut facts = BTreeMap::new();
    let mut notices = BTreeSet::new();
    for group in inventory.take_changes(usize::MAX) {
        let Compiled { resources: of, service, notices: about, refused_exports } = compiler.compile(&inventory, &group);
        inventory.set_refused_exports(&group, refused_exports);
        resources.extend(of);
        notices.extend(about);
        let Some(service) = service else { continue };
        if let Some(of) = service.facts.filter(|of| !of.conflicts.is_empty()) {
            facts.insert(service.hostname.clone(), of.conflicts.clone());
        }
        resources.extend(service.endpoints.iter().map(|endpoint| Resource {
            kind: Kind::Endpoint,
            name: endpoint.name().into(),
            keys: endpoint.networks().map(|network| name::endpoints(&service.hostname, network).into()).collect(),
            audience: endpoint.audience().clone(),
            body: endpoint.encode(),
        }));
    }
    resources.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    let mut text: String = resources.iter().map(show).collect();
    for (hostname, conflicts) in facts {
        writeln!(text, "conflicts of {hostname}\n    {}\n", conflicts.join("\n    ")).unwrap();
    }
    for state in inventory.rule_states().into_iter().filter(|state| state.refused) {
        writeln!(text, "refused {} {}\n    {}\n", state.kind.as_str(), state.object, state.problems[0].text).unwrap();
    }
    for state in inventory.rule_states().into_iter().filter(|state| {
        [
            objects::Kind::AuthorizationPolicy,
            objects::Kind::ServiceEntry,
            objects::Kind::WorkloadEntry,
            objects::Kind::Sidecar,
            objects::Kind::EnvoyFilter,
            objects::Kind::FederationPolicy,
            objects::Kind::Server,
            objects::Kind::HttpLocalRateLimitPolicy,
        ]
        .contains(&state.kind)
            && !state.refused
    }) {
        notices.extend(state.problems.into_iter().map(|problem| RuleNotice {
            kind: state.kind,
            object: state.object.clone(),
            code: problem.code,
            text: problem.text.to_string(),
        }));
    }
    for RuleNotice { kind, object, code, text: about } in notices {
        writeln!(text, "notice {code} of {} {object}\n    {about}\n", kind.as_str()).unwrap();
    }
    text
}

fn inventory(case: &Case) -> Inventory {
    let mut inventory = Inventory::new(Settings {
        cluster: case.own.as_str().into(),
        namespace: "isthmus-system".into(),
        root_namespace: "istio-system".into(),
        cluster_domain: "cluster.local".into(),
        trust_domain: "cluster.local".into(),
    });
    let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
    let export_to: Vec<Text> = case.export_to.iter().map(|namespace| namespace.as_str().into()).collect();
    let providers = serde_json::json!({"extensionProviders": case.extension_providers}).to_string();
    let (providers, _) = api::mesh::MeshConfig::parse(&providers).unwrap();
    let mesh = Mesh {
        export_all: case.export_all,
        service_export_to: export_to.clone(),
        virtual_service_export_to: export_to.clone(),
        destination_rule_export_to: export_to,
        external_authorizations: providers.external_authorizations,
        ..Mesh::default()
    };
    inventory.apply(Event::Mesh(mesh), now);
    let sidecars = case.connected.iter().map(|proxy| (proxy, Role::Sidecar));
    for (proxy, role) in sidecars.chain(case.routers.iter().map(|proxy| (proxy, Role::Router))) {
        let (cluster, namespace, pod) = name::parse_workload(proxy).unwrap();
        let (published, _) = tokio::sync::oneshot::channel();
        let event = Event::ProxyConnected { cluster: cluster.into(), pod: Key::new(namespace, pod), role, published };
        inventory.apply(event, now);
    }
    for (name, cluster) in &case.clusters {
        let network = cluster.network.as_str().into();
        let info =
            Cluster { name: name.as_str().into(), own: *name == case.own, network, server: "".into(), joined: 0 };
        inventory.apply(Event::ClusterAdded(info), now);
        for object in &cluster.objects {
            let object = extract(object).unwrap_or_else(|| panic!("not a watched object: {object}"));
            inventory.apply(Event::Upsert { cluster: name.as_str().into(), object }, now);
        }
    }
    inventory
}

fn extract(object: &Value) -> Option<Object> {
    let kind = object["kind"].as_str()?;
    macro_rules! of_kind {
        ($($collection:ident: $Record:ident, $change:ident;)+) => {
            match kind {
                $(<objects::$Record as Record>::NAME => {
                    <objects::$Record as Record>::extract(serde_json::from_value(object.clone()).unwrap()).map(Object::from)
                })+
                _ => None,
            }
        };
    }
    for_each_kind!(of_kind)
}

fn show(resource: &Resource) -> String {
    let Resource { kind, name, keys, audience, body } = resource;
    let body = Body::decode(*kind, kind.url(), body.clone()).unwrap();
    let mut text = format!("{kind} {name}\n    for {audience:?}\n");
    for key in keys {
        writeln!(text, "    as {key}").unwrap();
    }
    let debug = format!("{body:#?}");
    // The first and last two lines are the enum's and the message's name.
    let lines: Vec<&str> = debug.lines().collect();
    for line in &lines[2..lines.len() - 2] {
        let default = [": \"\",", ": [],", ": {},", ": 0,", ": false,", ": None,", ": b\"\","];
        if !default.iter().any(|default| line.ends_with(default)) {
            writeln!(text, "{}", readable(&line[4..])).unwrap();
        }
    }
    text + "\n"
}

/// Replaces the bytes of an address by the address.
fn readable(line: &str) -> String {
    let Some((field, literal)) = line.split_once("ip: b\"") else { return line.to_owned() };
    let literal = literal.trim_end_matches(',').trim_end_matches('"');
    let mut bytes = Vec::new();
    let mut rest = literal.chars();
    while let Some(next) = rest.next() {
        bytes.push(match (next, rest.clone().next()) {
            ('\\', Some('x')) => {
                let hex: String = rest.by_ref().skip(1).take(2).collect();
                u8::from_str_radix(&hex, 16).unwrap()
            }
            ('\\', Some(escaped)) => {
                rest.next();
                match escaped {
                    'n' => b'\n',
                    'r' => b'\r',
                    't' => b'\t',
                    '0' => 0,
                    other => u8::try_from(other).unwrap(),
                }
            }
            (other, _) => u8::try_from(other).unwrap(),
        });
    }
    format!("{field}ip: {},", name::ip_of_bytes(&bytes).unwrap())
}

/// Returns the lines that differ, after the first difference.
fn difference(expected: &str, found: &str) -> String {
    let same = expected.lines().zip(found.lines()).take_while(|(a, b)| a == b).count();
    let part = |text: &str, sign: char| -> String {
        text.lines().skip(same).take(12).map(|line| format!("{sign} {line}\n")).collect()
    };
    format!("from line {}:\n{}{}", same + 1, part(expected, '-'), part(found, '+'))
}
