//! Tables, JSON and charts of findings.
//!
//! [`print`] shows findings on a terminal. [`publish`] writes a whole [`Run`] into the repository: all findings to
//! `docs/performance/latest.json`, all tables to `docs/performance/tables.md`, four charts to `docs/performance/*.svg`, and
//! the generated blocks of `docs/performance.md`, whose other text it keeps. The modules in between are pure functions of
//! the findings.

mod budgets;
mod chart;
mod comparison;
mod data;
mod document;
mod draw;
mod listing;
mod machine;
mod number;
mod page;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use crate::finding::Finding;
use crate::setup;
pub use comparison::{BUILDS, Comparison};
use machine::Machine;

const PAGE: &str = "docs/performance.md";
const DIRECTORY: &str = "docs/performance";

/// Findings with their origin.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The machine.
    pub machine: Machine,
    /// The measured programs: name and version.
    pub versions: BTreeMap<String, String>,
    /// The command lines, one per line.
    pub command: String,
    /// The start, in UTC.
    pub started: String,
    /// The duration.
    pub elapsed_seconds: f64,
    /// The findings.
    pub findings: Vec<Finding>,
}

/// Options of `report`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// JSON files of earlier runs; if several measured a load, the last one counts
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Write docs/performance.md and docs/performance/ as well
    #[arg(long)]
    write: bool,
}

/// Shows earlier runs.
pub fn run(options: &Options) -> Result<()> {
    let runs: Vec<Run> = options.files.iter().map(|file| Run::load(file)).collect::<Result<_>>()?;
    let Some(run) = runs.into_iter().reduce(Run::followed_by) else { return Ok(()) };
    print(&run.findings);
    if options.write {
        publish(run, &setup::repository())?;
    }
    Ok(())
}

/// Prints all tables, and the budgets that these findings are about.
pub fn print(findings: &[Finding]) {
    for block in table::blocks(findings) {
        println!("{}", block.terminal());
    }
    for listing in listing::listings(findings) {
        println!("{}", listing.terminal());
    }
    let measured: Vec<_> = budgets::assess(findings).into_iter().filter(|row| row.measured.is_some()).collect();
    if !measured.is_empty() {
        println!("{}", budgets::terminal(&measured));
    }
}

/// Writes a run into the repository. Scenarios that it did not measure keep the findings of the earlier run.
pub fn publish(mut run: Run, repository: &Path) -> Result<()> {
    let latest = repository.join(DIRECTORY).join("latest.json");
    if latest.exists() {
        let earlier = Run::load(&latest)?.findings.into_iter();
        let measured: BTreeSet<String> = run.findings.iter().map(|finding| finding.scenario.clone()).collect();
        run.findings.extend(earlier.filter(|finding| !measured.contains(&finding.scenario)));
    }
    write(&run, repository)
}

/// Writes the page's generated blocks, the tables, the JSON and the charts.
fn write(run: &Run, repository: &Path) -> Result<()> {
    let (page, directory) = (repository.join(PAGE), repository.join(DIRECTORY));
    let mut text = fs::read_to_string(&page).with_context(|| format!("reading {}", page.display()))?;
    let charts = chart::charts(&run.findings);
    for (name, content) in page::blocks(run, &charts) {
        text = document::replace(&text, name, &content).with_context(|| format!("in {}", page.display()))?;
    }
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    remove_charts(&directory)?;
    for chart in &charts {
        write_file(&directory.join(chart.file), &chart.svg)?;
    }
    run.save(&directory.join("latest.json"))?;
    write_file(&directory.join("tables.md"), &page::tables(run))?;
    write_file(&page, &text)
}

/// Removes the charts of earlier runs.
fn remove_charts(directory: &Path) -> Result<()> {
    for file in fs::read_dir(directory)?.filter_map(Result::ok).map(|entry| entry.path()) {
        if file.extension().is_some_and(|extension| extension == "svg") {
            fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
        }
    }
    Ok(())
}

fn write_file(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

/// Quotes an argument for a shell.
fn quoted(argument: String) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&byte);
    match !argument.is_empty() && argument.bytes().all(plain) {
        true => argument,
        false => format!("'{}'", argument.replace('\'', "'\\''")),
    }
}

impl Run {
    /// Findings of this machine, measured by the command line of this process.
    pub fn new(isthmus: &Path, started: SystemTime, elapsed: Duration, findings: Vec<Finding>) -> Self {
        let mut versions: BTreeMap<String, String> =
            setup::versions().into_iter().map(|(name, line)| (name, bare(&line).to_owned())).collect();
        versions.insert("isthmus".into(), version_of(isthmus));
        let arguments: Vec<String> = std::env::args().skip(1).map(quoted).collect();
        Self {
            machine: Machine::this(),
            versions,
            command: format!("cargo run --release -p isthmus-bench -- {}", arguments.join(" ")),
            started: utc(started),
            elapsed_seconds: elapsed.as_secs_f64().round(),
            findings,
        }
    }

    /// Reads a file that [`Run::save`] wrote.
    pub fn load(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        data::from_json(&text).with_context(|| format!("reading {}", file.display()))
    }

    /// Writes the run as JSON.
    pub fn save(&self, file: &Path) -> Result<()> {
        write_file(file, &data::to_json(self)?)
    }

    /// Writes the run into a directory, to a file named after its scenarios, and returns that file's path.
    pub fn keep(&self, directory: &Path) -> Result<PathBuf> {
        let mut scenarios: Vec<&str> = self.findings.iter().map(|finding| finding.scenario.as_str()).collect();
        scenarios.dedup();
        let file = directory.join(format!("{}.json", scenarios.join("-")));
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        self.save(&file)?;
        Ok(file)
    }

    /// Both runs as one. Findings of `later` replace those of the same load.
    fn followed_by(mut self, later: Self) -> Self {
        let load = |finding: &Finding| (finding.scenario.clone(), finding.load.clone());
        let known: Vec<_> = self.findings.iter().map(load).collect();
        let again: BTreeSet<_> = later.findings.iter().map(load).collect();
        self.findings.retain(|finding| !again.contains(&load(finding)));
        self.findings.extend(later.findings);
        let position =
            |finding: &Finding| known.iter().position(|known| *known == load(finding)).unwrap_or(known.len());
        self.findings.sort_by_cached_key(position);
        self.versions.extend(later.versions);
        // A command that was run again is listed once, at its last position.
        let again: Vec<&str> = later.command.lines().collect();
        let commands: Vec<&str> =
            self.command.lines().filter(|typed| !again.contains(typed)).chain(again.iter().copied()).collect();
        self.command = commands.join("\n");
        self.elapsed_seconds += later.elapsed_seconds;
        self
    }
}

fn version_of(isthmus: &Path) -> String {
    let output = Command::new(isthmus).arg("version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { "unknown".to_owned() } else { lines.join(", ") }
}

/// The version number in the line that a program prints; the whole line if there is none.
fn bare(line: &str) -> &str {
    let mut words = line.split([' ', '/']).filter(|word| word.contains('.'));
    words.find(|word| word.starts_with(|letter: char| letter.is_ascii_digit())).unwrap_or(line)
}

/// `2026-11-20 14:05 UTC`
fn utc(time: SystemTime) -> String {
    let time = time::OffsetDateTime::from(time);
    let (date, clock) = (time.date(), time.time());
    format!(
        "{}-{:02}-{:02} {:02}:{:02} UTC",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute()
    )
}

#[cfg(test)]
mod tests;
