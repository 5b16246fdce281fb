//! Workloads and the Services that select their pods: ports on which the Services disagree, and the user of the sidecar.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::message::Report;
use super::object::{Object, texts};
use crate::networking::problem::Severity;

/// The user of the sidecar, whose connections are not captured.
const PROXY_USER: u64 = 1337;
/// The names of the sidecar's container.
const PROXY_CONTAINERS: &[&str] = &["isthmus-proxy", "istio-proxy"];

/// A port of a Service.
pub(super) struct ServicePort {
    /// The number.
    pub(super) number: u32,
    /// `TCP`, `UDP` or `SCTP`.
    pub(super) protocol: String,
    /// The number or name of the port of the pods.
    pub(super) target: String,
}

/// A Service with a selector.
pub(super) struct Selecting<'a> {
    /// The object.
    pub(super) object: &'a Object,
    /// The labels of its pods.
    pub(super) selector: BTreeMap<String, String>,
    /// The ports.
    pub(super) ports: Vec<ServicePort>,
}

/// The Services by one of the labels that they select.
#[derive(Default)]
pub(super) struct Services<'a> {
    by_label: HashMap<(&'a str, String, String), Vec<Selecting<'a>>>,
}

impl<'a> Services<'a> {
    /// Adds a Service. One without a selector selects nothing.
    pub(super) fn add(&mut self, object: &'a Object) {
        let selector = texts(&object.value["spec"]["selector"]);
        let Some((key, value)) = selector.first_key_value() else { return };
        let key = (&*object.namespace, key.clone(), value.clone());
        let ports = object.value["spec"]["ports"].as_array().into_iter().flatten().filter_map(port).collect();
        self.by_label.entry(key).or_default().push(Selecting { object, selector, ports });
    }

    /// Returns the Services of a namespace that select pods with some labels.
    pub(super) fn of(&self, namespace: &'a str, labels: &BTreeMap<String, String>) -> Vec<&Selecting<'a>> {
        let by_label =
            labels.iter().filter_map(|(key, value)| self.by_label.get(&(namespace, key.clone(), value.clone())));
        let selects =
            |service: &&Selecting<'a>| service.selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        by_label.flatten().filter(selects).collect()
    }
}

fn port(port: &Value) -> Option<ServicePort> {
    let number: u32 = port["port"].as_u64()?.try_into().ok()?;
    let target = match &port["targetPort"] {
        Value::String(name) if !name.is_empty() => name.clone(),
        Value::Number(target) if target.as_u64() != Some(0) => target.to_string(),
        _ => u32::to_string(&number),
    };
    let protocol = port["protocol"].as_str().filter(|protocol| !protocol.is_empty()).unwrap_or("TCP").to_owned();
    Some(ServicePort { number, protocol, target })
}

/// Reports ports of a workload of the mesh on which the Services that select its pods disagree.
pub(super) fn ports(workload: &Object, services: &Services<'_>, report: &mut Report) {
    let labels = texts(&workload.value["spec"]["template"]["metadata"]["labels"]);
    let selecting = services.of(&workload.namespace, &labels);
    let selecting = selecting.into_iter().filter(|service| service.object.may_share_cluster(workload));
    let mut protocols: BTreeMap<u32, BTreeMap<&str, &str>> = BTreeMap::new();
    let mut numbers: BTreeMap<&str, BTreeMap<u32, &str>> = BTreeMap::new();
    for service in selecting {
        for port in &service.ports {
            let name = service.object.name();
            protocols.entry(port.number).or_default().insert(&port.protocol, name);
            numbers.entry(&port.target).or_default().insert(port.number, name);
        }
    }
    let names = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(", ");
    for (number, of) in protocols.into_iter().filter(|(_, of)| of.len() > 1) {
        let text = format!(
            "port {number} is of several protocols in the Services that select its pods ({}); use one protocol, or other ports",
            names(of.into_values().collect())
        );
        report.add(workload, "IST0116", Severity::Warning, "metadata.name", text);
    }
    for (target, of) in numbers.into_iter().filter(|(_, of)| of.len() > 1) {
        let several = of.keys().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let text = format!(
            "the ports {several} of the Services that select its pods ({}) have the targetPort {target}, which has the protocol and the name of one of them; use a targetPort for each",
            names(of.into_values().collect())
        );
        report.add(workload, "IST0137", Severity::Warning, "metadata.name", text);
    }
}

/// Reports containers that run as the user of the sidecar. `at` is the path of the pod's spec.
pub(super) fn users(object: &Object, at: &str, report: &mut Report) {
    let pointer = format!("/{}", at.replace('.', "/"));
    let Some(spec) = object.value.pointer(&pointer) else { return };
    let user = |value: &Value| value["securityContext"]["runAsUser"].as_u64();
    let mut found = Vec::new();
    if user(spec) == Some(PROXY_USER) {
        found.push(format!("{at}.securityContext.runAsUser"));
    }
    for list in ["initContainers", "containers"] {
        let containers = spec[list].as_array().into_iter().flatten().enumerate();
        let own = containers.filter(|(_, container)| user(container) == Some(PROXY_USER));
        let own = own.filter(|(_, of)| !of["name"].as_str().is_some_and(|name| PROXY_CONTAINERS.contains(&name)));
        found.extend(own.map(|(index, _)| format!("{at}.{list}[{index}].securityContext.runAsUser")));
    }
    for field in found {
        let text = format!(
            "the user {PROXY_USER} is that of the sidecar, whose connections leave the pod without it; run as another user"
        );
        report.add(object, "IST0144", Severity::Warning, &field, text);
    }
}
