//! TrafficSplit: the services that the requests and connections of a service go to, by weight.

use crate::networking::Problem;
use crate::networking::json::{message, object, shown};
use crate::networking::validate::{Check, names};
use crate::quantity::Quantity;

/// The number of backends of a split.
pub const MAX_BACKENDS: usize = 256;
/// The number of groups that a split refers to.
pub const MAX_GROUPS: usize = 64;

object! {
    /// SMI's TrafficSplit resource. v1alpha2 is the version that every distribution of the definition serves.
    TrafficSplit: TrafficSplitSpec, "split.smi-spec.io", "v1alpha2", "TrafficSplit", "trafficsplits"
}

message! {
    /// The spec of a TrafficSplit.
    TrafficSplitSpec {
        /// The root service, which clients use.
        service: String = "service",
        /// The services that receive its traffic.
        backends: Vec<Backend> = "backends",
        /// The HTTPRouteGroups whose requests are split; empty: all requests and connections. v1alpha3.
        matches: Vec<Reference> = "matches",
    }
}

message! {
    /// A service that receives a share.
    Backend {
        /// The service.
        service: String = "service",
        /// The share, in proportion to the others. Required.
        weight: Option<Quantity> = "weight",
    }
}

message! {
    /// A reference to an object of the same namespace.
    Reference {
        /// The API group.
        api_group: String = "apiGroup",
        /// The kind.
        kind: String = "kind",
        /// The name.
        name: String = "name",
    }
}

impl TrafficSplit {
    /// Returns what is wrong with the object, at most 100 problems. It is refused if one of them is an error.
    pub fn validate(&self) -> Vec<Problem> {
        let mut check = Check::of(&self.unread);
        let spec = &self.spec;
        check.at(format_args!(".service"), |check| check.accept(names::host(&spec.service)));
        match spec.backends.len() {
            0 => check.error_of("backends", "is empty; name the services that receive the traffic"),
            1..=MAX_BACKENDS => {}
            count => check.error_of("backends", format!("has {count} items; a split has at most {MAX_BACKENDS}")),
        }
        check.each("backends", &spec.backends, |backend, check| {
            check.at(format_args!(".service"), |check| check.accept(names::host(&backend.service)));
            if backend.weight.is_none() {
                check.error_of("weight", "is missing; write a weight such as 90, or 0 for no traffic");
            }
        });
        let all_zero = spec.backends.iter().all(|backend| backend.weight.is_some_and(|weight| weight.parts() == 0));
        if all_zero && !spec.backends.is_empty() {
            check.warn_of("backends", "has no weight above 0, so that the traffic goes to the root service");
        }
        if spec.matches.len() > MAX_GROUPS {
            check.error_of("matches", format!("has {} items; a split has at most {MAX_GROUPS}", spec.matches.len()));
        }
        check.each("matches", &spec.matches, |reference, check| {
            if reference.kind != "HTTPRouteGroup" {
                let kind = shown(&reference.kind);
                check.error_of("kind", format!("is {kind:?}; a split matches by groups of kind HTTPRouteGroup"));
            }
            if reference.name.is_empty() {
                check.error_of("name", "is empty; write the name of an HTTPRouteGroup of this namespace");
            }
        });
        check.into_problems()
    }
}
