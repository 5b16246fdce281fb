//! The `isthmus lab` commands, and the hidden commands that are the processes of a lab.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 3 timed out. `run` and `exec` exit with the code of the command that
//! they ran.

mod certificate;
mod down;
mod exec;
mod fault;
mod logs;
mod outcome;
mod ports;
mod print;
mod selection;
mod status;
mod stop;
mod target;
mod token;
mod tools;
mod up;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use outcome::{block_on, exit_code};
pub use print::OutputFormat;
pub use selection::LabSelection;

use crate::orchestration::{cluster, host_ports, init, issuers, outside};

/// Run clusters, networks and workloads on this machine.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Start a lab from a topology file and keep it until Ctrl-C
    Up(up::UpOptions),
    /// Start a lab, run a command in it, stop the lab, and exit as the command did
    Run(up::RunOptions),
    /// List labs, or show the clusters of one
    Status(status::StatusOptions),
    /// Run a command in a container
    Exec(exec::ExecOptions),
    /// Run kubectl with a cluster's kubeconfig
    Kubectl(tools::KubectlOptions),
    /// Print the path of a cluster's kubeconfig
    Kubeconfig(tools::KubeconfigOptions),
    /// Print a container's log
    Logs(logs::LogsOptions),
    /// Stop a lab, or clean up after one that was killed
    Down(down::DownOptions),
    /// Inject a fault into a running lab
    #[command(subcommand)]
    Fault(fault::FaultCommand),
    /// Capture the traffic between the clusters of a running lab
    Capture(fault::CaptureOptions),
    /// Print the addresses of ingress gateways on this machine
    Ports(ports::PortsOptions),
    /// Issue a certificate for a gateway, as a Secret or as files
    Certificate(certificate::CertificateOptions),
    /// Print a token of an issuer that a running lab serves
    Token(token::TokenOptions),
    /// Replace the key by which an issuer signs tokens, step by step
    RotateKeys(token::RotateKeysOptions),
}

/// The hidden commands that a lab runs as its processes.
#[derive(Debug, Subcommand)]
pub enum HiddenCommand {
    /// Run the first process of a lab
    #[command(name = "lab-init", hide = true)]
    LabInit(InitOptions),
    /// Run a cluster's API server
    #[command(name = "lab-apiserver", hide = true)]
    LabApiserver(cluster::ClusterProcessOptions),
    /// Run a cluster's node agent and controllers
    #[command(name = "lab-node", hide = true)]
    LabNode(cluster::ClusterProcessOptions),
    /// Serve the issuers of tokens
    #[command(name = "lab-issuers", hide = true)]
    LabIssuers(issuers::IssuersProcessOptions),
    /// Serve the servers outside of the mesh
    #[command(name = "lab-external", hide = true)]
    LabExternal(outside::ExternalProcessOptions),
    /// Carry connections from this machine to ingress gateways
    #[command(name = "lab-ports", hide = true)]
    LabPorts(host_ports::PortsProcessOptions),
    /// Hold a pod's namespaces
    #[command(name = "lab-pause", hide = true)]
    LabPause,
    /// Enter namespaces and execute another program
    #[command(name = "lab-enter", hide = true)]
    LabEnter,
    /// Run the test application
    #[command(name = "testapp", hide = true)]
    Testapp(Box<crate::testapp::TestappOptions>),
}

/// Options of a lab's first process.
#[derive(Debug, Args)]
pub struct InitOptions {
    /// The process is in its namespaces
    #[arg(long)]
    inner: bool,
    /// A user namespace was created
    #[arg(long)]
    rootless: bool,
}

impl LabCommand {
    /// Runs the command. To be called before any runtime or thread exists.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self {
            Self::Up(command) => command.run(),
            Self::Run(command) => command.run(),
            Self::Status(command) => exit_code(command.run()),
            Self::Exec(command) => block_on(command.run()),
            Self::Kubectl(command) => exit_code(command.run()),
            Self::Kubeconfig(command) => exit_code(command.run()),
            Self::Logs(command) => block_on(command.run()),
            Self::Down(command) => exit_code(command.run()),
            Self::Fault(command) => block_on(command.run()),
            Self::Capture(command) => exit_code(command.run()),
            Self::Ports(command) => exit_code(command.run()),
            Self::Certificate(command) => exit_code(command.run()),
            Self::Token(command) => exit_code(command.run()),
            Self::RotateKeys(command) => exit_code(command.run()),
        }
    }
}

impl HiddenCommand {
    /// Runs the command. To be called before any runtime or thread exists.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self {
            Self::LabInit(InitOptions { inner: true, rootless }) => init::inner(rootless),
            Self::LabInit(_) => init::outer(),
            Self::LabApiserver(options) => cluster::api_server(&options),
            Self::LabNode(options) => cluster::node(&options),
            Self::LabIssuers(options) => issuers::serve(&options),
            Self::LabExternal(options) => outside::serve(&options),
            Self::LabPorts(options) => host_ports::serve(&options),
            Self::LabPause => net::process::pause(),
            Self::LabEnter => net::process::enter(),
            Self::Testapp(options) => crate::testapp::run(*options),
        }
    }
}
