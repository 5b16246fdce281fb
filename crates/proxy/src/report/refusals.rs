//! The report to the controller: refusals, for `isthmus status`, and what else the proxy says of itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use telemetry::metrics::Registry;
use wire::client::Subscriber;
use wire::discovery::{ProxyReport, Refusal, RefusedBy};

use super::policies::{CALLER, DENIED, NO_POLICY, PLAINTEXT, TOKEN, UNAUTHENTICATED};

/// How often the counters are looked at. Hundreds of proxies report to one controller.
const INTERVAL: Duration = Duration::from_secs(10);
/// The number of policies in a report; further ones only count in the metrics.
const MAX_REFUSALS: usize = 32;

/// The report to the controller, to which several parts of a proxy contribute. Clones share one report.
#[derive(Debug, Clone)]
pub struct ControllerReport {
    last: Arc<Mutex<ProxyReport>>,
    subscriber: Subscriber,
}

impl ControllerReport {
    /// Creates an empty report, which is sent when it changes for the first time.
    pub fn new(subscriber: Subscriber) -> Self {
        ControllerReport { last: Arc::default(), subscriber }
    }

    /// Changes the report, and sends it if it differs from the last one.
    pub fn update(&self, change: impl FnOnce(&mut ProxyReport)) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.clone();
        change(&mut last);
        if *last != before {
            self.subscriber.report(last.clone());
        }
    }
}

/// Reports what the proxy refuses, when it has refused something, for as long as the proxy runs.
pub async fn report_refusals(registry: Registry, report: ControllerReport) {
    let mut reported = Reported::default();
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if let Some(refusals) = reported.next(counts(&registry), now) {
            report.update(|report| report.refusals = refusals);
        }
    }
}

/// Why something was refused, and by which policy.
type By = (RefusedBy, Box<str>);

/// Returns the counts of the metrics.
fn counts(registry: &Registry) -> BTreeMap<By, u64> {
    let denied = registry.by_label(&DENIED).into_iter().map(|(policy, count)| match &*policy {
        NO_POLICY => ((RefusedBy::NoPolicy, Box::default()), count),
        _ => ((RefusedBy::Policy, policy), count),
    });
    let unauthenticated = registry.by_label(&UNAUTHENTICATED).into_iter().filter_map(|(reason, count)| {
        let by = match &*reason {
            PLAINTEXT => RefusedBy::MutualTls,
            TOKEN => RefusedBy::Token,
            CALLER => RefusedBy::Federation,
            _ => return None,
        };
        Some(((by, Box::default()), count))
    });
    denied.chain(unauthenticated).collect()
}

/// What was reported.
#[derive(Debug, Default)]
struct Reported {
    /// The counts, each with the time at which it last changed.
    counts: BTreeMap<By, (u64, u64)>,
}

impl Reported {
    /// Returns the next refusals to report; `None` if nothing was refused since the last ones. `now` is in seconds since 1970.
    fn next(&mut self, counts: BTreeMap<By, u64>, now: u64) -> Option<Vec<Refusal>> {
        let mut changed = false;
        for (by, count) in counts {
            let known = self.counts.entry(by).or_insert((0, now));
            if known.0 != count {
                *known = (count, now);
                changed = true;
            }
        }
        if !changed {
            return None;
        }
        let mut refusals: Vec<Refusal> = self
            .counts
            .iter()
            .map(|((by, policy), (count, last))| Refusal {
                by: (*by).into(),
                policy: policy.to_string(),
                count: *count,
                last: *last,
            })
            .collect();
        refusals.sort_by_key(|refusal| std::cmp::Reverse(refusal.count));
        refusals.truncate(MAX_REFUSALS);
        Some(refusals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(by: RefusedBy, policy: &str, count: u64, last: u64) -> Refusal {
        Refusal { by: by.into(), policy: policy.into(), count, last }
    }

    #[test]
    fn a_report_follows_what_was_refused_since_the_last_one() {
        let registry = Registry::new();
        let (one, other) = (registry.worker(), registry.worker());
        let mut reported = Reported::default();
        assert_eq!(reported.next(counts(&registry), 100), None);
        one.counter(&DENIED, &["shop/deny-all"]).add(2);
        other.counter(&DENIED, &["shop/deny-all"]).increment();
        one.counter(&DENIED, &[NO_POLICY]).increment();
        let report = reported.next(counts(&registry), 110).expect("a report");
        let policy = refusal(RefusedBy::Policy, "shop/deny-all", 3, 110);
        assert_eq!(report, [policy.clone(), refusal(RefusedBy::NoPolicy, "", 1, 110)]);
        assert_eq!(reported.next(counts(&registry), 120), None);
        other.counter(&UNAUTHENTICATED, &[TOKEN]).add(9);
        one.counter(&UNAUTHENTICATED, &[PLAINTEXT]).add(8);
        let report = reported.next(counts(&registry), 130).expect("a report");
        let token = refusal(RefusedBy::Token, "", 9, 130);
        assert_eq!(report[..3], [token, refusal(RefusedBy::MutualTls, "", 8, 130), policy]);
    }

    #[test]
    fn a_report_has_the_policies_that_refuse_most() {
        let registry = Registry::new();
        let worker = registry.worker();
        for number in 1..=100_u64 {
            worker.counter(&DENIED, &[&format!("shop/policy-{number}")]).add(number);
        }
        let report = Reported::default().next(counts(&registry), 1).expect("a report");
        assert_eq!((report.len(), report[0].count), (MAX_REFUSALS, 100));
    }
}
