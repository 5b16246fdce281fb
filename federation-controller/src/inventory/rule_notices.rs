//! What is wrong with rules of routing in their context, found when the rules of a host are compiled, and with policies.

use std::collections::{BTreeSet, HashMap};

use api::security::authorization_policy::Action;

use super::federation::refusals::NO_EFFECT;
use super::rules::split_host;
use super::{ClusterInventory, Group, Inventory};
use crate::objects::{EnvoyFilter, Key, Kind, Object, Record as _, Rule, RuleProblem, RuleSpec, Text, TrafficSplit};

/// Something that is wrong with a rule of routing, or that has no effect.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RuleNotice {
    /// The kind of the object.
    pub kind: Kind,
    /// The object.
    pub object: Key,
    /// The code, as `istioctl analyze` prints it.
    pub code: Text,
    /// What is wrong, where, and what to do.
    pub text: String,
}

/// The state of an object with rules.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RuleState {
    /// The kind of the object.
    pub kind: Kind,
    /// The object.
    pub object: Key,
    /// `metadata.generation` of the version that was read.
    pub generation: i64,
    /// Whether this version is refused.
    pub refused: bool,
    /// Whether a version is in effect.
    pub in_force: bool,
    /// What is wrong with it.
    pub problems: Vec<RuleProblem>,
}

/// The number of problems in the state of one object.
pub(crate) const MAX_PROBLEMS: usize = 20;

/// The codes of problems for which a part of a rule fails or has no effect.
const ERRORS: [&str; 3] = ["IST0101", "IST0109", "IST0161"];

impl Inventory {
    /// Replaces the notices that were found when a group was compiled.
    pub fn set_rule_notices(&mut self, group: &Group, notices: Vec<RuleNotice>) {
        match notices.is_empty() {
            true => drop(self.rule_notices.remove(group)),
            false => drop(self.rule_notices.insert(group.clone(), notices.into())),
        }
    }

    /// Returns the notices about the rules of all hosts, and the Gateways of all routers, in no order. A rule of several hosts may have one several times.
    pub fn rule_notices(&self) -> impl Iterator<Item = &RuleNotice> {
        self.rule_notices.values().flatten()
    }

    /// Returns the state of every rule, in no order.
    pub fn rule_states(&self) -> Vec<RuleState> {
        let mut notices: HashMap<(Kind, Key), BTreeSet<RuleProblem>> = HashMap::new();
        let routes = || self.primary().into_iter().flat_map(|own| own.virtual_services().values());
        let gateways = || self.primary().into_iter().flat_map(|own| own.gateways().values());
        let unheard = self.primary().into_iter().flat_map(|own| self.unheard_gateways(own));
        for of in
            self.binding_notices().chain(unheard).chain(self.credential_notices()).chain(self.rule_notices().cloned())
        {
            let problem = RuleProblem { error: ERRORS.contains(&&*of.code), code: of.code, text: of.text.into() };
            notices.entry((of.kind, of.object)).or_default().insert(problem);
        }
        let mut states: Vec<RuleState> = routes().map(|rule| state(rule, &mut notices)).collect();
        states.extend(gateways().map(|gateway| state(gateway, &mut notices)));
        let policies = self.primary().into_iter().flat_map(|own| own.destination_rules().values());
        states.extend(policies.map(|rule| state(rule, &mut notices)));
        if let Some(own) = self.primary() {
            for of in own.traffic_splits().values().filter_map(|rule| of_another_namespace(rule, own.domain())) {
                let problem = RuleProblem { error: true, code: of.code, text: of.text.into() };
                notices.entry((of.kind, of.object)).or_default().insert(problem);
            }
            states.extend(own.traffic_splits().values().map(|rule| state(rule, &mut notices)));
            states.extend(own.route_groups().values().map(|rule| state(rule, &mut notices)));
            states.extend(own.service_profiles().values().map(|rule| state(rule, &mut notices)));
            for of in self.policies_without_provider(own) {
                let problem = RuleProblem { error: true, code: of.code, text: of.text.into() };
                notices.entry((of.kind, of.object)).or_default().insert(problem);
            }
            for of in self.policy_conflicts(own) {
                let problem = RuleProblem { error: false, code: of.code, text: of.text.into() };
                notices.entry((of.kind, of.object)).or_default().insert(problem);
            }
            for policy in own.request_authentications().values() {
                for (object, text) in self.key_failures(policy) {
                    let problem = RuleProblem { error: true, code: "IST0175".into(), text: text.into() };
                    notices.entry((Kind::RequestAuthentication, object)).or_default().insert(problem);
                }
            }
            states.extend(own.request_authentications().values().map(|policy| state(policy, &mut notices)));
            states.extend(own.envoy_filters().values().map(|filter| state(filter, &mut notices)));
            states.extend(own.rate_limits().values().map(|limit| state(limit, &mut notices)));
            for of in self.federation_notices() {
                let error = *of.code == *NO_EFFECT;
                let problem = RuleProblem { error, code: of.code, text: of.text.into() };
                notices.entry((of.kind, of.object)).or_default().insert(problem);
            }
            states.extend(own.federation_policies().values().map(|policy| state(policy, &mut notices)));
            for of in own.local_rate_limit_notices() {
                let problem = RuleProblem { error: true, code: of.code, text: of.text.into() };
                notices.entry((of.kind, of.object)).or_default().insert(problem);
            }
            states.extend(own.local_rate_limits().values().map(|policy| state(policy, &mut notices)));
            states.extend(own.servers().values().map(|server| state(server, &mut notices)));
            states.extend(own.authorization_policies().values().map(|policy| state(policy, &mut notices)));
            states.extend(own.peer_authentications().values().map(|policy| state(policy, &mut notices)));
            for of in self.entry_notices() {
                let problem = RuleProblem { error: true, code: of.code, text: of.text.into() };
                notices.entry((of.kind, of.object)).or_default().insert(problem);
            }
            states.extend(own.service_entries().values().map(|entry| state(entry, &mut notices)));
            states.extend(own.workload_entries().values().map(|workload| state(workload, &mut notices)));
            for of in self.sidecar_notices() {
                let problem = RuleProblem { error: true, code: of.code, text: of.text.into() };
                notices.entry((of.kind, of.object)).or_default().insert(problem);
            }
            states.extend(own.sidecars().values().map(|sidecar| state(sidecar, &mut notices)));
            states.extend(own.proxy_configs().values().map(|config| state(config, &mut notices)));
            states.extend(own.workload_groups().values().map(|group| state(group, &mut notices)));
        }
        states
    }

    /// Returns the notices about policies of a cluster that ask a server which does not exist, in no order.
    pub(super) fn policies_without_provider(&self, cluster: &ClusterInventory) -> impl Iterator<Item = RuleNotice> {
        cluster.authorization_policies().values().filter_map(|policy| {
            let spec = policy.spec.as_ref().filter(|spec| spec.action == Action::Custom)?;
            let reason = self.missing_provider(spec.provider.as_ref().map_or("", |provider| &provider.name))?;
            let text = format!("what it matches is refused: {reason}");
            Some(RuleNotice { kind: Kind::AuthorizationPolicy, object: policy.key(), code: "IST0101".into(), text })
        })
    }

    /// Returns the notices about rules by themselves and in their context, in no order.
    pub(super) fn all_rule_notices(&self) -> impl Iterator<Item = RuleNotice> {
        let routes = || self.primary().into_iter().flat_map(|own| own.virtual_services().values());
        let by_themselves = routes().filter_map(refused).chain(self.binding_notices());
        let policies = self.primary().into_iter().flat_map(|own| own.destination_rules().values()).filter_map(refused);
        let of_services = self.primary().into_iter().flat_map(|own| {
            let splits = || own.traffic_splits().values();
            let refused_ones = splits().filter_map(refused).chain(own.route_groups().values().filter_map(refused));
            let elsewhere = splits().filter_map(|rule| of_another_namespace(rule, own.domain()));
            refused_ones.chain(own.service_profiles().values().filter_map(refused)).chain(elsewhere)
        });
        let own = self.primary();
        let entries = own.into_iter().flat_map(|own| own.service_entries().values()).filter_map(refused);
        let workloads = own.into_iter().flat_map(|own| own.workload_entries().values()).filter_map(refused);
        let sidecars = own.into_iter().flat_map(|own| own.sidecars().values()).filter_map(refused);
        let configs = own.into_iter().flat_map(|own| own.proxy_configs().values()).filter_map(refused);
        let of_services = of_services.chain(sidecars).chain(configs).chain(self.sidecar_notices());
        let groups = own.into_iter().flat_map(|own| own.workload_groups().values()).filter_map(refused);
        let of_services = of_services.chain(groups);
        let filters = own.into_iter().flat_map(|own| own.envoy_filters().values());
        let filters = filters.flat_map(|filter| refused(filter).into_iter().chain(partly(filter)));
        let limits = own.into_iter().flat_map(|own| own.rate_limits().values()).filter_map(refused);
        let federation = own.into_iter().flat_map(|own| own.federation_policies().values()).filter_map(refused);
        let federation = federation.chain(self.federation_notices());
        let of_linkerd = own.into_iter().flat_map(|own| {
            let policies = own.local_rate_limits().values().filter_map(refused);
            policies.chain(own.servers().values().filter_map(refused)).chain(own.local_rate_limit_notices())
        });
        let all = by_themselves
            .chain(filters)
            .chain(of_linkerd)
            .chain(limits)
            .chain(federation)
            .chain(policies)
            .chain(entries)
            .chain(workloads)
            .chain(of_services);
        all.chain(self.entry_notices()).chain(self.rule_notices().cloned())
    }
}

impl Inventory {
    /// Returns the notices about the security policies of a cluster, in no order.
    pub(super) fn policy_notices<'a>(
        &'a self,
        cluster: &'a ClusterInventory,
    ) -> impl Iterator<Item = RuleNotice> + use<'a> {
        let authorization = || cluster.authorization_policies().values();
        let modes = cluster.peer_authentications().values().filter_map(refused);
        let tokens = || cluster.request_authentications().values();
        let keys = tokens().flat_map(|policy| self.key_failures(policy)).map(|(object, text)| RuleNotice {
            kind: Kind::RequestAuthentication,
            object,
            code: "IST0175".into(),
            text,
        });
        let of_authorization = authorization().filter_map(refused).chain(self.policies_without_provider(cluster));
        let in_context = self.policy_conflicts(cluster);
        of_authorization.chain(modes).chain(tokens().filter_map(refused)).chain(keys).chain(in_context)
    }
}

/// Returns the state of a rule, with the notices about it.
fn state<S: RuleSpec>(rule: &Rule<S>, notices: &mut HashMap<(Kind, Key), BTreeSet<RuleProblem>>) -> RuleState
where
    Rule<S>: Into<Object>,
{
    let object = rule.key();
    let in_context = notices.remove(&(S::KIND, object.clone())).unwrap_or_default();
    let problems = rule.problems.iter().cloned().chain(in_context).take(MAX_PROBLEMS).collect();
    let (generation, refused, in_force) = (rule.generation, rule.refused(), rule.spec.is_some());
    RuleState { kind: S::KIND, object, generation, refused, in_force, problems }
}

/// Returns the notice about an object whose present version is refused.
pub(super) fn refused<S: RuleSpec>(rule: &Rule<S>) -> Option<RuleNotice>
where
    Rule<S>: Into<Object>,
{
    let problem = rule.problems.iter().find(|problem| problem.error)?;
    let instead = match rule.spec {
        Some(_) => "the last valid version stays in effect",
        None => "it has no effect",
    };
    let text = format!("is invalid, and {instead}: {}", problem.text);
    Some(RuleNotice { kind: S::KIND, object: rule.key(), code: problem.code.clone(), text })
}

/// Returns the notice about an EnvoyFilter of which a part has no effect. One without any is listed with the kinds without effect.
fn partly(filter: &EnvoyFilter) -> Option<RuleNotice> {
    let problem = filter.problems.first().filter(|_| !filter.refused() && filter.selector.is_some())?;
    let text = problem.text.to_string();
    Some(RuleNotice { kind: Kind::EnvoyFilter, object: filter.key(), code: problem.code.clone(), text })
}

/// Returns the notice about a TrafficSplit whose root service is not one of its own namespace.
fn of_another_namespace(rule: &TrafficSplit, domain: &str) -> Option<RuleNotice> {
    let spec = rule.spec.as_ref().filter(|_| split_host(rule, domain).is_none())?;
    let text = format!(
        "has no effect: {} is not a service of its namespace {}; move it to the namespace of the service",
        spec.service, rule.namespace
    );
    Some(RuleNotice { kind: Kind::TrafficSplit, object: rule.key(), code: "IST0101".into(), text })
}
