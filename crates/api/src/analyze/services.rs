//! Services and ServiceEntries: how the protocols of their ports are known, and connections to them.

use std::collections::{BTreeMap, BTreeSet};

use super::message::Report;
use super::object::{Object, list};
use crate::networking::{self, problem::Severity};

/// The protocols that names of ports begin with.
const PROTOCOLS: &[&str] = &[
    "grpc", "grpc-web", "http", "http2", "http3", "https", "mongo", "mysql", "redis", "tcp", "tls", "udp", "hbone",
    "auto",
];
/// The namespaces that belong to Kubernetes or the mesh.
pub(super) const OF_SYSTEM: &[&str] =
    &["kube-system", "kube-public", "kube-node-lease", "istio-system", "isthmus-system"];

pub(super) fn check(object: &Object, report: &mut Report) {
    let spec = &object.value["spec"];
    let own = object.namespace == "default" && object.name() == "kubernetes";
    if own || OF_SYSTEM.contains(&&*object.namespace) {
        return;
    }
    let external = spec["type"] == "ExternalName";
    for (index, port) in spec["ports"].as_array().into_iter().flatten().enumerate() {
        let (name, number) = (port["name"].as_str().unwrap_or_default(), &port["port"]);
        let udp = matches!(port["protocol"].as_str(), Some("UDP" | "SCTP"));
        let field = format!("spec.ports[{index}]");
        let known = port["appProtocol"].is_string() || PROTOCOLS.contains(&protocol_of(name));
        if external && !udp && (name.is_empty() || protocol_of(name) == "tcp") {
            let text = format!(
                "port {number} of an ExternalName Service is TCP, which has no destination of its own; name it after a protocol with hosts, such as \"https\""
            );
            report.add(object, "IST0150", Severity::Warning, &field, text);
        } else if !udp && !known {
            let text = format!(
                "the name {name:?} of port {number} does not say its protocol, which is detected for each connection; name it such as \"http-{name}\", or set appProtocol"
            );
            let text = if name.is_empty() { text.replace("\"http-\"", "\"http\"") } else { text };
            report.add(object, "IST0118", Severity::Info, &field, text);
        }
    }
}

fn protocol_of(name: &str) -> &str {
    if name == "grpc-web" || name.starts_with("grpc-web-") {
        return "grpc-web";
    }
    name.split('-').next().unwrap_or_default()
}

/// Reports ServiceEntries that give one port of a host different protocols.
pub(super) fn conflicts(objects: &[Object], report: &mut Report) {
    let mut by_port: BTreeMap<(&str, u64), Vec<OfPort<'_>>> = BTreeMap::new();
    for object in objects.iter().filter(|object| object.kind() == "ServiceEntry" && object.group() == networking::GROUP)
    {
        let spec = &object.value["spec"];
        let mut scopes: Vec<&str> =
            list(&spec["exportTo"]).map(|to| if to == "." { &*object.namespace } else { to }).collect();
        if scopes.is_empty() {
            scopes.push("*");
        }
        for (index, port) in spec["ports"].as_array().into_iter().flatten().enumerate() {
            let Some(number) = port["number"].as_u64() else { continue };
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_ascii_uppercase();
            for host in list(&spec["hosts"]) {
                let of = OfPort { object, index, protocol: protocol.clone(), scopes: scopes.clone() };
                by_port.entry((host, number)).or_default().push(of);
            }
        }
    }
    for ((host, number), ports) in by_port {
        let mut seen: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut anywhere = BTreeSet::new();
        for port in &ports {
            anywhere.insert(&*port.protocol);
            for scope in &port.scopes {
                seen.entry(scope).or_default().insert(&port.protocol);
            }
        }
        for port in &ports {
            let of = |scope: &str| seen.get(scope).into_iter().flatten().copied();
            let protocols: BTreeSet<&str> = match port.scopes.contains(&"*") {
                true => anywhere.clone(),
                false => port.scopes.iter().flat_map(|scope| of(scope)).chain(of("*")).collect(),
            };
            if protocols.len() > 1 {
                let protocols: Vec<&str> = protocols.into_iter().collect();
                let text = format!(
                    "port {number} of {host} has several protocols in ServiceEntries ({}); write the same in each",
                    protocols.join(", ")
                );
                let field = format!("spec.ports[{}]", port.index);
                report.add(port.object, "IST0177", Severity::Warning, &field, text);
            }
        }
    }
}

/// A port of a host of a ServiceEntry.
struct OfPort<'a> {
    object: &'a Object,
    index: usize,
    protocol: String,
    scopes: Vec<&'a str>,
}
