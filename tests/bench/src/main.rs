//! Measures Isthmus beside Envoy, HAProxy and nginx, in one run on one machine.
//!
//! Start at [`Command`]. A scenario ([`sidecar`], [`routes`], [`gateway`], [`ingress`], [`control_plane`], [`memory`], [`soak`]) starts real
//! processes inside a [`sandbox`], sends load to them ([`load`]), reads their costs from the operating system
//! ([`process`]), and returns [`finding::Finding`]s. [`report`] writes them as tables, JSON and charts. [`compare`] compares
//! two builds of `isthmus`.
//!
//! The rig asserts nothing about time, because machines are noisy. It reports medians, and ratios of systems that took turns.

#![allow(unreachable_pub, reason = "a program: `pub` marks what a module offers to the others")]

mod backend;
mod chain;
mod compare;
mod control_plane;
mod failover;
mod finding;
mod floor;
mod gateway;
mod ingress;
mod load;
mod memory;
mod mesh;
mod part;
mod peers;
mod process;
mod report;
mod rig;
mod routes;
mod sandbox;
mod scenario;
mod setup;
mod sidecar;
mod soak;
mod stream;

use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures Isthmus beside Envoy, HAProxy and nginx
#[derive(Debug, Parser)]
#[command(name = "isthmus-bench", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    rig: rig::Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build `isthmus` with the profile `dist`, and install the peers
    Setup(setup::Options),
    #[command(flatten)]
    Scenario(scenario::Scenario),
    /// Compare two builds of `isthmus` in one table: instructions, allocations, memory, start-up, propagation
    Compare(compare::Options),
    /// Print the tables of earlier runs
    Report(report::Options),
    #[command(subcommand, hide = true)]
    Part(part::Part),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Setup(options) => setup::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Scenario(scenario) => measure(&scenario, &arguments.rig),
        Command::Compare(options) => compare(&options, &arguments.rig),
        Command::Report(options) => report::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Part(part) => part::run(part).map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("isthmus-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Compares two builds inside the sandbox and prints the table.
fn compare(options: &compare::Options, rig: &rig::Options) -> Result<ExitCode> {
    if let Some(code) = sandbox::enter()? {
        return Ok(code);
    }
    let (comparison, failures) = compare::run(options, rig.turns, rig.quick)?;
    print!("{}", if options.markdown { comparison.markdown() } else { comparison.terminal() });
    failures.iter().for_each(|failure| eprintln!("isthmus-bench: {failure:#}"));
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a scenario inside the sandbox, and prints and saves its findings.
fn measure(scenario: &scenario::Scenario, options: &rig::Options) -> Result<ExitCode> {
    if let Some(code) = sandbox::enter()? {
        return Ok(code);
    }
    let rig = rig::Rig::new(options)?;
    let (started, since) = (SystemTime::now(), Instant::now());
    let findings = scenario.run(&rig)?;
    report::print(&findings);
    let run = report::Run::new(&rig.isthmus, started, since.elapsed(), findings);
    if matches!(scenario, scenario::Scenario::All) && !rig.quick {
        report::publish(run, &setup::repository())?;
        println!("written: docs/performance.md and docs/performance/");
    } else {
        let file = run.keep(&setup::directory())?;
        println!("saved to {}; to print it again: isthmus-bench report {0}", file.display());
    }
    Ok(ExitCode::SUCCESS)
}
