//! `isthmus lab …`: what a person types, and the hidden commands that a lab's processes are.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 3 timed out; `run` and `exec` exit as the command that they ran.

mod down;
mod exec;
mod fault;
mod logs;
mod status;
mod stop;
mod target;
mod tools;
mod up;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use install::client_error;

use crate::orchestration::state::{self, LAB, Record, StateError};
use crate::orchestration::{cluster, init};

/// Exit code of what did not finish in time.
pub const TIMED_OUT: u8 = 3;
/// Exit code of wrong usage, as clap has it.
pub const WRONG_USAGE: u8 = 2;

/// Clusters, networks and workloads on this machine.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Brings a lab up from a topology file and keeps it until Ctrl-C
    Up(up::Up),
    /// Brings a lab up, runs a command in its surroundings, takes it down, and exits as the command did
    Run(up::Run),
    /// Lists running labs, or shows one
    Status(status::Status),
    /// Runs a command in a container
    Exec(exec::Exec),
    /// Runs kubectl with a cluster's kubeconfig
    Kubectl(tools::Kubectl),
    /// Prints the path of a cluster's kubeconfig
    Kubeconfig(tools::Kubeconfig),
    /// Prints a container's log
    Logs(logs::Logs),
    /// Takes a lab down, also one that was killed
    Down(down::Down),
    /// Breaks something in a running lab
    #[command(subcommand)]
    Fault(fault::Fault),
    /// Shows what passes between the clusters of a running lab
    Capture(fault::Capture),
}

/// The commands that a lab's processes are. They are for the lab itself.
#[derive(Debug, Subcommand)]
pub enum HiddenCommand {
    /// The first process of a lab
    #[command(name = "lab-init", hide = true)]
    LabInit(Init),
    /// A cluster's API server
    #[command(name = "lab-apiserver", hide = true)]
    LabApiserver(cluster::Options),
    /// A cluster's node agent and controllers
    #[command(name = "lab-node", hide = true)]
    LabNode(cluster::Options),
    /// What holds a pod's namespaces
    #[command(name = "lab-pause", hide = true)]
    LabPause,
    /// Enters namespaces and becomes another program
    #[command(name = "lab-enter", hide = true)]
    LabEnter,
    /// The application that labs run
    #[command(name = "testapp", hide = true)]
    Testapp(Box<crate::testapp::Options>),
}

/// Options of the first process.
#[derive(Debug, Args)]
pub struct Init {
    /// In the namespaces already.
    #[arg(long)]
    inner: bool,
    /// A user namespace was made.
    #[arg(long)]
    rootless: bool,
}

/// Which lab is meant.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// The lab, if more than one is running
    #[arg(long, env = LAB, value_name = "NAME")]
    lab: Option<String>,
}

impl Which {
    fn choose(&self) -> Result<Record, StateError> {
        state::choose(self.lab.as_deref())
    }
}

/// How a listing is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// More columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

impl Command {
    /// Runs the command. Must be called before any runtime or thread exists.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self {
            Self::Up(command) => command.run(),
            Self::Run(command) => command.run(),
            Self::Status(command) => told(command.run()),
            Self::Exec(command) => block_on(command.run()),
            Self::Kubectl(command) => told(command.run()),
            Self::Kubeconfig(command) => told(command.run()),
            Self::Logs(command) => block_on(command.run()),
            Self::Down(command) => told(command.run()),
            Self::Fault(command) => block_on(command.run()),
            Self::Capture(command) => told(command.run()),
        }
    }
}

impl HiddenCommand {
    /// Runs the command. Must be called before any runtime or thread exists.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self {
            Self::LabInit(Init { inner: true, rootless }) => init::inner(rootless),
            Self::LabInit(_) => init::outer(),
            Self::LabApiserver(options) => cluster::api_server(&options),
            Self::LabNode(options) => cluster::node(&options),
            Self::LabPause => net::process::pause(),
            Self::LabEnter => net::process::enter(),
            Self::Testapp(options) => crate::testapp::run(*options),
        }
    }
}

/// An error that ends a command, printed as it is.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn told(result: Result<ExitCode, Failure>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("error: {}", explained(&error));
        ExitCode::FAILURE
    })
}

/// An error for display: what is wrong, and what to do about it.
fn explained(error: &Failure) -> String {
    let Some(error) = error.downcast_ref::<kube::Error>() else { return error.to_string() };
    match client_error::advice(error) {
        Some(advice) => format!("{}\n  {advice}", client_error::describe(error)),
        None => client_error::describe(error),
    }
}

fn block_on(command: impl Future<Output = Result<ExitCode, Failure>>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let code = told(runtime.block_on(command));
            // A read of standard input that nobody waits for any more must not keep the process.
            runtime.shutdown_background();
            code
        }
        Err(error) => told(Err(error.into())),
    }
}

/// A client of one cluster of a running lab.
async fn client(record: &Record, cluster: &str) -> Result<kube::Client, Failure> {
    let kubeconfig = &record.cluster(cluster)?.kubeconfig;
    let text = std::fs::read_to_string(kubeconfig).map_err(|error| format!("{}: {error}", kubeconfig.display()))?;
    Ok(crate::orchestration::clients::client(&text).await?)
}

/// Prints to standard output; a reader that has gone is no error.
fn print(text: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
}
