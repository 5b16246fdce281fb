//! `isthmus workload`: workloads that are no pods, such as processes on virtual machines.

use std::process::ExitCode;

mod configure;

/// Prepare machines whose processes join the mesh.
#[derive(Debug, clap::Args)]
pub(crate) struct WorkloadArgs {
    #[command(subcommand)]
    command: WorkloadCommand,
}

#[derive(Debug, clap::Subcommand)]
enum WorkloadCommand {
    /// Workloads that are no pods
    #[command(subcommand)]
    Entry(EntryCommand),
}

#[derive(Debug, clap::Subcommand)]
enum EntryCommand {
    /// Write what a machine needs for its sidecar: options, roots and a token
    #[command(after_help = "Example:\n  isthmus workload entry configure --name legacy -n shop -o legacy\n  \
                      scp -r legacy machine:/etc/isthmus\n  ssh machine sudo isthmus sidecar --from /etc/isthmus init\n  \
                      ssh machine sudo isthmus sidecar --from /etc/isthmus")]
    Configure(configure::ConfigureArgs),
}

pub(crate) async fn run(args: WorkloadArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        WorkloadCommand::Entry(EntryCommand::Configure(args)) => configure::run(args).await,
    }
}
