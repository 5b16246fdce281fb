//! Security policies that are valid by themselves and that, of one workload, contradict each other or have no effect.
//!
//! Only namespaces in which that is possible are looked at, and of pods with the same template one.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use api::mesh::ExternalAuthorization;
use api::security::AuthorizationPolicySpec;
use api::security::authorization_policy::Action;
use api::security::request_authentication::{HeaderToken, shadowed};
use wire::discovery::Protocol;

use super::collection::Collection;
use super::{ClusterInventory, Inventory, RuleNotice};
use crate::objects::{
    AuthorizationPolicy, Key, Kind, Object, Pod, Record as _, RequestAuthentication, Rule, RuleSpec, Text,
};

/// The policies of a kind in a cluster.
type Policies<S> = fn(&ClusterInventory) -> &Collection<Rule<S>>;

/// A policy, and the cluster that it is of.
type OfCluster<'a, T> = (&'a ClusterInventory, &'a T);

impl Inventory {
    /// Returns the notices about policies of a cluster in the context of the workloads that they select, in no order.
    pub(super) fn policy_conflicts(&self, cluster: &ClusterInventory) -> Vec<RuleNotice> {
        let mut notices = self.several_providers(cluster);
        notices.extend(self.without_effect_on_ports(cluster));
        notices.extend(self.shadowed_tokens(cluster));
        notices.into_iter().collect()
    }

    /// Returns the notices about CUSTOM policies that select a workload together with one that asks another server.
    fn several_providers(&self, cluster: &ClusterInventory) -> BTreeSet<RuleNotice> {
        let mut notices = BTreeSet::new();
        let policies: Policies<AuthorizationPolicySpec> = ClusterInventory::authorization_policies;
        let within =
            self.namespaces_with_several(cluster, policies, |_, policy| provider_of(policy).map(str::to_owned));
        self.each_template(cluster, &within, policies, |pod, selecting| {
            let asking: Vec<_> = selecting.iter().filter_map(|(of, policy)| Some((of, *policy, provider_of(policy)?))).collect();
            for (of, policy, provider) in &asking {
                let Some((_, other, instead)) = asking.iter().find(|(_, _, other)| other != provider) else { continue };
                if of.info.name != cluster.info.name {
                    continue;
                }
                let (workload, namespace) = (&pod.workload, &pod.namespace);
                let text = format!(
                    "what it matches at workload {namespace}/{workload} is refused: it names provider {provider}, and \
                     AuthorizationPolicy {} names {instead}, but one workload can ask one provider; name the same one, or \
                     select other workloads",
                    other.key()
                );
                notices.insert(notice(Kind::AuthorizationPolicy, policy.key(), text));
            }
        });
        first_of_each(notices)
    }

    /// Returns the notices about CUSTOM policies that ask by HTTP and select workloads with opaque ports.
    fn without_effect_on_ports(&self, cluster: &ClusterInventory) -> BTreeSet<RuleNotice> {
        let by_http = |policy: &AuthorizationPolicy| {
            let provider = self.external_authorization(provider_of(policy)?).ok()?;
            provider.http.is_some().then_some(provider)
        };
        let policies = || cluster.authorization_policies().values();
        if !policies().any(|policy| by_http(policy).is_some()) {
            return BTreeSet::new();
        }
        let root = &self.settings().root_namespace;
        let mut notices = BTreeSet::new();
        for of in self.protected_by(cluster) {
            for (key, port, number, pod) in opaque_ports(of) {
                let selecting = cluster.authorization_policies().selecting(&[&key.namespace, root], &pod.labels);
                let found = selecting.filter_map(|policy| Some((policy, by_http(policy)?)));
                for (policy, ExternalAuthorization { name, .. }) in
                    found.filter(|(policy, _)| is_for_port(policy, number))
                {
                    let text = format!(
                        "has no effect on opaque connections to port {port} of service {key}: provider {name} speaks HTTP \
                         and is not asked about them; name one of envoyExtAuthzGrpc, or restrict the port by a policy of \
                         action ALLOW"
                    );
                    notices.insert(notice(Kind::AuthorizationPolicy, policy.key(), text));
                }
            }
        }
        first_of_each(notices)
    }

    /// Returns the notices about RequestAuthentications that read the tokens of another one of the same workload, which are
    /// invalid for them.
    fn shadowed_tokens(&self, cluster: &ClusterInventory) -> BTreeSet<RuleNotice> {
        let headers = |policy: &RequestAuthentication| -> Vec<HeaderToken> {
            policy.spec.iter().flat_map(|spec| spec.jwt_rules.iter().flat_map(|rule| rule.header_tokens())).collect()
        };
        let mut notices = BTreeSet::new();
        let policies: Policies<_> = ClusterInventory::request_authentications;
        let within =
            self.namespaces_with_several(cluster, policies, |of, policy| Some((of.info.name.clone(), policy.key())));
        self.each_template(cluster, &within, policies, |pod, selecting| {
            for (of, policy) in selecting.iter().filter(|(of, _)| of.info.name == cluster.info.name) {
                let others = selecting.iter().filter(|(from, other)| from.info.name != of.info.name || other.key() != policy.key());
                let own = headers(policy);
                for (_, other) in others {
                    let others = headers(other);
                    let Some((reads, shadows)) = shadowed(&own, &others) else { continue };
                    let text = format!(
                        "refuses the tokens of RequestAuthentication {} at workload {}/{}: it reads header {} {reads}, the \
                         other one {shadows}; write the same prefix, or use another header",
                        other.key(),
                        pod.namespace,
                        pod.workload,
                        reads.name,
                    );
                    notices.insert(notice(Kind::RequestAuthentication, policy.key(), text));
                }
            }
        });
        first_of_each(notices)
    }

    /// Returns the clusters whose workloads the policies of a cluster are for.
    fn protected_by<'a>(&'a self, cluster: &'a ClusterInventory) -> impl Iterator<Item = &'a ClusterInventory> {
        self.clusters().filter(|of| cluster.info.own || of.info.name == cluster.info.name)
    }

    /// Returns the namespaces in which the policies of a cluster, and those that apply beside them, differ in `value`; all of
    /// them if those of the root namespace do.
    fn namespaces_with_several<S: RuleSpec, V: Ord>(
        &self,
        cluster: &ClusterInventory,
        policies: Policies<S>,
        value: impl Fn(&ClusterInventory, &Rule<S>) -> Option<V>,
    ) -> Namespaces
    where
        Rule<S>: Into<Object>,
    {
        let root = &self.settings().root_namespace;
        let mut values: HashMap<Text, BTreeSet<V>> = HashMap::new();
        let beside = self.clusters().filter(|of| of.info.own || cluster.info.own || of.info.name == cluster.info.name);
        for of in beside {
            for policy in policies(of).values() {
                if let Some(value) = value(of, policy) {
                    values.entry(policy.namespace.clone()).or_default().insert(value);
                }
            }
        }
        let everywhere = values.remove(root).unwrap_or_default();
        if everywhere.len() > 1 {
            return Namespaces::All;
        }
        let differ = |of: &BTreeSet<V>| of.union(&everywhere).count() > 1;
        Namespaces::Some(values.into_iter().filter(|(_, of)| differ(of)).map(|(namespace, _)| namespace).collect())
    }

    /// Calls `found` for one pod of each template in these namespaces, with the policies that select it.
    fn each_template<S: RuleSpec>(
        &self,
        cluster: &ClusterInventory,
        namespaces: &Namespaces,
        policies: Policies<S>,
        mut found: impl FnMut(&Pod, &[OfCluster<'_, Rule<S>>]),
    ) where
        Rule<S>: Into<Object>,
    {
        if namespaces.is_empty() {
            return;
        }
        let root = &self.settings().root_namespace;
        let own = self.primary();
        for of in self.protected_by(cluster) {
            let mut seen = HashSet::new();
            for pod in of.pods().values().filter(|pod| namespaces.contains(&pod.namespace)) {
                if !seen.insert(Arc::as_ptr(&pod.template)) {
                    continue;
                }
                let sources = [of].into_iter().chain(own.filter(|_| !of.info.own));
                let selecting: Vec<OfCluster<'_, Rule<S>>> = sources
                    .flat_map(|source| {
                        let policies = policies(source).selecting(&[&pod.namespace, root], &pod.labels);
                        policies.map(move |policy| (source, policy))
                    })
                    .collect();
                if selecting.len() > 1 {
                    found(pod, &selecting);
                }
            }
        }
    }
}

/// Namespaces that are looked at.
enum Namespaces {
    All,
    Some(HashSet<Text>),
}

impl Namespaces {
    fn contains(&self, namespace: &Text) -> bool {
        match self {
            Namespaces::All => true,
            Namespaces::Some(names) => names.contains(namespace),
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Namespaces::Some(names) if names.is_empty())
    }
}

fn notice(kind: Kind, object: Key, text: String) -> RuleNotice {
    RuleNotice { kind, object, code: "IST0101".into(), text }
}

/// Returns one notice about each object: one workload is enough to say what is wrong.
fn first_of_each(notices: BTreeSet<RuleNotice>) -> BTreeSet<RuleNotice> {
    let mut objects = HashSet::new();
    notices.into_iter().filter(|notice| objects.insert(notice.object.clone())).collect()
}

/// Returns the provider that a policy of action CUSTOM names.
fn provider_of(policy: &AuthorizationPolicy) -> Option<&str> {
    let spec = policy.spec.as_ref().filter(|spec| spec.action == Action::Custom)?;
    spec.provider.as_ref().map(|provider| provider.name.as_str())
}

/// Returns whether a rule of the policy may match at a port of the application.
fn is_for_port(policy: &AuthorizationPolicy, number: u16) -> bool {
    let number = number.to_string();
    let rules = policy.spec.iter().flat_map(|spec| &spec.rules);
    let mut rules = rules.map(|rule| rule.to.iter().filter_map(|to| to.operation.as_ref()).collect::<Vec<_>>());
    rules.any(|operations| {
        operations.is_empty() || operations.iter().any(|of| of.ports.is_empty() || of.ports.contains(&number))
    })
}

/// Returns the opaque ports of a cluster's services: the service, its port, the application's, and a pod behind it.
fn opaque_ports(cluster: &ClusterInventory) -> impl Iterator<Item = (Key, u16, u16, &Pod)> {
    let services = cluster.services().values().filter(|service| !service.external);
    services.flat_map(move |service| {
        let key = service.key();
        let opaque = service.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
        let found: Vec<(Key, u16, u16, &Pod)> = opaque
            .filter_map(|port| {
                let mut slices = cluster.slices_of(&key);
                slices.find_map(|slice| {
                    let number = slice.ports.iter().find(|(name, _)| *name == port.name)?.1;
                    let pods = slice.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref());
                    let mut pods = pods.map(|name| Key { namespace: key.namespace.clone(), name: name.clone() });
                    let pod = pods.find_map(|pod| cluster.pods().get(&pod))?;
                    Some((key.clone(), port.number, number, pod))
                })
            })
            .collect();
        found
    })
}
