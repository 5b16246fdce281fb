//! `isthmus lab …`: what a person types, and the hidden commands that a lab's processes are.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 3 timed out; `run` and `exec` exit as the command that they ran.

mod down;
mod exec;
mod fault;
mod logs;
mod outcome;
mod print;
mod selection;
mod status;
mod stop;
mod target;
mod tools;
mod up;

use std::process::ExitCode;

use clap::{Args, Subcommand};
pub use outcome::{TIMED_OUT, WRONG_USAGE};
use outcome::{block_on, told};
pub use print::Format;
pub use selection::Which;

use crate::orchestration::{cluster, init};

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
