//! Analysis of a set of objects: what is wrong with each, and between them, with the codes of `istioctl analyze`.
//!
//! - [`object`]: an object, and where it comes from.
//! - [`message`]: what is found, and how it is suppressed.
//! - [`world`]: the hosts, subsets, gateways and pods that objects refer to.
//! - [`virtual_services`], [`conflicts`]: VirtualServices, by themselves and with each other.
//! - [`destination_rules`]: DestinationRules, and the pods of their subsets.
//! - [`gateways`], [`services`]: what both refer to.
//! - [`service_rules`]: TrafficSplits and ServiceProfiles.
//! - [`across_clusters`]: Services that differ between clusters.
//! - [`workloads`], [`injection`]: workloads, the Services of their pods, and their sidecars.
//! - [`policies`]: security policies.
//!
//! Everything is decided from the objects alone. What they do not contain is not found: a check of pods is left out if no pod
//! and no workload is known.

mod across_clusters;
mod conflicts;
mod destination_rules;
mod gateways;
mod injection;
pub mod message;
pub mod object;
mod policies;
mod service_rules;
mod services;
#[cfg(test)]
mod tests;
mod virtual_services;
mod workloads;
mod world;

pub use message::{Message, Suppression};
pub use object::{Object, Origin};

use crate::networking::problem::{SCHEMA_ERROR, Severity};
use crate::networking::{self, Problem};
use crate::{envoy_filter, federation, linkerd, rate_limit, security, smi};
use message::Report;
use world::World;

/// Analyses objects. Messages are in the order of files and lines, then of objects.
pub fn analyze(objects: &[Object], suppressions: &[Suppression]) -> Vec<Message> {
    let world = World::new(objects);
    let mut report = Report::default();
    for object in objects {
        validate(object, &mut report);
        match (object.group(), object.kind()) {
            (networking::GROUP, "Gateway") => gateways::check(object, &world, &mut report),
            ("", "Service") => services::check(object, &mut report),
            ("", "Namespace") => injection::check_namespace(object, &mut report),
            ("", "Pod") => {
                injection::check_pod(object, &world.namespaces, &mut report);
                workloads::users(object, "spec", &mut report);
            }
            ("apps", "Deployment" | "StatefulSet" | "DaemonSet") if world.namespaces.may_inject(object) => {
                workloads::ports(object, &world.services, &mut report);
                workloads::users(object, "spec.template.spec", &mut report);
            }
            (policies::GROUP, _) => policies::check(object, &world, &mut report),
            _ => {}
        }
    }
    for service in &world.virtual_services {
        virtual_services::check(service, &world, &mut report);
    }
    for rule in &world.destination_rules {
        destination_rules::check(rule, &world, &mut report);
        policies::mutual_tls(rule, &world, &mut report);
    }
    service_rules::check(&world, &mut report);
    conflicts::check(&world, &mut report);
    gateways::conflicts(&world, &mut report);
    gateways::certificates(&world, &mut report);
    services::conflicts(objects, &mut report);
    across_clusters::check(objects, &mut report);
    report.finish(suppressions)
}

/// Reports what is wrong with an object by itself.
fn validate(object: &Object, report: &mut Report) {
    let (group, kind, value) = (object.group(), object.kind(), &object.value);
    let mut problems = networking::validate(group, kind, value);
    problems.extend(security::validate(group, kind, value));
    problems.extend(smi::validate(group, kind, value));
    problems.extend(linkerd::validate(group, kind, value));
    problems.extend(envoy_filter::validate(group, kind, value));
    problems.extend(rate_limit::validate(group, kind, value));
    problems.extend(federation::validate(group, kind, value));
    for problem in problems {
        // In a file it is not admitted yet: kubectl would have it refused.
        let refused = problem.code == SCHEMA_ERROR && object.is_of_file();
        let severity = if refused { Severity::Error } else { problem.severity };
        let Problem { code, field, message, .. } = problem;
        let text = format!("{field} {message}");
        report.add(object, code, severity, &field, text);
    }
}
