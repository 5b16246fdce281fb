//! What can be measured: each scenario by itself, inside the sandbox.

use anyhow::Result;

use crate::failover;
use crate::finding::Finding;
use crate::gateway;
use crate::rig::Rig;
use crate::sidecar;

/// One scenario.
#[derive(Debug, clap::Subcommand)]
pub enum Scenario {
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
            Self::Failover(options) => failover::run(options, rig),
            Self::Gateway(options) => gateway::run(options, rig),
            Self::Sidecar(options) => sidecar::run(options, rig),
        }
    }
}
