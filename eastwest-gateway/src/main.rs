//! Runs the `eastwest-gateway` library as a program of its own.

use clap::Parser;

#[global_allocator]
static ALLOCATOR: net::Allocator = net::Allocator;

/// The SNI router between networks.
#[derive(Parser)]
#[command(name = "isthmus-eastwest-gateway", version)]
struct Command {
    #[command(flatten)]
    options: isthmus_eastwest_gateway::Options,
}

fn main() -> std::process::ExitCode {
    isthmus_eastwest_gateway::run(Command::parse().options)
}
