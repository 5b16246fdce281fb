//! VirtualServices of sidecars with the same host, of which the oldest alone has effect.

use std::collections::{BTreeMap, BTreeSet};

use super::message::Report;
use super::world::{Parsed, World, full_host};
use crate::networking::VirtualService;
use crate::networking::problem::Severity;

/// A VirtualService, and the index of the host among its own.
type OfHost<'a> = (&'a Parsed<'a, VirtualService>, usize);

pub(super) fn check(world: &World<'_>, report: &mut Report) {
    let mut by_host: BTreeMap<(String, String), Vec<OfHost<'_>>> = BTreeMap::new();
    for service in world.virtual_services.iter().filter(|service| service.of.spec.applies_to_mesh()) {
        let namespace = &service.object.namespace;
        let export_to = &service.of.spec.export_to;
        let scopes: BTreeSet<&str> = match export_to.is_empty() {
            true => BTreeSet::from(["*"]),
            false => export_to.iter().map(|to| if to == "." { namespace } else { to }).map(String::as_str).collect(),
        };
        for (index, host) in service.of.spec.hosts.iter().enumerate() {
            for scope in &scopes {
                let key = ((*scope).to_owned(), full_host(host, namespace));
                by_host.entry(key).or_default().push((service, index));
            }
        }
    }
    for ((_, host), services) in by_host {
        // The same object of several clusters is one.
        let names: BTreeSet<String> = services.iter().map(|(service, _)| service.object.full_name()).collect();
        if names.len() < 2 {
            continue;
        }
        for (service, index) in services {
            let own = service.object.full_name();
            let others: Vec<&str> = names.iter().filter(|name| **name != own).map(String::as_str).collect();
            let text = format!(
                "the host {host} has routes of other VirtualServices as well ({}); the oldest alone has effect in sidecars: merge them",
                others.join(", ")
            );
            report.add(service.object, "IST0109", Severity::Error, &format!("spec.hosts[{index}]"), text);
        }
    }
}
