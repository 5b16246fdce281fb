//! The kinds of objects with rules.

use std::collections::BTreeMap;

use api::networking::destination_rule::WorkloadSelector;
use api::networking::{self, DestinationRuleSpec, ProxyConfigSpec, SidecarSpec, VirtualServiceSpec};
use api::security::{self, AuthorizationPolicySpec, PeerAuthenticationSpec, RequestAuthenticationSpec};

use super::{PART, RuleSpec, Sidecar};
use crate::objects::{Kind, Watched};

impl RuleSpec for VirtualServiceSpec {
    type Source = networking::VirtualService;
    const KIND: Kind = Kind::VirtualService;
    const NAME: &'static str = "VirtualService";

    fn parts(&self) -> usize {
        let http: usize = self.http.iter().map(|route| 1 + route.matches.len() + route.route.len()).sum();
        self.hosts.len() + http + self.tls.len() + self.tcp.len()
    }
}

impl RuleSpec for DestinationRuleSpec {
    type Source = networking::DestinationRule;
    const KIND: Kind = Kind::DestinationRule;
    const NAME: &'static str = "DestinationRule";

    fn parts(&self) -> usize {
        1 + self.subsets.len()
    }
}

impl RuleSpec for SidecarSpec {
    type Source = networking::Sidecar;
    const KIND: Kind = Kind::Sidecar;
    const NAME: &'static str = "Sidecar";
    const OWN_RESOURCE: bool = true;

    fn parts(&self) -> usize {
        let hosts: usize = self.egress.iter().map(|listener| listener.hosts.len()).sum();
        1 + self.ingress.len() + hosts / VALUES
    }

    fn selects(&self) -> Option<BTreeMap<String, String>> {
        Some(self.workload_selector.as_ref().map(|selector| selector.labels.clone()).unwrap_or_default())
    }
}

impl RuleSpec for ProxyConfigSpec {
    type Source = networking::ProxyConfig;
    const KIND: Kind = Kind::ProxyConfig;
    const NAME: &'static str = "ProxyConfig";

    fn parts(&self) -> usize {
        1 + self.environment_variables.len() / VALUES
    }

    fn selects(&self) -> Option<BTreeMap<String, String>> {
        Some(labels_of(&self.selector))
    }
}

impl Sidecar {
    /// Returns whether the Sidecar is for the pods with some labels, instead of for a namespace.
    pub fn selects_by_labels(&self) -> bool {
        let spec = self.spec.as_ref();
        spec.is_some_and(|spec| spec.workload_selector.as_ref().is_some_and(|of| !of.labels.is_empty()))
    }
}

/// Returns the labels of a selector; without one, a policy selects every pod of its namespace.
fn labels_of(selector: &Option<WorkloadSelector>) -> BTreeMap<String, String> {
    selector.as_ref().map(|selector| selector.match_labels.clone()).unwrap_or_default()
}

impl RuleSpec for AuthorizationPolicySpec {
    type Source = security::AuthorizationPolicy;
    const KIND: Kind = Kind::AuthorizationPolicy;
    const NAME: &'static str = "AuthorizationPolicy";
    const WATCHED: Watched = Watched::EveryCluster;
    const OWN_RESOURCE: bool = true;
    const LIMIT: usize = 10_000;

    fn parts(&self) -> usize {
        let of_rule = |rule: &security::authorization_policy::Rule| {
            let sources = rule.from.iter().filter_map(|from| from.source.as_ref()).map(|of| of.values().count());
            let operations = rule.to.iter().filter_map(|to| to.operation.as_ref()).map(|of| of.values().count());
            let conditions = rule.when.iter().map(|of| of.values.len() + of.not_values.len());
            1 + sources.chain(operations).chain(conditions).sum::<usize>() / VALUES
        };
        1 + self.rules.iter().map(of_rule).sum::<usize>()
    }

    fn selects(&self) -> Option<BTreeMap<String, String>> {
        let targets = self.target_ref.is_some() || !self.target_refs.is_empty();
        (!targets).then(|| labels_of(&self.selector))
    }
}

/// The number of values of a policy that take about as much as another part of a spec.
const VALUES: usize = 8;

impl RuleSpec for PeerAuthenticationSpec {
    type Source = security::PeerAuthentication;
    const KIND: Kind = Kind::PeerAuthentication;
    const NAME: &'static str = "PeerAuthentication";
    const WATCHED: Watched = Watched::EveryCluster;
    const OWN_RESOURCE: bool = true;
    const LIMIT: usize = 1_000;

    fn parts(&self) -> usize {
        1 + self.port_level_mtls.len()
    }

    fn selects(&self) -> Option<BTreeMap<String, String>> {
        Some(labels_of(&self.selector))
    }
}

impl RuleSpec for RequestAuthenticationSpec {
    type Source = security::RequestAuthentication;
    const KIND: Kind = Kind::RequestAuthentication;
    const NAME: &'static str = "RequestAuthentication";
    const WATCHED: Watched = Watched::EveryCluster;
    const OWN_RESOURCE: bool = true;
    const LIMIT: usize = 1_000;

    fn parts(&self) -> usize {
        let keys: usize = self.jwt_rules.iter().map(|rule| rule.jwks.len()).sum();
        1 + self.jwt_rules.len() + keys / PART
    }

    fn selects(&self) -> Option<BTreeMap<String, String>> {
        let targets = self.target_ref.is_some() || !self.target_refs.is_empty();
        (!targets).then(|| labels_of(&self.selector))
    }
}
