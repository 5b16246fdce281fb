//! Gateways: the pods that they select, and the hosts that they share.

use std::collections::BTreeMap;

use super::message::Report;
use super::object::{Object, texts};
use super::virtual_services::overlap;
use super::world::{Parsed, World};
use crate::gateway::{Gateway, Server};
use crate::networking::problem::Severity;

pub(super) fn check(object: &Object, world: &World<'_>, report: &mut Report) {
    let selector = texts(&object.value["spec"]["selector"]);
    let (Some(pods), false) = (&world.pods, selector.is_empty()) else { return };
    if !pods.iter().any(|pod| pod.has(&selector)) {
        let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let text = format!("the selector {} selects no pod; correct it, or run a gateway", labels.join(","));
        report.add(object, "IST0101", Severity::Error, "spec.selector", text);
    }
}

/// Reports Gateways that serve the same host on the same port of the same pods.
pub(super) fn conflicts(world: &World<'_>, report: &mut Report) {
    let mut by_port: BTreeMap<(&BTreeMap<String, String>, u32), Vec<OfPort<'_>>> = BTreeMap::new();
    for gateway in world.gateways.values() {
        let spec = &gateway.of.spec;
        for (index, server) in spec.servers.iter().enumerate() {
            let key = (&spec.selector, server.port.number);
            by_port.entry(key).or_default().push(OfPort { gateway, index, server });
        }
    }
    for ((_, port), servers) in by_port {
        for of in &servers {
            let hosts = |server: &Server| {
                server.hosts.iter().map(|host| without_namespace(host)).map(str::to_owned).collect::<Vec<_>>()
            };
            let own = hosts(of.server);
            let conflicting = servers.iter().filter(|other| !std::ptr::eq(other.gateway.object, of.gateway.object));
            let shared =
                |other: &&OfPort<'_>| hosts(other.server).iter().any(|host| own.iter().any(|own| overlap(host, own)));
            let Some(other) = conflicting.into_iter().find(shared) else { continue };
            let text = format!(
                "the Gateway {} serves the same hosts on port {port} of the same pods; merge them, or name other hosts",
                other.gateway.object.full_name()
            );
            report.add(
                of.gateway.object,
                "IST0145",
                Severity::Error,
                &format!("spec.servers[{}].hosts", of.index),
                text,
            );
        }
    }
}

/// A server on a port.
struct OfPort<'a> {
    gateway: &'a Parsed<'a, Gateway>,
    index: usize,
    server: &'a Server,
}

fn without_namespace(host: &str) -> &str {
    host.split_once('/').map_or(host, |(_, host)| host)
}
