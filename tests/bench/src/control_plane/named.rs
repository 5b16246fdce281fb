//! The times from changes that have names until all streams have them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::streams::DiscoveryStreams;
use super::{MeasuredMesh, millis};
use crate::finding::Metric;

impl MeasuredMesh<'_> {
    /// Reports the times from changes, by the names that they gave, until each stream had them. Every stream receives every change.
    pub(super) async fn named_arrivals(
        &mut self,
        streams: &DiscoveryStreams,
        changed: &[(String, Instant)],
        what: &str,
    ) {
        // An update that takes longer than this counts as missed.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let arrivals = streams.arrivals.take_named();
        let (mut took, mut last) = (Vec::new(), Vec::new());
        for (name, at) in changed {
            let mut reached = BTreeSet::new();
            let of = arrivals.iter().filter(|arrival| arrival.names.contains(name) && reached.insert(arrival.stream));
            // An update may arrive before the response to the request that made the change.
            let of: Vec<Duration> = of.map(|arrival| arrival.at.saturating_duration_since(*at)).collect();
            last.extend(of.iter().max());
            took.extend(of);
        }
        let missed = (changed.len() * streams.count()).saturating_sub(took.len());
        took.sort_unstable();
        last.sort_unstable();
        let at = |sorted: &[Duration], quantile: f64| {
            millis(sorted.get((sorted.len() as f64 * quantile) as usize).copied().unwrap_or_default())
        };
        let name = |quantity: &str| format!("{what} to arrival, {quantity}");
        self.found(Metric::cost(&name("p50"), "ms"), at(&took, 0.5));
        self.found(Metric::cost(&name("p99"), "ms"), at(&took, 0.99));
        self.found(Metric::cost(&name("at the last stream, median"), "ms"), at(&last, 0.5));
        self.found(Metric::cost(&name("longest"), "ms"), at(&last, 1.0 - f64::EPSILON));
        self.found(Metric::cost(&format!("{what}: missed arrivals"), ""), missed as f64);
    }
}
