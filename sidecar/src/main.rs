//! Runs the `sidecar` library as a program of its own.

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: net::Allocator = net::Allocator;

/// The Isthmus sidecar.
#[derive(Parser)]
#[command(name = "isthmus-sidecar", version)]
struct Command {
    #[command(flatten)]
    options: isthmus_sidecar::Options,
}

fn main() -> ExitCode {
    isthmus_sidecar::run(Command::parse().options)
}
