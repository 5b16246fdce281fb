//! The rig's own processes: what systems are measured between and against.

use anyhow::Result;

/// One of the rig's own processes.
#[derive(Debug, clap::Subcommand)]
pub enum Part {}

/// Runs it until it is killed.
pub fn run(part: Part) -> Result<()> {
    match part {}
}
