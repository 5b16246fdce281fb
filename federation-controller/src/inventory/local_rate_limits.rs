//! HTTPLocalRateLimitPolicies: which one is in force on a Server, and what changes of both affect.

use super::cluster::{Affected, ClusterInventory, PodSelector};
use super::rule_notices::RuleNotice;
use crate::objects::{HttpLocalRateLimitPolicy, Key, Kind, Record, Server, Watched};

impl ClusterInventory {
    /// Returns the policy in force on a Server: the oldest one that targets it.
    pub(crate) fn local_rate_limit_of(&self, server: &Key) -> Option<&HttpLocalRateLimitPolicy> {
        self.targeting(server).filter(|policy| policy.spec.is_some()).min_by_key(|policy| policy.age())
    }

    fn targeting<'a>(&'a self, server: &Key) -> impl Iterator<Item = &'a HttpLocalRateLimitPolicy> + use<'a> {
        let (policies, name) = (self.local_rate_limits().in_namespace(&server.namespace), server.name.clone());
        policies.filter(move |policy| policy.spec.as_ref().is_some_and(|spec| spec.target_ref.name == *name))
    }

    /// A Server has the port of the limits that target it.
    pub(super) fn change_server(&mut self, key: Key, new: Option<Server>) -> Affected {
        let mut affected = self.change_security_policy(key.clone(), new);
        let policies = self.targeting(&key).map(|policy| (Kind::HttpLocalRateLimitPolicy, policy.key()));
        affected.policies.extend(policies);
        // It has no resource of its own.
        affected.policies.remove(&(Kind::Server, key));
        affected
    }

    /// The workloads that a Server selects have the limit in force on it.
    pub(super) fn change_local_rate_limit(&mut self, key: Key, new: Option<HttpLocalRateLimitPolicy>) -> Affected {
        let target = |cluster: &Self| cluster.local_rate_limits().get(&key).and_then(target_of);
        let before = target(self);
        let mut affected = self.change_security_policy(key.clone(), new);
        for server in [before, target(self)].into_iter().flatten() {
            let selector = self.servers().get(&server).and_then(Record::selector);
            affected.selectors.extend(selector.map(|of| PodSelector {
                clusters: Watched::Primary,
                namespace: Some(server.namespace.clone()),
                labels: of.labels.clone(),
                routers: false,
            }));
        }
        affected
    }

    /// Returns the notices about policies that are not in force, in no order.
    pub(super) fn local_rate_limit_notices(&self) -> impl Iterator<Item = RuleNotice> {
        self.local_rate_limits().values().filter_map(|policy| {
            let server = target_of(policy)?;
            let notice = |code: &str, text: String| RuleNotice {
                kind: Kind::HttpLocalRateLimitPolicy,
                object: policy.key(),
                code: code.into(),
                text,
            };
            let Some(found) = self.servers().get(&server) else {
                return Some(notice(NO_TARGET, format!("has no effect: Server {server} does not exist; create it")));
            };
            if found.spec.as_ref().is_none_or(|spec| spec.labels().is_none() || spec.port_number().is_none()) {
                let text =
                    format!("has no effect: Server {server} selects no pods by labels, or no port by its number");
                return Some(notice(NO_TARGET, text));
            }
            let oldest = self.local_rate_limit_of(&server)?.key();
            (oldest != policy.key()).then(|| {
                notice(CONFLICT, format!("has no effect: Server {server} has the older policy {}", oldest.name))
            })
        })
    }
}

/// The code of policies without a Server.
pub(crate) const NO_TARGET: &str = "IST0101";
/// The code of policies of a Server that has an older one.
pub(crate) const CONFLICT: &str = "IST0109";

/// Returns the Server of a policy.
fn target_of(policy: &HttpLocalRateLimitPolicy) -> Option<Key> {
    let name = policy.spec.as_ref()?.target_ref.name.as_str().into();
    Some(Key { namespace: policy.namespace.clone(), name })
}
