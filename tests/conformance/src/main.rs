//! `isthmus-conformance`: records what Istio does with the cases, and compares what Isthmus does. See the library.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use isthmus_conformance::agent::Agent;
use isthmus_conformance::case::{Case, Kind};
use isthmus_conformance::istio::Programs;
use isthmus_conformance::policies::authorizer;
use isthmus_conformance::report::AGREEMENT;
use isthmus_conformance::{drive, export, server};

/// Compares routing, policies and edges in a lab with outcomes recorded from Istio
#[derive(Debug, Parser)]
#[command(name = "isthmus-conformance", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Record what Istio's control plane and Envoy do
    Record {
        #[command(flatten)]
        chosen: Chosen,
        #[command(flatten)]
        programs: Programs,
    },
    /// Compare what Isthmus does with what is recorded; fails if fewer than 97 % of cases agree
    Compare {
        #[command(flatten)]
        chosen: Chosen,
        /// Write the table to this page
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
    },
    /// Have istiod and an Envoy use a service that `isthmus export` gives them
    Export {
        /// Path of the `isthmus` program
        #[arg(long, env = "ISTHMUS_BINARY", default_value = "target/debug/isthmus")]
        isthmus: PathBuf,
        #[command(flatten)]
        programs: Programs,
    },
    /// List the cases
    List {
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Serve in a pod
    #[command(hide = true)]
    Server {
        #[command(flatten)]
        options: server::Options,
        #[command(flatten)]
        agent: Agent,
    },
    /// Send requests from a pod
    #[command(hide = true)]
    Client {
        #[command(flatten)]
        agent: Agent,
    },
    /// Decide for policies of action `CUSTOM`, in a pod
    #[command(hide = true)]
    Authorizer,
}

/// Which cases.
#[derive(Clone, Debug, clap::Args)]
struct Chosen {
    /// Path of the `isthmus` program
    #[arg(long, env = "ISTHMUS_BINARY", default_value = "target/debug/isthmus")]
    isthmus: PathBuf,
    /// Directory of `cases` and `recorded`
    #[arg(long, default_value = "tests/conformance")]
    directory: PathBuf,
    /// Only cases of this kind; may be repeated
    #[arg(long)]
    kind: Vec<String>,
    /// Only this case; may be repeated
    #[arg(long)]
    case: Vec<String>,
    /// Keep the lab after the requests, until Enter
    #[arg(long)]
    keep: bool,
}

impl Chosen {
    fn read(&self) -> Result<Vec<Kind>> {
        let mut kinds = Kind::read_all(&self.directory.join("cases"))?;
        let named = |names: &[String], name: &str| names.is_empty() || names.iter().any(|one| one == name);
        kinds.retain(|kind| named(&self.kind, &kind.name));
        kinds.iter_mut().for_each(|kind| kind.cases.retain(|case: &Case| named(&self.case, &case.name)));
        kinds.retain(|kind| !kind.cases.is_empty());
        ensure!(!kinds.is_empty(), "no case has such a name; `isthmus-conformance list` lists them");
        Ok(kinds)
    }

    fn recorded(&self) -> PathBuf {
        self.directory.join("recorded")
    }
}

fn main() -> ExitCode {
    let work = async {
        match Arguments::parse().command {
            Command::Record { chosen, programs } => {
                let isthmus = std::path::absolute(&chosen.isthmus)?;
                drive::record(&isthmus, &programs, &chosen.read()?, &chosen.recorded(), chosen.keep).await?;
            }
            Command::Compare { chosen, write } => return compare(&chosen, write.as_deref()).await,
            Command::Export { isthmus, programs } => export::run(&std::path::absolute(isthmus)?, &programs).await?,
            Command::List { chosen } => {
                for kind in chosen.read()? {
                    println!("{}: {}", kind.name, kind.about.trim());
                    kind.cases.iter().for_each(|case| println!("  {:<40} {}", case.name, case.about.trim()));
                }
            }
            Command::Server { options, agent } => {
                tokio::try_join!(server::run(options), agent.run())?;
            }
            Command::Client { agent } => agent.run().await?,
            Command::Authorizer => authorizer::run().await?,
        }
        Ok(ExitCode::SUCCESS)
    };
    isthmus_conformance::block_on(work).unwrap_or_else(|error| {
        eprintln!("isthmus-conformance: {error:#}");
        ExitCode::FAILURE
    })
}

async fn compare(chosen: &Chosen, write: Option<&Path>) -> Result<ExitCode> {
    let kinds = chosen.read()?;
    let isthmus = std::path::absolute(&chosen.isthmus)?;
    let (report, versions) = drive::compare(&isthmus, &kinds, &chosen.recorded(), chosen.keep).await?;
    print!("{}\n{}", report.details(), report.table(&kinds));
    if let Some(page) = write {
        report.write(page, &kinds, &versions)?;
    }
    Ok(if report.agreement() >= AGREEMENT { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
