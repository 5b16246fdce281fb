//! The rig's own processes: what systems are measured between and against.

use anyhow::Result;

use crate::backend;

/// One of the rig's own processes.
#[derive(Debug, clap::Subcommand)]
pub enum Part {
    /// The server behind what is measured
    Backend(backend::Options),
}

/// Runs it until it is killed.
pub fn run(part: Part) -> Result<()> {
    match part {
        Part::Backend(options) => backend::run(&options),
    }
}
