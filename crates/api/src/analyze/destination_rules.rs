//! DestinationRules: hosts and pods that they refer to, and servers that nothing verifies.

use super::message::Report;
use super::world::{Parsed, World};
use crate::networking::DestinationRule;
use crate::networking::problem::Severity;
use crate::networking::traffic_policy::{ClientTls, ClientTlsMode, TrafficPolicy};

pub(super) fn check(rule: &Parsed<'_, DestinationRule>, world: &World<'_>, report: &mut Report) {
    let spec = &rule.of.spec;
    if let Some(policy) = &spec.traffic_policy {
        verification(rule, policy, report);
    }
    if spec.host.is_empty() {
        return;
    }
    let namespace = &rule.object.namespace;
    let Some(host) = world.host(&spec.host, namespace) else {
        let text = format!(
            "the host {:?} is not found, so the rule has no effect; create its Service or ServiceEntry, or correct the name",
            spec.host
        );
        report.add(rule.object, "IST0174", Severity::Warning, "spec.host", text);
        return;
    };
    // A wildcard means several hosts, whose pods differ.
    let (Some(selector), false) = (&host.selector, spec.host.contains('*')) else { return };
    for (index, subset) in spec.subsets.iter().enumerate() {
        let mut labels = selector.clone();
        labels.extend(subset.labels.clone());
        if world.has_pod(Some(host.namespace), &labels) == Some(false) {
            let labels: Vec<String> = subset.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let text = format!(
                "the subset {:?} selects no pod of {:?} ({}); correct its labels, or those of the pods",
                subset.name,
                spec.host,
                labels.join(", ")
            );
            report.add(rule.object, "IST0173", Severity::Error, &format!("spec.subsets[{index}]"), text);
        }
    }
}

fn verification(rule: &Parsed<'_, DestinationRule>, policy: &TrafficPolicy, report: &mut Report) {
    if let Some(tls) = policy.tls.as_ref().filter(|tls| is_unverified(tls)) {
        report.add(rule.object, "IST0128", Severity::Warning, "spec.trafficPolicy.tls", unverified(tls, rule));
    }
    for (index, of_port) in policy.port_level_settings.iter().enumerate() {
        if let Some(tls) = of_port.tls.as_ref().filter(|tls| is_unverified(tls)) {
            let field = format!("spec.trafficPolicy.portLevelSettings[{index}].tls");
            report.add(rule.object, "IST0129", Severity::Warning, &field, unverified(tls, rule));
        }
    }
}

fn is_unverified(tls: &ClientTls) -> bool {
    matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual)
        && tls.ca_certificates.is_empty()
        && tls.credential_name.is_empty()
}

fn unverified(tls: &ClientTls, rule: &Parsed<'_, DestinationRule>) -> String {
    format!(
        "mode {} without caCertificates: the certificates of {:?} are accepted if any public authority signed them; set caCertificates or credentialName",
        tls.mode.as_str(),
        rule.of.spec.host
    )
}
