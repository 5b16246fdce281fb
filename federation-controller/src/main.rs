//! The standalone program of the federation controller.

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: net::Allocator = net::Allocator;

/// Run the control plane of a primary cluster.
#[derive(Parser)]
#[command(name = "isthmus-federation-controller", version)]
struct Command {
    #[command(flatten)]
    options: isthmus_federation_controller::Options,
}

fn main() -> ExitCode {
    isthmus_federation_controller::run(Command::parse().options)
}
