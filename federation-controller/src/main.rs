//! Runs the `federation-controller` library as a program of its own.

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: net::Allocator = net::Allocator;

/// The Isthmus control plane.
#[derive(Parser)]
#[command(name = "isthmus-federation-controller", version)]
struct Command {
    #[command(flatten)]
    options: isthmus_federation_controller::Options,
}

fn main() -> ExitCode {
    isthmus_federation_controller::run(Command::parse().options)
}
