//! What proxies have refused, by policy.

use std::collections::BTreeMap;
use std::time::Duration;

use federation_controller::debug::ProxyRow;
use serde::Serialize;

use super::age_of;
use crate::table::table;

/// The number of rows of a table that is not wide.
const ROWS: usize = 20;

/// What the proxies of a cluster have refused for one reason.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RefusalTotal {
    cluster: String,
    /// The namespace of the workloads.
    namespace: String,
    /// The reason: `policy`, `no policy`, `mutual TLS`, `token` or `federation policy`.
    by: String,
    /// The AuthorizationPolicy, as `<namespace>/<name>`, if that is the reason.
    policy: Option<String>,
    /// The number of requests and connections since the proxies that are connected have started.
    count: u64,
    last_seconds: f64,
}

/// The cluster, the namespace, the reason and the policy.
type Key<'a> = (&'a str, &'a str, &'a str, Option<&'a str>);

/// Adds up what proxies report, those of the highest numbers first.
pub(super) fn totals(proxies: &[ProxyRow]) -> Vec<RefusalTotal> {
    let mut totals: BTreeMap<Key<'_>, (u64, u64)> = BTreeMap::new();
    for proxy in proxies {
        for row in &proxy.refusals {
            let key = (&*proxy.cluster, &*proxy.namespace, &*row.by, row.policy.as_deref());
            let total = totals.entry(key).or_insert((0, u64::MAX));
            *total = (total.0.saturating_add(row.count), total.1.min(row.last_age_ms));
        }
    }
    let total = |((cluster, namespace, by, policy), (count, last)): (_, (u64, u64))| RefusalTotal {
        cluster: str::to_owned(cluster),
        namespace: str::to_owned(namespace),
        by: str::to_owned(by),
        policy: Option::map(policy, str::to_owned),
        count,
        last_seconds: Duration::from_millis(last).as_secs_f64(),
    };
    let mut totals: Vec<RefusalTotal> = totals.into_iter().map(total).collect();
    totals.sort_by_key(|total| std::cmp::Reverse(total.count));
    totals
}

/// Formats the table; empty if nothing was refused.
pub(super) fn text(proxies: &[ProxyRow], wide: bool) -> String {
    let totals = totals(proxies);
    if totals.is_empty() {
        return String::new();
    }
    let shown = if wide { totals.len() } else { ROWS };
    let row = |total: &RefusalTotal| {
        let RefusalTotal { cluster, namespace, by, policy, count, last_seconds } = total;
        let policy = match (&**by, policy) {
            (_, Some(policy)) => policy.clone(),
            ("no policy", None) => format!("no ALLOW policy matches, in {namespace}"),
            ("mutual TLS", None) => format!("plaintext at STRICT ports, in {namespace}"),
            ("token", None) => format!("invalid token, in {namespace}"),
            ("federation policy", None) => format!("federation policy: callers of other clusters, in {namespace}"),
            (other, None) => format!("{other}, in {namespace}"),
        };
        vec![policy, cluster.clone(), count.to_string(), age_of(Duration::from_secs_f64(*last_seconds))]
    };
    let mut out =
        format!("\n{}", table(&["POLICY", "CLUSTER", "REFUSED", "LAST"], totals.iter().take(shown).map(row).collect()));
    if totals.len() > shown {
        out.push_str(&format!("and {} more: isthmus status -o wide\n", totals.len() - shown));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn proxy(pod: &str, cluster: &str, refusals: Value) -> ProxyRow {
        serde_json::from_value(json!({
            "id": "x", "role": "sidecar", "pod": pod, "namespace": "shop", "cluster": cluster, "identity": "x",
            "address": "10.244.0.5:4711", "connected_ms": 1, "acked": true, "lag_ms": 0,
            "certificate_expires_in_s": null, "subscriptions": {}, "pushes": {}, "resources": 0, "bytes": 0,
            "rejected": 0, "refusals": refusals,
        }))
        .unwrap()
    }

    #[test]
    fn refusals_of_all_proxies_are_added_up_by_policy_and_cluster() {
        let policy = |count: u64, age: u64| json!({"by": "policy", "policy": "shop/deny-all", "count": count, "last_age_ms": age});
        let none = json!({"by": "no policy", "policy": null, "count": 4, "last_age_ms": 400});
        let proxies = [
            proxy("a", "west", json!([policy(7, 90_000)])),
            proxy("b", "west", json!([policy(3, 12_000), none])),
            proxy("c", "east", json!([policy(u64::MAX, 0)])),
            proxy("d", "east", json!([policy(2, 1_000)])),
        ];
        let expected = format!(
            "
POLICY                            CLUSTER   REFUSED                LAST
shop/deny-all                     east      {}   0.0s
shop/deny-all                     west      10                     12s
no ALLOW policy matches, in shop  west      4                      0.4s
",
            u64::MAX
        );
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeeze(&text(&proxies, false)), squeeze(&expected));
        assert_eq!(text(&[], false), "");
        let json = serde_json::to_value(totals(&proxies[1..2])).unwrap();
        assert_eq!(
            json[0],
            json!({"cluster": "west", "namespace": "shop", "by": "no policy", "policy": null, "count": 4,
            "lastSeconds": 0.4})
        );
    }

    #[test]
    fn a_table_has_a_bounded_number_of_rows() {
        let row = |number: u64| json!({"by": "policy", "policy": format!("shop/p{number}"), "count": number, "last_age_ms": 0});
        let proxies = [proxy("a", "west", Value::Array((1..=32).map(row).collect()))];
        let short = text(&proxies, false);
        assert!(short.contains("shop/p32") && short.ends_with("and 12 more: isthmus status -o wide\n"), "{short}");
        assert!(text(&proxies, true).contains("shop/p1 "));
    }
}
