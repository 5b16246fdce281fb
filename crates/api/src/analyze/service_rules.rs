//! TrafficSplits and ServiceProfiles: services and groups that they refer to, and rules that take precedence.

use std::collections::{BTreeSet, HashMap};

use super::message::Report;
use super::object::Object;
use super::world::{Host, Parsed, World, full_host};
use crate::linkerd::ServiceProfile;
use crate::networking::VirtualService;
use crate::networking::problem::Severity;
use crate::smi::{TrafficSplit, service_of};

/// The domain of clusters.
const DOMAIN: &str = "cluster.local";

/// The rules of services beside Istio's.
#[derive(Default)]
pub(super) struct ServiceRules<'a> {
    /// The TrafficSplits, by the host of the root service.
    splits: HashMap<String, Vec<(&'a Object, TrafficSplit)>>,
    profiles: Vec<(&'a Object, ServiceProfile)>,
    /// The HTTPRouteGroups, by namespace and name.
    groups: BTreeSet<(&'a str, &'a str)>,
}

impl<'a> ServiceRules<'a> {
    pub(super) fn add_split(&mut self, object: &'a Object) {
        let split = TrafficSplit::from_value(&object.value);
        let host = host_of(&split.spec.service, &object.namespace).unwrap_or_default();
        self.splits.entry(host).or_default().push((object, split));
    }

    pub(super) fn add_profile(&mut self, object: &'a Object) {
        self.profiles.push((object, ServiceProfile::from_value(&object.value)));
    }

    pub(super) fn add_group(&mut self, object: &'a Object) {
        self.groups.insert((&object.namespace, object.name()));
    }
}

/// Returns the host of the service of a namespace that a TrafficSplit names.
fn host_of(name: &str, namespace: &str) -> Option<String> {
    let (service, of) = service_of(name, namespace, DOMAIN)?;
    (of == namespace).then(|| full_host(service, namespace))
}

pub(super) fn check(world: &World<'_>, report: &mut Report) {
    let rules = &world.service_rules;
    for (host, splits) in &rules.splits {
        for (object, split) in splits {
            self::split(object, split, host, world, report);
            if host.is_empty() {
                continue;
            }
            precedence(object, "spec.service", host, world, report);
            let same = |other: &&(&Object, TrafficSplit)| other.0.full_name() != object.full_name();
            if let Some((other, _)) = splits.iter().find(same) {
                let text = format!(
                    "TrafficSplit {} is for the same service; the oldest has effect: remove one",
                    other.full_name()
                );
                report.add(object, "IST0109", Severity::Error, "spec.service", text);
            }
        }
    }
    for (object, of) in &rules.profiles {
        profile(object, of, world, report);
        precedence(object, "metadata.name", object.name(), world, report);
    }
}

fn split(object: &Object, split: &TrafficSplit, root: &str, world: &World<'_>, report: &mut Report) {
    let (spec, namespace) = (&split.spec, &*object.namespace);
    let Some(host) = world.host(root, namespace).filter(|_| !root.is_empty()) else {
        let text = format!(
            "the service {:?} is not found in namespace {namespace}, so the split has no effect; create it, or correct the name",
            spec.service
        );
        report.add(object, "IST0101", Severity::Error, "spec.service", text);
        return;
    };
    for (index, backend) in spec.backends.iter().enumerate() {
        let field = format!("spec.backends[{index}].service");
        let name = host_of(&backend.service, namespace);
        let Some(of) = name.as_ref().and_then(|name| world.host(name, namespace)) else {
            let text = format!(
                "the service {:?} is not found in namespace {namespace}, so it receives nothing; create it, or correct the name",
                backend.service
            );
            report.add(object, "IST0101", Severity::Error, &field, text);
            continue;
        };
        let missing: Vec<String> = host.ports.difference(&of.ports).map(u32::to_string).collect();
        if !missing.is_empty() {
            let text = format!(
                "{:?} has no port {} of {:?}, so it receives nothing of what is for it; add the port",
                backend.service,
                missing.join(", "),
                spec.service
            );
            report.add(object, "IST0101", Severity::Error, &field, text);
        }
        let nested = name.as_deref().filter(|name| *name != root);
        if nested.is_some_and(|name| world.service_rules.splits.contains_key(name)) {
            let text =
                "the TrafficSplit of this service has no effect on what this one sends to it; name its backends here";
            report.add(object, "IST0133", Severity::Warning, &field, text.to_owned());
        }
    }
    for (index, reference) in spec.matches.iter().enumerate() {
        if !world.service_rules.groups.contains(&(namespace, &*reference.name)) {
            let text =
                format!("the HTTPRouteGroup {:?} is not found, so it matches no request; create it", reference.name);
            report.add(object, "IST0101", Severity::Error, &format!("spec.matches[{index}].name"), text);
        }
    }
}

fn profile(object: &Object, of: &ServiceProfile, world: &World<'_>, report: &mut Report) {
    let (name, spec, namespace) = (object.name(), &of.spec, &*object.namespace);
    // The profile of a client's namespace is for a service of another one.
    let exists = |host: &str| {
        world.host(host, namespace).is_some_and(|of: &Host<'_>| of.selector.is_some() || !of.ports.is_empty())
    };
    if name.contains('.') && !exists(name) {
        let text = format!("no service has host {name:?}, so the profile has no effect; correct its name");
        report.add(object, "IST0101", Severity::Error, "metadata.name", text);
    }
    for (index, to) in spec.dst_overrides.iter().enumerate() {
        let Some((host, port)) = to.host_and_port() else { continue };
        let field = format!("spec.dstOverrides[{index}].authority");
        match world.host(host, namespace) {
            None => {
                let text = format!(
                    "the service {host:?} is not found, so it receives nothing; create it, or correct the name"
                );
                report.add(object, "IST0101", Severity::Error, &field, text);
            }
            Some(of) => {
                if let Some(port) = port.filter(|port| !of.ports.contains(&u32::from(*port))) {
                    let text = format!("{host:?} has no port {port}, so it receives nothing; correct the port");
                    report.add(object, "IST0101", Severity::Error, &field, text);
                }
            }
        }
    }
    if let Some((split, _)) = world.service_rules.splits.get(name).and_then(|splits| splits.first())
        && !spec.dst_overrides.is_empty()
    {
        let text = format!(
            "TrafficSplit {} splits the host, so that these have no effect; remove one of both",
            split.full_name()
        );
        report.add(object, "IST0109", Severity::Error, "spec.dstOverrides", text);
    }
}

/// Reports a VirtualService for the same host.
fn precedence(object: &Object, field: &str, host: &str, world: &World<'_>, report: &mut Report) {
    let routes = |service: &&Parsed<'_, VirtualService>| {
        let spec = &service.of.spec;
        let covers = |of: &String| {
            let of = full_host(of, &service.object.namespace);
            of.strip_prefix('*').map_or(of == host, |suffix| host.ends_with(suffix))
        };
        spec.applies_to_mesh() && spec.hosts.iter().any(covers)
    };
    if let Some(service) = world.virtual_services.iter().find(routes) {
        let text = format!(
            "VirtualService {} is for the same host and takes precedence; write the routes there, or remove it",
            service.object.full_name()
        );
        report.add(object, "IST0109", Severity::Error, field, text);
    }
}
