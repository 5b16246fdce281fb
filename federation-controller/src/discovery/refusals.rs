//! What proxies report of the requests and connections that they refuse.
//!
//! A proxy may be compromised, so a report is bounded, and only the policies that the controller has sent to it count.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prost::Message as _;
use wire::Kind;
use wire::delta::{Found as _, Source as _};
use wire::discovery::{ProxyReport, RefusedBy, Workload};

use crate::compile::resource::Viewer;
use crate::publish::Store;

/// The number of refusals in a report.
const MAX_REFUSALS: usize = 32;
/// The longest name of a policy with its namespace: names of Kubernetes objects have up to 253 characters.
const MAX_NAME: usize = 63 + 1 + 253;
/// The time for which further reports of a stream are ignored. Proxies report at most every ten seconds.
const INTERVAL: Duration = Duration::from_secs(1);

/// The newest report of a proxy.
#[derive(Debug, Default)]
pub struct Reported {
    received: Option<Instant>,
    refusals: Vec<Refused>,
}

/// What a proxy has refused for one reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The reason.
    pub by: RefusedBy,
    /// `<namespace>/<name>` of the policy; empty if the reason is no policy.
    pub policy: String,
    /// The number since the proxy started.
    pub count: u64,
    /// The time of the last one, in seconds since 1970 by the proxy's clock.
    pub last: u64,
}

impl Refused {
    /// Returns the time since the last one.
    pub fn age(&self, now: SystemTime) -> Duration {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(Duration::from_secs(self.last))
    }
}

impl Reported {
    /// Takes a report in place of the last one.
    pub(super) fn receive(&mut self, report: ProxyReport, now: Instant) {
        if self.received.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            return;
        }
        self.received = Some(now);
        let refused = report.refusals.into_iter().filter_map(|of| {
            let by = RefusedBy::try_from(of.by).ok()?;
            let named = by == RefusedBy::Policy;
            let known = by != RefusedBy::Unspecified && of.policy.len() <= MAX_NAME && named != of.policy.is_empty();
            known.then_some(Refused { by, policy: of.policy, count: of.count, last: of.last })
        });
        self.refusals = refused.take(MAX_REFUSALS).collect();
    }

    /// Returns what was refused, by policies that the proxy has received: those to which its workload refers.
    pub(super) fn of_policies(&self, store: &Store, viewer: &Viewer, own_cluster: &str) -> Vec<Refused> {
        if self.refusals.is_empty() {
            return Vec::new();
        }
        let found = store.view(viewer).get(Kind::Workload, &viewer.workload);
        let workload = found.and_then(|found| Workload::decode(found.body()).ok()).unwrap_or_default();
        let holds = |policy: &str| {
            let named = |cluster: &str, name: &str| {
                name.strip_prefix(cluster).and_then(|rest| rest.strip_prefix('/')) == Some(policy)
            };
            let mut names = workload.authorization_policies.iter();
            names.any(|name| named(&viewer.cluster, name) || named(own_cluster, name))
        };
        self.refusals.iter().filter(|of| of.by != RefusedBy::Policy || holds(&of.policy)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use wire::discovery::Refusal;

    use super::*;

    fn refusal(by: RefusedBy, policy: &str) -> Refusal {
        Refusal { by: by.into(), policy: policy.into(), count: u64::MAX, last: 1 }
    }

    #[test]
    fn a_report_is_bounded() {
        let (mut reported, now) = (Reported::default(), Instant::now());
        let hostile = [
            refusal(RefusedBy::Unspecified, ""),
            Refusal { by: 99, ..Default::default() },
            refusal(RefusedBy::Policy, ""),
            refusal(RefusedBy::Policy, &"a".repeat(1_000)),
            refusal(RefusedBy::Token, "shop/a"),
        ];
        reported.receive(ProxyReport { refusals: hostile.into(), ..Default::default() }, now);
        assert_eq!(reported.refusals, []);
        let many = (0..1_000).map(|number| refusal(RefusedBy::Policy, &format!("shop/p{number}")));
        let many = ProxyReport { refusals: many.collect(), ..Default::default() };
        reported.receive(many.clone(), now + Duration::from_millis(10));
        assert_eq!(reported.refusals, [], "too soon");
        reported.receive(many, now + Duration::from_secs(2));
        assert_eq!(reported.refusals.len(), MAX_REFUSALS);
        reported.receive(
            ProxyReport { refusals: vec![refusal(RefusedBy::Token, "")], ..Default::default() },
            now + Duration::from_secs(9),
        );
        let token = Refused { by: RefusedBy::Token, policy: String::new(), count: u64::MAX, last: 1 };
        assert_eq!(reported.refusals, std::slice::from_ref(&token));
        assert_eq!(token.age(UNIX_EPOCH + Duration::from_secs(4)), Duration::from_secs(3));
        assert_eq!(token.age(UNIX_EPOCH), Duration::ZERO, "its clock is ahead");
    }
}
