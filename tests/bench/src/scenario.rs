//! The scenarios: each by itself, or all of them, inside the sandbox.

use anyhow::{Context, Result};
use clap::Parser;

use crate::control_plane;
use crate::failover;
use crate::finding::Finding;
use crate::gateway;
use crate::ingress;
use crate::memory;
use crate::rig::Rig;
use crate::routes;
use crate::sidecar;
use crate::soak;
use crate::stream;

/// A scenario.
#[derive(Debug, clap::Subcommand)]
pub enum Scenario {
    /// Measure all scenarios but stream and soak in half an hour, and write docs/performance.md
    All,
    /// Measure the controller with 1,000 services, 10,000 and 100,000 endpoints, and 200 proxies
    ControlPlane(control_plane::Options),
    /// Measure what the loss of a service's pods in one cluster costs under load
    Failover(failover::Options),
    /// Measure the east-west gateway
    Gateway(gateway::Options),
    /// Measure an ingress gateway beside an Envoy that istiod configures, and with a thousand hosts
    Ingress(ingress::Options),
    /// Measure the memory of proxies: in large meshes, with idle connections, after a burst
    Memory(memory::Options),
    /// Measure requests through two sidecars with routes and policies, beside Envoys that istiod configures
    Routes(routes::Options),
    /// Measure requests through two sidecars
    Sidecar(sidecar::Options),
    /// Send mixed load for an hour, and fail if memory grows, files leak or requests fail
    Soak(soak::Options),
    /// Send small messages on gRPC streams at full speed, and fail if a stream is reset
    Stream(stream::Options),
}

impl Scenario {
    /// Runs the scenario.
    pub fn run(&self, rig: &Rig) -> Result<Vec<Finding>> {
        match self {
            Self::All => all(rig),
            Self::ControlPlane(options) => control_plane::run(options, rig),
            Self::Failover(options) => failover::run(options, rig),
            Self::Gateway(options) => gateway::run(options, rig),
            Self::Ingress(options) => ingress::run(options, rig),
            Self::Memory(options) => memory::run(options, rig),
            Self::Routes(options) => routes::run(options, rig),
            Self::Sidecar(options) => sidecar::run(options, rig),
            Self::Soak(options) => soak::run(options, rig),
            Self::Stream(options) => stream::run(options, rig),
        }
    }
}

/// Runs each scenario with default options.
fn all(rig: &Rig) -> Result<Vec<Finding>> {
    let mut findings = sidecar::run(&defaults(), rig).context("sidecar")?;
    findings.extend(routes::run(&defaults(), rig).context("routes")?);
    findings.extend(gateway::run(&defaults(), rig).context("gateway")?);
    findings.extend(ingress::run(&defaults(), rig).context("ingress")?);
    findings.extend(memory::run(&defaults(), rig).context("memory")?);
    findings.extend(control_plane::run(&defaults(), rig).context("control-plane")?);
    findings.extend(failover::run(&defaults(), rig).context("failover")?);
    Ok(findings)
}

/// The default options of a scenario.
fn defaults<T: clap::Args>() -> T {
    #[derive(Parser)]
    struct Defaults<T: clap::Args> {
        #[command(flatten)]
        options: T,
    }
    Defaults::parse_from::<[&str; 0], _>([]).options
}
