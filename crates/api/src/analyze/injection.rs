//! Injection of sidecars: labels of namespaces, and pods without one.

use std::collections::HashMap;

use super::message::Report;
use super::object::Object;
use super::services::OF_SYSTEM;
use crate::networking::problem::Severity;

/// The label of namespaces.
const NAMESPACE: &str = "istio-injection";
/// Istio's label of namespaces for a revision of its control plane, and for its ambient mode. Both have no effect.
const OTHERS: &[&str] = &["istio.io/rev", "istio.io/dataplane-mode"];
/// The label and annotation of pods.
const POD: &str = "sidecar.istio.io/inject";
/// The annotation of injected pods.
const STATUS: &str = "sidecar.istio.io/status";

/// The namespaces.
#[derive(Default)]
pub(super) struct Namespaces<'a>(HashMap<&'a str, Vec<&'a Object>>);

impl<'a> Namespaces<'a> {
    pub(super) fn add(&mut self, object: &'a Object) {
        self.0.entry(object.name()).or_default().push(object);
    }

    /// Returns whether the label of an object's namespace enables injection; `None` if the namespace is not known.
    fn enables(&self, object: &Object) -> Option<bool> {
        let namespaces = self.0.get(&*object.namespace)?;
        let found = namespaces.iter().find(|namespace| namespace.may_share_cluster(object))?;
        Some(found.label(NAMESPACE) == Some("enabled"))
    }

    /// Returns whether the pods of a workload may be part of the mesh.
    pub(super) fn may_inject(&self, workload: &Object) -> bool {
        let metadata = &workload.value["spec"]["template"]["metadata"];
        let own = metadata["labels"][POD].as_str().or(metadata["annotations"][POD].as_str());
        own.map_or_else(|| self.enables(workload).unwrap_or(true), |own| own == "true")
    }
}

/// Reports a namespace whose pods get no sidecar, and labels that contradict each other.
pub(super) fn check_namespace(namespace: &Object, report: &mut Report) {
    if OF_SYSTEM.contains(&namespace.name()) {
        return;
    }
    let own = namespace.label(NAMESPACE);
    let other = OTHERS.iter().find(|label| namespace.label(label).is_some());
    match (own, other) {
        (Some("enabled"), Some(other)) => {
            let text =
                format!("has the label {other} beside {NAMESPACE}=enabled, which alone has effect; remove {other}");
            report.add(namespace, "IST0123", Severity::Warning, &format!("metadata.labels[{other}]"), text);
        }
        (None, other) => {
            let of_other = other.map_or_else(String::new, |other| format!(" (the label {other} has no effect)"));
            let text = format!(
                "is not enabled for injection{of_other}, so its pods get no sidecar; label it {NAMESPACE}=enabled, or {NAMESPACE}=disabled if that is meant"
            );
            report.add(namespace, "IST0102", Severity::Info, "metadata.name", text);
        }
        _ => {}
    }
}

/// Reports a pod of a cluster that was created without a sidecar in a namespace whose pods have one.
pub(super) fn check_pod(pod: &Object, namespaces: &Namespaces<'_>, report: &mut Report) {
    let opted_out = pod.label(POD).or(pod.annotation(POD)).is_some_and(|own| own != "true");
    let injected = pod.annotation(STATUS).is_some();
    if pod.is_of_file() || injected || opted_out || namespaces.enables(pod) != Some(true) {
        return;
    }
    let text = format!(
        "has no sidecar, although its namespace is labelled {NAMESPACE}=enabled: it is older than the label, or uses the host network; create it anew, or label its template {POD}=false"
    );
    report.add(pod, "IST0103", Severity::Warning, "metadata.name", text);
}
