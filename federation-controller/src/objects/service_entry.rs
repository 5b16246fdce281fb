//! ServiceEntry, WorkloadEntry and WorkloadGroup: services and workloads outside of Kubernetes.

use std::collections::BTreeMap;

use api::networking::{self, ServiceEntrySpec, WorkloadEntrySpec, WorkloadGroupSpec};

use super::{Kind, Rule, RuleSpec};

/// A ServiceEntry.
pub type ServiceEntry = Rule<ServiceEntrySpec>;

/// A WorkloadEntry.
pub type WorkloadEntry = Rule<WorkloadEntrySpec>;

/// A WorkloadGroup.
pub type WorkloadGroup = Rule<WorkloadGroupSpec>;

impl RuleSpec for ServiceEntrySpec {
    type Source = networking::ServiceEntry;
    const KIND: Kind = Kind::ServiceEntry;
    const NAME: &'static str = "ServiceEntry";

    fn parts(&self) -> usize {
        self.hosts.len() + self.ports.len() + self.endpoints.len()
    }

    fn selects(&self) -> Option<BTreeMap<String, String>> {
        self.workload_selector.as_ref().map(|selector| selector.labels.clone())
    }
}

impl RuleSpec for WorkloadEntrySpec {
    type Source = networking::WorkloadEntry;
    const KIND: Kind = Kind::WorkloadEntry;
    const NAME: &'static str = "WorkloadEntry";
    const BY_NAMESPACE: bool = true;

    fn parts(&self) -> usize {
        1 + self.labels.len()
    }
}

impl RuleSpec for WorkloadGroupSpec {
    type Source = networking::WorkloadGroup;
    const KIND: Kind = Kind::WorkloadGroup;
    const NAME: &'static str = "WorkloadGroup";

    fn parts(&self) -> usize {
        2 + self.metadata.labels.len() + self.metadata.annotations.len() + self.template.labels.len()
    }
}
