//! What `isthmus status` says of the leases of remote clusters.

use std::time::Duration;

use federation_controller::debug::{ClusterRow, LeaseRow, PathRow};
use serde::Serialize;

use super::age_of;
use crate::table::table;

/// Returns the lines below the table about the lease of a cluster whose link is not up, or that is drained.
pub(super) fn lines(cluster: &ClusterRow) -> String {
    let Some(lease) = &cluster.lease else { return String::new() };
    let name = &cluster.name;
    let ages = |ms: u64| age_of(Duration::from_millis(ms));
    let mut out = match lease.state.as_str() {
        "stale" => format!(
            "  lease: stale for {}; without proof of life it ends in {}.\n",
            ages(lease.state_age_ms),
            ages(lease.left_ms)
        ),
        "drained" => format!(
            "  lease: drained for {}; proxies of {} prefer other clusters, and use {name} as the last resort. It ends in {}.\n",
            ages(lease.state_age_ms),
            lease.drained_for.join(", "),
            ages(lease.left_ms)
        ),
        "expired" => format!(
            "  lease: over for {}; {name}'s endpoints are withdrawn wherever another cluster has the service.\n",
            ages(lease.state_age_ms)
        ),
        _ => return String::new(),
    };
    for PathRow { viewer, alive, dead } in &lease.paths {
        out.push_str(&format!("  data path: {name} answers {alive} of {} proxies of {viewer}.\n", alive + dead));
    }
    if lease.paths.is_empty() {
        out.push_str(&format!("  data path: no proxy of another cluster uses {name} now.\n"));
    }
    out
}

/// Formats the table of data paths: how many proxies of each cluster reach each other one, of those that use it.
pub(super) fn paths(clusters: &[ClusterRow]) -> String {
    let mut rows = Vec::new();
    for (cluster, lease) in clusters.iter().filter_map(|cluster| Some((cluster, cluster.lease.as_ref()?))) {
        for PathRow { viewer, alive, dead } in &lease.paths {
            let reached = format!("{alive} of {} proxies", alive + dead);
            rows.push(vec![format!("{viewer} -> {}", cluster.name), reached, lease.state.clone()]);
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    rows.sort();
    format!("\n{}", table(&["DATA PATH", "REACHED BY", "LEASE"], rows))
}

/// A lease in the document.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LeaseDocument<'a> {
    state: &'a str,
    since_seconds: f64,
    left_seconds: f64,
    drained_for: &'a [String],
    paths: Vec<PathDocument<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PathDocument<'a> {
    cluster: &'a str,
    alive: usize,
    dead: usize,
}

impl<'a> LeaseDocument<'a> {
    pub(super) fn of(row: &'a LeaseRow) -> Self {
        let seconds = |ms: u64| Duration::from_millis(ms).as_secs_f64();
        let path = |of: &'a PathRow| PathDocument { cluster: &of.viewer, alive: of.alive, dead: of.dead };
        LeaseDocument {
            state: &row.state,
            since_seconds: seconds(row.state_age_ms),
            left_seconds: seconds(row.left_ms),
            drained_for: &row.drained_for,
            paths: row.paths.iter().map(path).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cluster(lease: Value) -> ClusterRow {
        serde_json::from_value(json!({
            "name": "east", "role": "remote", "network": "n", "server": "s", "secret": "a/b", "link": "unreachable",
            "why": "refused", "link_age_ms": 1500, "contact_age_ms": 9000, "heard_age_ms": null, "synced": true,
            "unconfirmed": [], "services": 1, "exported": 1, "endpoints": 1, "pods": 1, "trust": null, "lease": lease
        }))
        .unwrap()
    }

    fn lease(state: &str, drained: &[&str], paths: Value) -> Value {
        json!({"state": state, "state_age_ms": 12_000, "left_ms": 192_000, "drained_for": drained, "paths": paths})
    }

    #[test]
    fn a_lease_has_lines_while_it_runs_or_is_over() {
        let paths = json!([{"viewer": "west", "alive": 1, "dead": 2}]);
        assert_eq!(lines(&cluster(Value::Null)), "");
        assert_eq!(lines(&cluster(lease("fresh", &[], json!([])))), "");
        assert_eq!(
            lines(&cluster(lease("stale", &[], json!([])))),
            "  lease: stale for 12s; without proof of life it ends in 3m12s.\n  \
             data path: no proxy of another cluster uses east now.\n"
        );
        let drained = lines(&cluster(lease("drained", &["west", "north"], paths.clone())));
        assert!(drained.contains("proxies of west, north prefer other clusters"), "{drained}");
        assert!(drained.ends_with("  data path: east answers 1 of 3 proxies of west.\n"), "{drained}");
        let over = lines(&cluster(lease("expired", &[], paths)));
        assert!(over.starts_with("  lease: over for 12s; east's endpoints are withdrawn"), "{over}");
    }

    #[test]
    fn a_pair_has_a_row_if_a_proxy_uses_the_path() {
        let of = |lease: Value| paths(&[cluster(Value::Null), cluster(lease)]);
        assert_eq!(of(lease("fresh", &[], json!([]))), "");
        let table = of(lease("fresh", &[], json!([{"viewer": "west", "alive": 2, "dead": 1}])));
        assert!(table.contains("west -> east   2 of 3 proxies   fresh"), "{table}");
    }

    #[test]
    fn the_document_has_seconds() {
        let row = cluster(lease("drained", &["west"], json!([{"viewer": "west", "alive": 0, "dead": 2}])));
        let document = serde_json::to_value(row.lease.as_ref().map(LeaseDocument::of)).unwrap();
        assert_eq!(
            document,
            json!({"state": "drained", "sinceSeconds": 12.0, "leftSeconds": 192.0, "drainedFor": ["west"],
                   "paths": [{"cluster": "west", "alive": 0, "dead": 2}]})
        );
    }
}
