//! Drives attacks against a mesh in a lab, beside legitimate traffic.
//!
//! Start at [`attack::ALL`], the list of attacks. For each, [`drive`] starts legitimate traffic ([`traffic`]), then the attack in
//! pods of the lab ([`inside`]), and reads the memory and the descriptors of the attacked process ([`process`]) until it is at
//! rest again. [`verdict`] compares what happened with the attack's bounds, and [`report`] writes the table of
//! docs/security/attacks.md.
//!
//! The attackers are this program as well: it runs inside pods without a sidecar, so that connections come from addresses of pods.

#![allow(unreachable_pub, reason = "a program: `pub` marks what a module offers to the others")]

mod attack;
mod drive;
mod inside;
mod lab;
mod process;
mod report;
mod traffic;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

/// Drives attacks against a mesh in a lab, beside legitimate traffic
#[derive(Debug, Parser)]
#[command(name = "isthmus-attacks", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run attacks, one after the other; fails if one exceeds a bound
    Run(Options),
    /// List the attacks
    List,
    /// Run an attacker inside a pod
    #[command(hide = true)]
    Inside {
        /// An order, in JSON
        order: String,
    },
}

/// Options of a run.
#[derive(Clone, Debug, clap::Args)]
struct Options {
    /// Path of the `isthmus` program
    #[arg(long, env = "ISTHMUS_BINARY", default_value = "target/debug/isthmus")]
    isthmus: PathBuf,
    /// Run only attacks whose name begins with this; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Duration of each attack in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Write the table to this page
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(options) => block_on(run(options)),
        Command::List => {
            attack::ALL.iter().for_each(|attack| println!("{:<20} {}", attack.name, attack.what));
            Ok(ExitCode::SUCCESS)
        }
        Command::Inside { order } => block_on(inside::run(order)).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("isthmus-attacks: {error:#}");
        ExitCode::FAILURE
    })
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    net::socket::raise_open_files_limit()?;
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(work)
}

async fn run(options: Options) -> Result<ExitCode> {
    let chosen =
        |name: &str| options.only.is_empty() || options.only.iter().any(|only| name.starts_with(only.as_str()));
    let attacks: Vec<_> = attack::ALL.iter().filter(|attack| chosen(attack.name)).collect();
    ensure!(!attacks.is_empty(), "no attack has such a name; `isthmus-attacks list` lists them");
    let isthmus = std::path::absolute(&options.isthmus)?;
    let mut lab = None;
    let mut results = Vec::new();
    for attack in attacks {
        let running = match lab.take() {
            Some(running) => running,
            None => lab::Lab::up(&isthmus).await?,
        };
        eprintln!("{}: {}", attack.name, attack.what);
        let result = drive::run(&running, attack, Duration::from_secs(options.seconds)).await?;
        report::print(&result);
        // What an attack has broken must not be counted against the next one.
        match result.faults.is_empty() {
            true => lab = Some(running),
            false => running.down().await,
        }
        results.push(result);
    }
    if let Some(running) = lab {
        running.down().await;
    }
    if let Some(page) = &options.write {
        report::write(page, &results, options.seconds)?;
    }
    let failed = results.iter().filter(|result| !result.faults.is_empty()).count();
    eprintln!("{} of {} attacks exceeded a bound", failed, results.len());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
