//! A DestinationRule as a whole: its host, subsets and where it has effect.

use std::collections::HashSet;

use super::{Check, layer4, names, traffic_policy};
use crate::networking::DestinationRule;
use crate::networking::destination_rule::{Subset, WorkloadSelector};

pub(super) fn check(rule: &DestinationRule, check: &mut Check) {
    let spec = &rule.spec;
    check.at(format_args!(".host"), |check| check.accept(names::wildcard_host(&spec.host)));
    check.some("trafficPolicy", &spec.traffic_policy, traffic_policy::check);
    let mut seen = HashSet::new();
    check.each("subsets", &spec.subsets, |of, check| subset(of, seen.insert(&of.name), check));
    let own = rule.metadata.namespace.as_deref().unwrap_or(".");
    names::export_to(check, own, &spec.export_to, spec.workload_selector.is_some());
    check.some("workloadSelector", &spec.workload_selector, selector);
}

fn subset(subset: &Subset, new: bool, check: &mut Check) {
    if subset.name.is_empty() {
        check.error_of("name", "is missing; name the subset");
    } else if !names::is_label(&subset.name) {
        check.error_of("name", layer4::subset_name(&subset.name));
    } else if !new {
        check.error_of("name", format!("is {:?}, which another subset has; rename one", names::shown(&subset.name)));
    }
    names::label_map(check, "labels", &subset.labels);
    check.some("trafficPolicy", &subset.traffic_policy, traffic_policy::check);
}

/// Checks a selector of workloads.
pub(crate) fn selector(selector: &WorkloadSelector, check: &mut Check) {
    if selector.match_labels.is_empty() {
        check.warn_of("matchLabels", "is empty, so all workloads of the namespace are selected; write labels");
    }
    for (key, value) in &selector.match_labels {
        check.at(format_args!(".matchLabels[{}]", names::shown(key)), |check| {
            if key.is_empty() {
                check.error("has an empty key; write the key of a label");
            }
            if key.contains('*') || value.contains('*') {
                check.error("has a \"*\", but wildcards are not possible here; write the whole label");
            }
        });
    }
}
