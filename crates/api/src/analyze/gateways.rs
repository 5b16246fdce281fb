//! Gateways: the pods that they select, and the hosts that they share.

use std::collections::{BTreeMap, BTreeSet};

use super::message::Report;
use super::object::{Object, texts};
use super::virtual_services::overlap;
use super::world::{Parsed, World};
use crate::networking::Gateway;
use crate::networking::problem::Severity;

/// The number of namespaces that a message names.
const SHOWN: usize = 3;

pub(super) fn check(object: &Object, world: &World<'_>, report: &mut Report) {
    let selector = texts(&object.value["spec"]["selector"]);
    if !selector.is_empty() && world.has_pod(None, &selector) == Some(false) {
        let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let text = format!("the selector {} selects no pod; correct it, or run a gateway", labels.join(","));
        report.add(object, "IST0101", Severity::Error, "spec.selector", text);
    }
    if !selector.is_empty() {
        ports(object, &selector, world, report);
        credentials(object, &selector, world, report);
    }
}

/// Reports Secrets of servers that no namespace of the Gateway's pods has. Left out if no Secret is known.
fn credentials(object: &Object, selector: &BTreeMap<String, String>, world: &World<'_>, report: &mut Report) {
    let Some(secrets) = &world.secrets else { return };
    let Some(gateway) = world.gateways.get(&(&*object.namespace, object.name())) else { return };
    let namespaces: BTreeSet<&str> = world.pods_with(selector).into_iter().map(|(namespace, _)| namespace).collect();
    if namespaces.is_empty() {
        return;
    }
    for (index, server) in gateway.of.spec.servers.iter().enumerate() {
        let Some(tls) = server.tls_of_port() else { continue };
        for name in tls.credentials().chain(tls.ca_credential()) {
            if !namespaces.iter().any(|namespace| secrets.contains(&(*namespace, name))) {
                let within = namespaces.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
                let text = format!(
                    "the Secret {name:?} is not found in the namespace of the gateway ({within}); create it there"
                );
                report.add(object, "IST0101", Severity::Error, &format!("spec.servers[{index}].tls"), text);
            }
        }
    }
}

/// Reports servers on ports that no Service of the Gateway's pods has.
fn ports(object: &Object, selector: &BTreeMap<String, String>, world: &World<'_>, report: &mut Report) {
    let pods = world.pods_with(selector);
    let services: Vec<_> =
        pods.into_iter().flat_map(|(namespace, labels)| world.services.of(namespace, labels)).collect();
    let ports = services.iter().flat_map(|service| &service.ports);
    let has = |number: &str| ports.clone().any(|port| port.target == number || port.number.to_string() == number);
    if services.is_empty() {
        return;
    }
    for (index, server) in object.value["spec"]["servers"].as_array().into_iter().flatten().enumerate() {
        let Some(number) = server["port"]["number"].as_u64().map(|number| number.to_string()) else { continue };
        if !has(&number) {
            let text = format!(
                "no Service that selects the pods of this Gateway has port {number} or the targetPort {number}; add it to the Service, or correct the number"
            );
            report.add(object, "IST0162", Severity::Warning, &format!("spec.servers[{index}].port"), text);
        }
    }
}

/// Reports Gateways of the same pods with the same certificate: a client that uses its connection to one for a host of the
/// other gets no route.
pub(super) fn certificates(world: &World<'_>, report: &mut Report) {
    /// The selector of a Gateway, and the name of a certificate.
    type Certificate<'a> = (&'a BTreeMap<String, String>, &'a str);
    let mut by_certificate: BTreeMap<Certificate<'_>, Vec<(&Object, usize)>> = BTreeMap::new();
    for gateway in world.gateways.values() {
        let spec = &gateway.of.spec;
        for (index, server) in spec.servers.iter().enumerate() {
            let Some(tls) = server.tls_of_port().filter(|tls| tls.has_certificate()) else { continue };
            let file = Some(tls.files().0).filter(|path| !path.is_empty());
            for name in tls.credentials().chain(file) {
                by_certificate.entry((&spec.selector, name)).or_default().push((gateway.object, index));
            }
        }
    }
    for ((_, name), uses) in by_certificate {
        let Some((first, _)) = uses.first() else { continue };
        let Some((second, _)) = uses.iter().find(|(object, _)| !std::ptr::eq(*object, *first)) else { continue };
        for (object, index) in &uses {
            let other = if std::ptr::eq(*object, *first) { second } else { first };
            let text = format!(
                "the Gateway {} has the certificate {name:?} for the same pods, so that clients may use one connection for hosts of both; put them into one server",
                other.full_name()
            );
            report.add(object, "IST0138", Severity::Warning, &format!("spec.servers[{index}].tls"), text);
        }
    }
}

/// Reports Gateways that serve the same host on the same port of the same pods.
pub(super) fn conflicts(world: &World<'_>, report: &mut Report) {
    let mut by_port: BTreeMap<(&BTreeMap<String, String>, u32), Vec<OfPort<'_>>> = BTreeMap::new();
    for gateway in world.gateways.values() {
        let spec = &gateway.of.spec;
        for (index, server) in spec.servers.iter().enumerate() {
            let hosts = server.hosts.iter().map(|host| without_namespace(host)).collect();
            let number = server.port.as_ref().map_or(0, |port| port.number);
            let of = OfPort { gateway, index, hosts };
            by_port.entry((&spec.selector, number)).or_default().push(of);
        }
    }
    for ((_, port), servers) in by_port {
        for of in &servers {
            let shares = |other: &&OfPort<'_>| {
                !std::ptr::eq(other.gateway.object, of.gateway.object)
                    && other.hosts.iter().any(|host| of.hosts.iter().any(|own| overlap(host, own)))
            };
            let Some(other) = servers.iter().find(shares) else { continue };
            let text = format!(
                "the Gateway {} serves the same hosts on port {port} of the same pods; merge them, or name other hosts",
                other.gateway.object.full_name()
            );
            let field = format!("spec.servers[{}].hosts", of.index);
            report.add(of.gateway.object, "IST0145", Severity::Error, &field, text);
        }
    }
}

/// The hosts of a server on a port.
struct OfPort<'a> {
    gateway: &'a Parsed<'a, Gateway>,
    index: usize,
    hosts: Vec<&'a str>,
}

fn without_namespace(host: &str) -> &str {
    host.split_once('/').map_or(host, |(_, host)| host)
}
