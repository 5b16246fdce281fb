//! What can be measured: each scenario by itself or all of them, inside the sandbox.

use anyhow::{Context, Result};
use clap::Parser;

use crate::control_plane;
use crate::failover;
use crate::finding::Finding;
use crate::gateway;
use crate::memory;
use crate::rig::Rig;
use crate::sidecar;
use crate::soak;
use crate::stream;

/// One scenario.
#[derive(Debug, clap::Subcommand)]
pub enum Scenario {
    /// All of them but the long ones (stream, soak), in under half an hour, and writes docs/performance.md
    All,
    /// The controller with 1,000 services, 10,000 endpoints and 200 proxies
    ControlPlane(control_plane::Options),
    /// A cluster's pods of a service are lost under load
    Failover(failover::Options),
    /// Routing by server name
    Gateway(gateway::Options),
    /// What proxies hold in memory: in large meshes, for idle connections, after a burst
    Memory(memory::Options),
    /// Requests through two sidecars
    Sidecar(sidecar::Options),
    /// An hour of mixed load: does anything grow, leak or fail?
    Soak(soak::Options),
    /// gRPC streams of small messages at full speed, for long
    Stream(stream::Options),
}

impl Scenario {
    /// Measures.
    pub fn run(&self, rig: &Rig) -> Result<Vec<Finding>> {
        match self {
            Self::All => all(rig),
            Self::ControlPlane(options) => control_plane::run(options, rig),
            Self::Failover(options) => failover::run(options, rig),
            Self::Gateway(options) => gateway::run(options, rig),
            Self::Memory(options) => memory::run(options, rig),
            Self::Sidecar(options) => sidecar::run(options, rig),
            Self::Soak(options) => soak::run(options, rig),
            Self::Stream(options) => stream::run(options, rig),
        }
    }
}

/// Each as it is measured by itself without options.
fn all(rig: &Rig) -> Result<Vec<Finding>> {
    let mut findings = sidecar::run(&defaults(), rig).context("sidecar")?;
    findings.extend(gateway::run(&defaults(), rig).context("gateway")?);
    findings.extend(memory::run(&defaults(), rig).context("memory")?);
    findings.extend(control_plane::run(&defaults(), rig).context("control-plane")?);
    findings.extend(failover::run(&defaults(), rig).context("failover")?);
    Ok(findings)
}

/// What a scenario's options are where none is given.
fn defaults<T: clap::Args>() -> T {
    #[derive(Parser)]
    struct Defaults<T: clap::Args> {
        #[command(flatten)]
        options: T,
    }
    Defaults::parse_from::<[&str; 0], _>([]).options
}
