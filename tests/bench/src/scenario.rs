//! What can be measured: each scenario by itself, inside the sandbox.

use anyhow::Result;

use crate::control_plane;
use crate::failover;
use crate::finding::Finding;
use crate::gateway;
use crate::rig::Rig;
use crate::sidecar;

/// One scenario.
#[derive(Debug, clap::Subcommand)]
pub enum Scenario {
    /// The controller with 1,000 services, 10,000 endpoints and 200 proxies
    ControlPlane(control_plane::Options),
    /// A cluster's pods of a service are lost under load
    Failover(failover::Options),
    /// Routing by server name
    Gateway(gateway::Options),
    /// Requests through two sidecars
    Sidecar(sidecar::Options),
}

impl Scenario {
    /// Measures.
    pub fn run(&self, rig: &Rig) -> Result<Vec<Finding>> {
        match self {
            Self::ControlPlane(options) => control_plane::run(options, rig),
            Self::Failover(options) => failover::run(options, rig),
            Self::Gateway(options) => gateway::run(options, rig),
            Self::Sidecar(options) => sidecar::run(options, rig),
        }
    }
}
