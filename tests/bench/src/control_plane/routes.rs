//! Changes of a VirtualService whose service all proxies use, in a mesh where each service has a VirtualService and a
//! DestinationRule.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Result;
use http::Method;
use serde_json::json;

use super::streams::DiscoveryStreams;
use super::{LONG, MeasuredMesh, MeshSize, millis, rules};
use crate::finding::{Finding, Metric};
use crate::rig::Rig;

/// The service that all streams use.
const COMMON: usize = 0;
/// The rate at which its VirtualService changes.
const PER_SECOND: u32 = 5;

/// Measures a mesh of its own.
pub(super) async fn measure(rig: &Rig, size: MeshSize) -> Result<Vec<Finding>> {
    let mut mesh = MeasuredMesh::new(rig, size).await?;
    mesh.load.push_str(", each service with a VirtualService and a DestinationRule");
    mesh.load().await?;
    // The controller reads routes of its own cluster.
    mesh.clusters[0].client().create_all((0..size.services).flat_map(rules::both)).await?;
    let controller = mesh.start()?;
    controller.wait_for(size.known(size.pods), LONG).await?;
    let streams = DiscoveryStreams::open(&mesh.signers, &size)?;
    streams.use_service(COMMON);
    streams.in_sync(LONG).await?;
    // State is saved and late updates arrive meanwhile.
    tokio::time::sleep(Duration::from_secs(if rig.quick { 1 } else { 6 })).await;
    for turn in 0..if rig.quick { 1 } else { rig.turns } {
        mesh.change_routes(&streams, turn).await?;
    }
    controller.stop()?;
    Ok(mesh.recorder.findings())
}

impl MeasuredMesh<'_> {
    /// Changes the name of a route at a steady rate.
    async fn change_routes(&mut self, streams: &DiscoveryStreams, turn: usize) -> Result<()> {
        let changes = (self.size.seconds * PER_SECOND) as usize;
        streams.arrivals.take_routes();
        let mut changed = Vec::new();
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / PER_SECOND);
        for change in 0..changes {
            ticks.tick().await;
            let name = format!("changed-{turn}-{change}");
            let patch = json!([{"op": "replace", "path": "/spec/http/3/name", "value": name}]);
            let client = self.clusters[0].client();
            client.send(Method::PATCH, &rules::path(COMMON), "application/json-patch+json", &patch).await?;
            changed.push((name, Instant::now()));
        }
        // An update that takes longer than this counts as missed.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let arrivals = streams.arrivals.take_routes();
        let (mut took, mut last) = (Vec::new(), Vec::new());
        for (name, at) in &changed {
            let mut reached = BTreeSet::new();
            let of = arrivals.iter().filter(|arrival| arrival.routes.contains(name) && reached.insert(arrival.stream));
            // An update may arrive before the response to the request that made the change.
            let of: Vec<Duration> = of.map(|arrival| arrival.at.saturating_duration_since(*at)).collect();
            last.extend(of.iter().max());
            took.extend(of);
        }
        let missed = (changes * streams.count()).saturating_sub(took.len());
        took.sort_unstable();
        last.sort_unstable();
        let at = |sorted: &[Duration], quantile: f64| {
            millis(sorted.get((sorted.len() as f64 * quantile) as usize).copied().unwrap_or_default())
        };
        let name = |what: &str| format!("VirtualService change to arrival, {what}");
        self.found(Metric::cost(&name("p50"), "ms"), at(&took, 0.5));
        self.found(Metric::cost(&name("p99"), "ms"), at(&took, 0.99));
        self.found(Metric::cost(&name("at the last stream, median"), "ms"), at(&last, 0.5));
        self.found(Metric::cost(&name("longest"), "ms"), at(&last, 1.0 - f64::EPSILON));
        self.found(Metric::cost("missed arrivals of VirtualService changes", ""), missed as f64);
        Ok(())
    }
}
