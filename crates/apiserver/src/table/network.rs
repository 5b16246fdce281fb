//! Services, Endpoints, EndpointSlices, Ingresses and NetworkPolicies.

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::age;
use super::cell::{Cells, Heading, column, first_three, items, labels, name, number, or_none, selector, text, wide};
use crate::kinds::ResourceKind;

pub(super) fn printer(kind: &ResourceKind) -> Option<(&'static [Heading], Cells)> {
    Some(match (&*kind.group, &*kind.kind) {
        ("", "Service") => (SERVICE, service),
        ("", "Endpoints") => (ENDPOINTS, endpoints),
        ("discovery.k8s.io", "EndpointSlice") => (ENDPOINT_SLICE, endpoint_slice),
        ("networking.k8s.io", "Ingress") => (INGRESS, ingress),
        ("networking.k8s.io", "IngressClass") => (INGRESS_CLASS, ingress_class),
        ("networking.k8s.io", "NetworkPolicy") => (NETWORK_POLICY, network_policy),
        _ => return None,
    })
}

const SERVICE: &[Heading] = &[
    column("Name", "string"),
    column("Type", "string"),
    column("Cluster-IP", "string"),
    column("External-IP", "string"),
    column("Port(s)", "string"),
    column("Age", "string"),
    wide("Selector", "string"),
];

fn service(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    let spec = &object["spec"];
    let ports = items(&spec["ports"]).iter().map(|port| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        match number(&port["nodePort"]) {
            0 => format!("{}/{protocol}", number(&port["port"])),
            node => format!("{}:{node}/{protocol}", number(&port["port"])),
        }
    });
    vec![
        name(object),
        spec["type"].as_str().unwrap_or("ClusterIP").into(),
        or_none(text(&spec["clusterIP"])),
        external_addresses(object),
        or_none(ports.collect::<Vec<_>>().join(",")),
        age::of(object, now),
        or_none(labels(&spec["selector"])),
    ]
}

fn external_addresses(service: &Value) -> Value {
    let spec = &service["spec"];
    let mut addresses: Vec<&str> = Vec::new();
    if spec["type"] == "ExternalName" {
        return spec["externalName"].clone();
    }
    if spec["type"] == "LoadBalancer" {
        addresses.extend(ingress_points(service));
    }
    addresses.extend(items(&spec["externalIPs"]).iter().map(text));
    match (addresses.is_empty(), spec["type"] == "LoadBalancer") {
        (true, true) => json!("<pending>"),
        _ => or_none(addresses.join(",")),
    }
}

/// Addresses of a load balancer.
fn ingress_points(object: &Value) -> impl Iterator<Item = &str> {
    items(&object["status"]["loadBalancer"]["ingress"]).iter().map(|point| match text(&point["ip"]) {
        "" => text(&point["hostname"]),
        ip => ip,
    })
}

const ENDPOINTS: &[Heading] = &[column("Name", "string"), column("Endpoints", "string"), column("Age", "string")];

fn endpoints(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    let mut addresses = Vec::new();
    for subset in items(&object["subsets"]) {
        let ips = items(&subset["addresses"]).iter().map(|address| text(&address["ip"]));
        match items(&subset["ports"]) {
            [] => addresses.extend(ips.map(str::to_owned)),
            ports => {
                let joined = |ip: &str, port: &Value| host_and_port(ip, number(&port["port"]));
                addresses.extend(ips.flat_map(|ip| ports.iter().map(move |port| joined(ip, port))));
            }
        }
    }
    vec![name(object), first_three(&addresses, "<none>"), age::of(object, now)]
}

fn host_and_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

const ENDPOINT_SLICE: &[Heading] = &[
    column("Name", "string"),
    column("AddressType", "string"),
    column("Ports", "string"),
    column("Endpoints", "string"),
    column("Age", "string"),
];

fn endpoint_slice(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    let ports: Vec<String> = items(&object["ports"])
        .iter()
        .map(|port| port["port"].as_i64().map_or_else(|| "*".to_owned(), |number| number.to_string()))
        .collect();
    let addresses: Vec<String> = items(&object["endpoints"])
        .iter()
        .flat_map(|endpoint| items(&endpoint["addresses"]))
        .map(|address| text(address).to_owned())
        .collect();
    vec![
        name(object),
        object["addressType"].clone(),
        first_three(&ports, "<unset>"),
        first_three(&addresses, "<unset>"),
        age::of(object, now),
    ]
}

const INGRESS: &[Heading] = &[
    column("Name", "string"),
    column("Class", "string"),
    column("Hosts", "string"),
    column("Address", "string"),
    column("Ports", "string"),
    column("Age", "string"),
];

fn ingress(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    let spec = &object["spec"];
    let hosts: Vec<String> = items(&spec["rules"])
        .iter()
        .map(|rule| text(&rule["host"]).to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    vec![
        name(object),
        or_none(text(&spec["ingressClassName"])),
        first_three(&hosts, "*"),
        ingress_points(object).collect::<Vec<_>>().join(",").into(),
        if items(&spec["tls"]).is_empty() { "80" } else { "80, 443" }.into(),
        age::of(object, now),
    ]
}

const INGRESS_CLASS: &[Heading] = &[
    column("Name", "string"),
    column("Controller", "string"),
    column("Parameters", "string"),
    column("Age", "string"),
];

fn ingress_class(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    let (spec, parameters) = (&object["spec"], &object["spec"]["parameters"]);
    let kind = [text(&parameters["kind"]), text(&parameters["apiGroup"])].join(".");
    let parameters = match text(&parameters["name"]) {
        "" => String::new(),
        name => format!("{}/{name}", kind.trim_end_matches('.')),
    };
    vec![name(object), spec["controller"].clone(), or_none(parameters), age::of(object, now)]
}

const NETWORK_POLICY: &[Heading] =
    &[column("Name", "string"), column("Pod-Selector", "string"), column("Age", "string")];

fn network_policy(object: &Value, now: OffsetDateTime) -> Vec<Value> {
    vec![name(object), selector(&object["spec"]["podSelector"]), age::of(object, now)]
}
