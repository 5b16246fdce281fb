//! Validation: what Istio's validation refuses and warns of, and what Istio accepts although it does something else than it
//! says.

mod authorization;
mod requests;
pub(crate) mod values;

use super::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication, TargetRef};
use crate::networking::Problem;
use crate::networking::destination_rule::WorkloadSelector;
use crate::networking::problem::Severity;
use crate::networking::validate::Check;
use crate::networking::validate::destination_rule::selector as check_selector;

impl AuthorizationPolicy {
    /// Returns what is wrong with the object, at most 100 problems. It is refused if one of them is an error.
    pub fn validate(&self) -> Vec<Problem> {
        let mut check = Check::of(&self.unread);
        let spec = &self.spec;
        applies_to(&spec.selector, &spec.target_ref, &spec.target_refs, &mut check);
        authorization::check(self, &mut check);
        check.into_problems()
    }
}

impl PeerAuthentication {
    /// Returns what is wrong with the object, at most 100 problems. It is refused if one of them is an error.
    pub fn validate(&self) -> Vec<Problem> {
        let mut check = Check::of(&self.unread);
        let spec = &self.spec;
        check.some("selector", &spec.selector, check_selector);
        if !spec.selects() && !spec.port_level_mtls.is_empty() {
            check.error_of("portLevelMtls", "needs a selector: ports belong to workloads; select them, or remove it");
        }
        for port in spec.port_level_mtls.keys().filter(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
            check.at(format_args!(".portLevelMtls[{}]", crate::networking::json::shown(port)), |check| {
                check.error("is not the number of a port of the application, from 1 to 65535");
            });
        }
        check.into_problems()
    }
}

impl RequestAuthentication {
    /// Returns what is wrong with the object, at most 100 problems. It is refused if one of them is an error.
    pub fn validate(&self) -> Vec<Problem> {
        let mut check = Check::of(&self.unread);
        let spec = &self.spec;
        applies_to(&spec.selector, &spec.target_ref, &spec.target_refs, &mut check);
        check.each("jwtRules", &spec.jwt_rules, requests::rule);
        requests::shadowed_tokens(&spec.jwt_rules, &mut check);
        check.into_problems()
    }
}

/// Checks what a policy applies to.
fn applies_to(
    selector: &Option<WorkloadSelector>,
    target: &Option<TargetRef>,
    targets: &[TargetRef],
    check: &mut Check,
) {
    check.one_of(&[
        ("selector", selector.is_some()),
        ("targetRef", target.is_some()),
        ("targetRefs", !targets.is_empty()),
    ]);
    check.some("selector", selector, check_selector);
    check.some("targetRef", target, target_ref);
    check.each("targetRefs", targets, target_ref);
}

fn target_ref(target: &TargetRef, check: &mut Check) {
    const KINDS: [(&str, &str); 4] = [
        ("gateway.networking.k8s.io", "Gateway"),
        ("gateway.networking.k8s.io", "GatewayClass"),
        ("", "Service"),
        ("networking.istio.io", "ServiceEntry"),
    ];
    if target.name.is_empty() {
        check.error_of("name", "is missing; write the name of the object");
    }
    if !target.namespace.is_empty() {
        check.error_of("namespace", "cannot be set: the object is in the policy's own namespace; remove it");
    }
    let group = if target.group == "core" { "" } else { &target.group };
    if !KINDS.contains(&(group, &target.kind)) {
        check.error_of("kind", "must be Gateway, GatewayClass, Service or ServiceEntry, with its group");
    } else {
        let message = "has no effect: policies of such objects are for gateways and waypoints, which there are none of; use a selector, and protect the workloads";
        check.found("IST0101", Severity::Warning, message);
    }
}
