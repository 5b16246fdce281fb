//! The rig's own processes: servers, floors, load generators.

use anyhow::Result;

use crate::{backend, control_plane, floor, load};

/// One of the rig's own processes.
#[derive(Debug, clap::Subcommand)]
pub enum Part {
    /// Run a cluster's API server
    ApiServer(control_plane::cluster::ServerOptions),
    /// Run the server of a measurement
    Backend(backend::Options),
    /// Send one load and print its outcome
    Load(load::by_hand::Options),
    /// Run the process that copies bytes
    FloorCopy(floor::copy::Options),
    /// Run the floor of a gateway
    FloorGateway(floor::gateway::Options),
    /// Run the floor of an outbound sidecar
    FloorOutbound(floor::pair::Options),
    /// Run the floor of an inbound sidecar
    FloorInbound(floor::pair::Options),
}

/// Runs a process until it is killed or done.
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
