//! Changes of a VirtualService whose service all proxies use, in a mesh where each service has a VirtualService and a
//! DestinationRule.

use std::time::{Duration, Instant};

use anyhow::Result;
use http::Method;
use serde_json::json;

use super::streams::DiscoveryStreams;
use super::{LONG, MeasuredMesh, MeshSize, rules};
use crate::finding::Finding;
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
        streams.arrivals.take_named();
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
        self.named_arrivals(streams, &changed, "VirtualService change").await;
        Ok(())
    }
}
