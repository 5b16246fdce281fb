//! Requests through two sidecars: client → outbound proxy → mutual TLS → inbound proxy, which authorizes by the client's
//! identity → server. Our pair is compared with a pair of Envoys, the floor, and no proxy.
//!
//! Each row is a kind of load. First every system gets as many requests as it carries (closed loop): throughput and cost per
//! request. Then all systems get the same rate, which the slowest carries easily (open loop): latency. All proxies have one
//! worker.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::chain::{Chain, LOCAL_SERVER, PortProtocol};
use crate::finding::{Finding, Recorder};
use crate::mesh::Mesh;
use crate::process::Process;
use crate::rig::Rig;

mod calls;
mod floor;
pub mod isthmus;
pub mod measure;
pub mod rows;

use measure::SidecarBench;

/// The authority of requests.
pub const AUTHORITY: &str = "server:9080";

/// Options of `sidecar`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Measure loads whose name contains this text only; can be given several times
    #[arg(long)]
    pub only: Vec<String>,
    /// Measure these systems only
    #[arg(long, value_delimiter = ',')]
    pub systems: Vec<SidecarSystem>,
    /// Length of each window in seconds [default: by load]
    #[arg(long)]
    pub seconds: Option<f64>,
}

/// A measured system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SidecarSystem {
    /// A pair of our sidecars.
    Isthmus,
    /// A pair of Envoys.
    Envoy,
    /// The floor.
    Floor,
    /// A pair that only copies bytes, in the rows that budgets are about.
    Copy,
    /// No proxy.
    None,
}

impl SidecarSystem {
    const ALL: [Self; 5] = [Self::Isthmus, Self::Envoy, Self::Floor, Self::Copy, Self::None];

    /// Starts the processes of the system.
    pub fn start(self, mesh: &Mesh, rig: &Rig) -> Result<Chain> {
        match self {
            Self::Isthmus => isthmus::start(mesh, rig),
            Self::Envoy => crate::peers::envoy::pair(mesh, rig),
            Self::Floor => floor::start(mesh, rig),
            Self::Copy => floor::copies(rig),
            Self::None => Ok(Chain::none()),
        }
    }
}

/// Runs the scenario.
pub fn run(options: &Options, rig: &Rig) -> Result<Vec<Finding>> {
    let _server = server(rig)?;
    let mesh = Mesh::start(rig.directory())?;
    let systems = if options.systems.is_empty() { SidecarSystem::ALL.to_vec() } else { options.systems.clone() };
    let chains = systems.iter().map(|system| system.start(&mesh, rig)).collect::<Result<Vec<_>>>()?;
    let (recorder, seconds) = (Recorder::new("sidecar"), options.seconds);
    let mut bench = SidecarBench { rig, chains, recorder, authority: AUTHORITY, seconds };
    for row in if rig.quick { rows::quick() } else { rows::all() } {
        let load = row.shape.to_string();
        if options.only.is_empty() || options.only.iter().any(|part| load.contains(part.as_str())) {
            bench.row(row).with_context(|| load)?;
        }
    }
    let findings = bench.recorder.findings();
    ensure!(!findings.is_empty(), "no load has a name that contains {}", options.only.join(" or "));
    Ok(findings)
}

/// Starts the server.
pub fn server(rig: &Rig) -> Result<Process> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["part", "backend"]);
    for speaks in PortProtocol::ALL {
        command.arg(if speaks.is_http() { "--http" } else { "--echo" }).arg(speaks.server().to_string());
    }
    command.arg("--http").arg(LOCAL_SERVER.to_string());
    let mut process = Process::start("server", command, &rig.log("server"))?;
    process.listens_at(PortProtocol::Http1.server(), &rig.log("server"))?;
    Ok(process)
}
