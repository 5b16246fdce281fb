//! Istio's EnvoyFilter, as far as it limits the rate of requests.
//!
//! No proxy is Envoy, so a patch of its configuration has no meaning by itself. The patches that Istio's documentation gives for local
//! and global rate limits are recognised and translated ([`translate`]); a warning names every other one.
//!
//! Patches are JSON forms of Envoy's messages, whose fields have the names of either form: `max_tokens` or `maxTokens`.

mod actions;
mod fields;
mod filters;
#[cfg(test)]
mod tests;
mod translate;

use serde_json::Value;

use crate::compatibility::{ENVOY_FILTER, KindWithoutEffect};
use crate::networking::Problem;
use crate::networking::json::{Field, Reader, message, object};
use crate::networking::validate::Check;
use crate::rate_limit::Limits;
use crate::security::TargetRef;

/// Why most patches have no effect, and what to use instead.
pub const INSTEAD: &str =
    "no proxy is Envoy, and only limits on rates are translated; use a VirtualService or a DestinationRule";

/// The code of warnings about what has no effect.
pub const NO_EFFECT: &str = "IST0101";

object! {
    /// Istio's EnvoyFilter resource.
    EnvoyFilter: EnvoyFilterSpec, "networking.istio.io", "v1alpha3", "EnvoyFilter", "envoyfilters"
}

message! {
    /// The spec of an EnvoyFilter.
    EnvoyFilterSpec {
        /// The workloads to which it applies; unset: all of its namespace, or of the mesh if that is the root namespace.
        workload_selector: Option<LabelSelector> = "workloadSelector",
        /// The gateways and waypoints to which it applies instead.
        target_refs: Vec<TargetRef> = "targetRefs",
        /// The patches.
        config_patches: Vec<ConfigPatch> = "configPatches",
        /// The place among the EnvoyFilters of a workload: those with less come first.
        priority: i32 = "priority",
    }
}

message! {
    /// A selector of workloads.
    LabelSelector {
        /// The labels.
        labels: std::collections::BTreeMap<String, String> = "labels",
    }
}

message! {
    /// A patch.
    ConfigPatch {
        /// What is patched.
        apply_to: String = "applyTo",
        /// Where.
        matching: Raw = "match",
        /// How.
        patch: Raw = "patch",
    }
}

/// A value as it is written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Raw(pub Value);

impl Field for Raw {
    fn read(value: &Value, _: &mut Reader) -> Self {
        Raw(value.clone())
    }

    fn json(&self) -> Value {
        self.0.clone()
    }

    fn is_unset(&self) -> bool {
        self.0.is_null()
    }
}

impl EnvoyFilter {
    /// Returns what is wrong with the object, at most 100 problems. Patches without effect are warnings.
    pub fn validate(&self) -> Vec<Problem> {
        let mut check = Check::of(&self.unread);
        let spec = &self.spec;
        if !spec.target_refs.is_empty() {
            check.error_of(
                "targetRefs",
                "is for gateways and waypoints of the Gateway API, which there are none of; use workloadSelector",
            );
        }
        let (_, problems) = spec.translate();
        check.add(problems);
        check.into_problems()
    }
}

impl EnvoyFilterSpec {
    /// Returns the limits, and what has no effect.
    pub fn translate(&self) -> (Limits, Vec<Problem>) {
        translate::translate(self)
    }

    /// Returns whether any patch has an effect.
    pub fn has_effect(&self) -> bool {
        let (limits, _) = self.translate();
        !limits.rules.is_empty() || !limits.route_descriptors.is_empty()
    }
}

/// Returns the kind if an object is an EnvoyFilter without any effect.
pub fn without_effect(group: &str, kind: &str, object: &Value) -> Option<&'static KindWithoutEffect> {
    let is_filter = (group, kind) == (ENVOY_FILTER.group, ENVOY_FILTER.kind);
    (is_filter && !EnvoyFilter::from_value(object).spec.has_effect()).then_some(&ENVOY_FILTER)
}

/// Returns what is wrong with an object of a kind, if it is an EnvoyFilter, as Kubernetes has it.
pub fn validate(group: &str, kind: &str, object: &Value) -> Vec<Problem> {
    match (group, kind) {
        (crate::networking::GROUP, "EnvoyFilter") => EnvoyFilter::from_value(object).validate(),
        _ => Vec::new(),
    }
}
