//! The rig's own processes: what systems are measured between and against.

use anyhow::Result;

use crate::{backend, control_plane, floor, load};

/// One of the rig's own processes.
#[derive(Debug, clap::Subcommand)]
pub enum Part {
    /// A cluster's API server
    ApiServer(control_plane::cluster::ServerOptions),
    /// The server behind what is measured
    Backend(backend::Options),
    /// One load, and what came of it
    Load(load::by_hand::Options),
    /// Copies bytes
    FloorCopy(floor::copy::Options),
    /// The floor of a gateway
    FloorGateway(floor::gateway::Options),
    /// The floor of an outbound sidecar
    FloorOutbound(floor::pair::Options),
    /// The floor of an inbound sidecar
    FloorInbound(floor::pair::Options),
}

/// Runs it until it is killed.
pub fn run(part: Part) -> Result<()> {
    match part {
        Part::ApiServer(options) => control_plane::cluster::serve(&options),
        Part::Backend(options) => backend::run(&options),
        Part::Load(options) => load::by_hand::run(&options),
        Part::FloorCopy(options) => floor::copy::run(&options),
        Part::FloorGateway(options) => floor::gateway::run(options),
        Part::FloorOutbound(options) => floor::pair::outbound(&options),
        Part::FloorInbound(options) => floor::pair::inbound(&options),
    }
}
