//! The `isthmus` command: labs, joining clusters, certificate authorities, status, analysis, and every component as a subcommand.
//!
//! A component starts before any runtime exists, because it creates its own threads, and because a lab enters
//! namespaces while the process has a single thread. Commands that use clusters share one small runtime.

// A closed pipe must not end a command with a panic: commands print with `lab::console`.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod access;
mod analyze;
mod authz;
mod ca;
mod check;
mod completion;
mod config;
mod explain;
mod export;
mod import;
mod join;
mod services;
mod sources;
mod status;
mod table;
mod version;
mod workload;

use std::future::Future;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lab::console::{NoAnswer, TIMED_OUT, print_stderr};

#[global_allocator]
static ALLOCATOR: net::Allocator = net::Allocator;

/// Join Kubernetes clusters into one service mesh.
#[derive(Debug, Parser)]
#[command(name = "isthmus", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Start with: isthmus lab up topologies/primary-remote.yaml")]
struct IsthmusArguments {
    #[command(subcommand)]
    command: IsthmusCommand,
}

#[derive(Debug, Subcommand)]
enum IsthmusCommand {
    /// Run clusters, networks and workloads on this machine
    #[command(subcommand)]
    Lab(lab::command::LabCommand),
    /// Join a cluster to the mesh: let a primary read its services
    Join(join::JoinArgs),
    /// Create the mesh's root and each cluster's intermediate
    Ca(ca::CaArgs),
    /// Show clusters with their links, and proxies with what they have acknowledged
    Status(status::StatusArgs),
    /// Tell where a pod's request goes, by which route and policies, and who has to answer
    Explain(explain::ExplainArgs),
    /// Show who exports each service, and who imports it
    Services(services::ServicesArgs),
    /// Check what a mesh needs, before and after clusters join
    Check(check::CheckArgs),
    /// Show what a proxy holds: clusters, routes, endpoints, listeners, secrets
    Config(config::ConfigArgs),
    /// Show the policies of a workload, and what they decide
    Authz(authz::AuthzArgs),
    /// Find what is wrong in and between objects, in files and clusters
    Analyze(analyze::AnalyzeArgs),
    /// Give exported services to other meshes, as ServiceEntries
    Export(export::ExportArgs),
    /// Report what works of the objects of Istio, Linkerd or SMI
    Import(import::ImportArgs),
    /// Prepare machines whose processes join the mesh
    Workload(workload::WorkloadArgs),
    /// Print the version
    Version(version::VersionArgs),
    /// Print a completion script for a shell
    Completion(completion::CompletionArgs),
    /// Run the proxy beside a pod
    Sidecar(sidecar::Options),
    /// Run the SNI router between networks
    EastwestGateway(eastwest_gateway::Options),
    /// Run an ingress or egress gateway
    Router(router::Options),
    /// Run the control plane
    FederationController(federation_controller::Options),
    #[command(flatten)]
    Hidden(lab::command::HiddenCommand),
}

fn main() -> ExitCode {
    match IsthmusArguments::parse().command {
        IsthmusCommand::Lab(command) => command.run(),
        IsthmusCommand::Join(args) => block_on(join::run(args)),
        IsthmusCommand::Ca(args) => block_on(ca::run(args)),
        IsthmusCommand::Status(args) => block_on(status::run(args)),
        IsthmusCommand::Explain(args) => block_on(explain::run(args)),
        IsthmusCommand::Services(args) => block_on(services::run(args)),
        IsthmusCommand::Check(args) => block_on(check::run(args)),
        IsthmusCommand::Config(args) => block_on(config::run(args)),
        IsthmusCommand::Authz(args) => block_on(authz::run(args)),
        IsthmusCommand::Analyze(args) => block_on(analyze::run(args)),
        IsthmusCommand::Export(args) => block_on(export::run(args)),
        IsthmusCommand::Import(args) => block_on(import::run(args)),
        IsthmusCommand::Workload(args) => block_on(workload::run(args)),
        IsthmusCommand::Version(args) => block_on(version::run(args)),
        IsthmusCommand::Completion(args) => block_on(completion::run(args)),
        IsthmusCommand::Sidecar(options) => sidecar::run(options),
        IsthmusCommand::EastwestGateway(options) => eastwest_gateway::run(options),
        IsthmusCommand::Router(options) => router::run(options),
        IsthmusCommand::FederationController(options) => federation_controller::run(options),
        IsthmusCommand::Hidden(command) => command.run(),
    }
}

/// Runs a command that uses clusters. An error is printed with its causes and exits with 1, or with 3 if nothing answered
/// in time.
fn block_on(command: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(command)) {
        Ok(code) => code,
        Err(error) => {
            print_stderr(&format!("error: {}", access::explain(&error)));
            code_of(&error)
        }
    }
}

fn code_of(error: &anyhow::Error) -> ExitCode {
    match error.chain().any(|cause| cause.is::<NoAnswer>()) {
        true => ExitCode::from(TIMED_OUT),
        false => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_its_own_exit_code() {
        let silent = NoAnswer { from: "a".into(), limit: std::time::Duration::from_secs(1), advice: "b".into() };
        assert_eq!(code_of(&anyhow::Error::new(silent).context("in east")), ExitCode::from(TIMED_OUT));
        assert_eq!(code_of(&anyhow::anyhow!("wrong")), ExitCode::FAILURE);
    }
}
