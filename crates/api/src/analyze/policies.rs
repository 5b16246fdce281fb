//! Security policies: workloads that they select, and TLS settings of clients that contradict them.

use std::collections::BTreeMap;

use super::message::Report;
use super::object::{Object, texts};
use super::world::{Host, Parsed, World};
use crate::names::ROOT_NAMESPACE;
use crate::networking::DestinationRule;
use crate::networking::problem::Severity;
use crate::networking::traffic_policy::{ClientTls, ClientTlsMode};

/// The API group.
pub(super) const GROUP: &str = "security.istio.io";

/// Reports a policy whose selector selects no pod.
pub(super) fn check(policy: &Object, world: &World<'_>, report: &mut Report) {
    let selector = texts(&policy.value["spec"]["selector"]["matchLabels"]);
    let namespace = (policy.namespace != ROOT_NAMESPACE).then_some(&*policy.namespace);
    if selector.is_empty() || world.has_pod(namespace, &selector) != Some(false) {
        return;
    }
    let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let text = format!("the selector {} selects no pod; correct it, or remove the policy", labels.join(","));
    report.add(policy, "IST0127", Severity::Warning, "spec.selector", text);
}

/// Reports TLS settings for a host that its PeerAuthentication contradicts.
pub(super) fn mutual_tls(rule: &Parsed<'_, DestinationRule>, world: &World<'_>, report: &mut Report) {
    let spec = &rule.of.spec;
    let Some(host) = world.host(&spec.host, &rule.object.namespace).filter(|_| !spec.host.contains('*')) else {
        return;
    };
    let Some((policy, mode)) = effective(host, world) else { return };
    let mut settings: Vec<(String, &ClientTls)> = Vec::new();
    let policies = spec.traffic_policy.iter().map(|policy| ("spec.trafficPolicy".to_owned(), policy));
    let subsets = spec.subsets.iter().enumerate().filter_map(|(index, subset)| {
        Some((format!("spec.subsets[{index}].trafficPolicy"), subset.traffic_policy.as_ref()?))
    });
    for (field, policy) in policies.chain(subsets) {
        settings.extend(policy.tls.as_ref().map(|tls| (format!("{field}.tls"), tls)));
        let ports = policy.port_level_settings.iter().enumerate();
        settings.extend(ports.filter_map(|(index, of_port)| {
            Some((format!("{field}.portLevelSettings[{index}].tls"), of_port.tls.as_ref()?))
        }));
    }
    for (field, tls) in settings {
        let instead = match (mode, tls.mode) {
            ("STRICT", ClientTlsMode::IstioMutual) => continue,
            ("STRICT", _) => "requires mutual TLS of the mesh; use ISTIO_MUTUAL, or remove tls",
            ("DISABLE", ClientTlsMode::IstioMutual) => "disables mutual TLS of the mesh; remove tls",
            _ => continue,
        };
        let text = format!(
            "mode {} contradicts PeerAuthentication {}, which {instead}",
            tls.mode.as_str(),
            policy.full_name()
        );
        report.add(rule.object, "IST0113", Severity::Error, &field, text);
    }
}

/// Returns the PeerAuthentication of the pods of a Service, and its mode. There is none if ports or pods of the Service have
/// different ones.
fn effective<'a>(host: &Host<'a>, world: &World<'a>) -> Option<(&'a Object, &'a str)> {
    let selector = host.selector.as_ref()?;
    let selected_by = |policy: &Object| texts(&policy.value["spec"]["selector"]["matchLabels"]);
    let of = |namespace: &str| world.peer_authentications.get(namespace).into_iter().flatten().copied();
    let selects =
        |labels: &BTreeMap<String, String>| labels.iter().all(|(key, value)| selector.get(key) == Some(value));
    let (whole, own): (Vec<&Object>, Vec<&Object>) =
        of(host.namespace).partition(|policy| selected_by(policy).is_empty());
    // Whether a policy of other labels selects some of the pods.
    let concerns = |policy: &Object| {
        let mut labels = selected_by(policy);
        let contradicts = labels.iter().any(|(key, value)| selector.get(key).is_some_and(|of| of != value));
        labels.extend(selector.clone());
        !contradicts && world.has_pod(Some(host.namespace), &labels) != Some(false)
    };
    if own.iter().any(|policy| !selects(&selected_by(policy)) && concerns(policy)) {
        return None;
    }
    let own = own.into_iter().filter(|policy| selects(&selected_by(policy)));
    let root = of(ROOT_NAMESPACE).filter(|policy| selected_by(policy).is_empty());
    for policy in own.chain(whole).chain(root) {
        let spec = &policy.value["spec"];
        if spec["portLevelMtls"].as_object().is_some_and(|ports| !ports.is_empty()) {
            return None;
        }
        match spec["mtls"]["mode"].as_str() {
            None | Some("UNSET" | "") => {}
            Some(mode) => return Some((policy, mode)),
        }
    }
    None
}
