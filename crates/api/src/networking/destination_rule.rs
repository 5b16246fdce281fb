//! DestinationRule: the subsets of a host, and the policies of connections to it.

use std::collections::BTreeMap;

use super::json::{message, object};
use super::traffic_policy::TrafficPolicy;

object! {
    /// Istio's DestinationRule resource.
    DestinationRule: DestinationRuleSpec, "networking.istio.io", "DestinationRule", "destinationrules"
}

message! {
    /// The spec of a DestinationRule.
    DestinationRuleSpec {
        /// The host: a short name is in the namespace of the DestinationRule.
        host: String = "host",
        /// The policy of connections to the host.
        traffic_policy: Option<TrafficPolicy> = "trafficPolicy",
        /// The subsets.
        subsets: Vec<Subset> = "subsets",
        /// The namespaces in which it has effect: `.`, `*` or names; empty: as the mesh settings say, else all.
        export_to: Vec<String> = "exportTo",
        /// The client workloads in which it has effect; unset: all.
        workload_selector: Option<WorkloadSelector> = "workloadSelector",
    }
}

message! {
    /// The endpoints of a host with some labels.
    Subset {
        /// The name.
        name: String = "name",
        /// The labels.
        labels: BTreeMap<String, String> = "labels",
        /// What takes the place of the host's policy, block by block.
        traffic_policy: Option<TrafficPolicy> = "trafficPolicy",
    }
}

message! {
    /// Workloads, by their labels.
    WorkloadSelector {
        /// The labels.
        match_labels: BTreeMap<String, String> = "matchLabels",
    }
}
