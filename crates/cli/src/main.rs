//! The `isthmus` command: labs, joining clusters, certificate authorities, status; and every component as a subcommand.
//!
//! A component is started before any runtime exists, because it makes its own threads, and because a lab enters its
//! namespaces while the process still has one thread. The commands that talk to clusters share one small runtime.

mod access;
mod ca;
mod completion;
mod join;
mod status;
mod version;

use std::future::Future;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: net::Allocator = net::Allocator;

/// Joins Kubernetes clusters into one service mesh.
#[derive(Debug, Parser)]
#[command(name = "isthmus", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Start with: isthmus lab up topologies/primary-remote.yaml")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs clusters, networks and workloads on this machine
    #[command(subcommand)]
    Lab(lab::command::Command),
    /// Lets a primary cluster read another cluster's services
    Join(join::Args),
    /// Makes the root of trust and each cluster's intermediate
    Ca(ca::Args),
    /// Shows clusters with the state of their links, and proxies with what they have acknowledged
    Status(status::Args),
    /// Prints the version
    Version(version::Args),
    /// Prints a completion script for a shell
    Completion(completion::Args),
    /// Runs the proxy beside a pod
    Sidecar(sidecar::Options),
    /// Runs the SNI router between networks
    EastwestGateway(eastwest_gateway::Options),
    /// Runs the control plane
    FederationController(federation_controller::Options),
    #[command(flatten)]
    Hidden(lab::command::HiddenCommand),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Lab(command) => command.run(),
        Command::Join(args) => block_on(join::run(args)),
        Command::Ca(args) => block_on(ca::run(args)),
        Command::Status(args) => block_on(status::run(args)),
        Command::Version(args) => block_on(version::run(args)),
        Command::Completion(args) => completion::run(args),
        Command::Sidecar(options) => sidecar::run(options),
        Command::EastwestGateway(options) => eastwest_gateway::run(options),
        Command::FederationController(options) => federation_controller::run(options),
        Command::Hidden(command) => command.run(),
    }
}

/// Runs a command that talks to clusters. An error is printed with its causes, and exits with 1.
fn block_on(command: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(command)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", access::explain(&error));
            ExitCode::FAILURE
        }
    }
}
