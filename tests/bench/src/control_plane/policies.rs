//! New AuthorizationPolicies of a namespace in which all proxies have their workloads. A proxy puts a policy in force when its
//! workload names the policy and the policy has arrived, which its discovery client asks for then.

use std::time::{Duration, Instant};

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};

use super::streams::DiscoveryStreams;
use super::{LONG, MeasuredMesh, MeshSize};
use crate::finding::Finding;
use crate::rig::Rig;

/// The rate at which policies are created.
const PER_SECOND: u32 = 5;
/// Where they are created.
const POLICIES: &str = "/apis/security.istio.io/v1/namespaces/default/authorizationpolicies";

/// Measures a mesh of its own.
pub(super) async fn measure(rig: &Rig, size: MeshSize) -> Result<Vec<Finding>> {
    let mut mesh = MeasuredMesh::new(rig, size).await?;
    mesh.load().await?;
    let controller = mesh.start()?;
    controller.wait_for(size.known(size.pods), LONG).await?;
    let streams = DiscoveryStreams::open(&mesh.signers, &size)?;
    streams.in_sync(LONG).await?;
    // State is saved and late updates arrive meanwhile.
    tokio::time::sleep(Duration::from_secs(if rig.quick { 1 } else { 6 })).await;
    for turn in 0..if rig.quick { 1 } else { rig.turns } {
        mesh.create_policies(&streams, turn).await?;
    }
    controller.stop()?;
    Ok(mesh.recorder.findings())
}

fn policy(name: &str) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": name},
        "spec": {"action": "DENY", "rules": [{
            "from": [{"source": {"notPrincipals": ["cluster.local/ns/default/sa/*"]}}],
            "to": [{"operation": {"methods": ["GET"], "paths": [format!("/{name}/*")]}}],
        }]},
    })
}

impl MeasuredMesh<'_> {
    /// Creates policies at a steady rate.
    async fn create_policies(&mut self, streams: &DiscoveryStreams, turn: usize) -> Result<()> {
        streams.arrivals.take_named();
        let mut created = Vec::new();
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / PER_SECOND);
        for number in 0..self.size.seconds * PER_SECOND {
            ticks.tick().await;
            let name = format!("deny-{turn}-{number}");
            self.clusters[0].client().create((POLICIES.to_owned(), policy(&name))).await?;
            created.push((format!("default/{name}"), Instant::now()));
        }
        self.named_arrivals(streams, &created, "new AuthorizationPolicy").await;
        // Each turn begins without policies.
        for (name, _) in &created {
            let name = name.trim_start_matches("default/");
            self.clusters[0].client().request(Method::DELETE, &format!("{POLICIES}/{name}"), &Value::Null).await?;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(())
    }
}
