//! Tables, JSON and charts of what was measured.
//!
//! [`print`] shows findings on a terminal. [`write`] puts a whole [`Run`] into the repository: `docs/performance/latest.json`
//! with everything, `docs/performance/*.svg`, and the generated blocks of `docs/performance.md`, whose prose it keeps.
//! Everything in between is a pure function of the findings: [`table`], [`chart`], [`budgets`], [`document`].

mod budgets;
mod chart;
mod document;
mod listing;
mod machine;
mod number;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::finding::Finding;
use crate::setup;
use machine::Machine;

/// The scenarios in the order of the page, each of which has a generated block of its name in it.
const SCENARIOS: [&str; 7] = ["sidecar", "stream", "gateway", "control-plane", "memory", "failover", "soak"];
const PAGE: &str = "docs/performance.md";
const DIRECTORY: &str = "docs/performance";

/// Findings, and where they come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Where it was measured.
    pub machine: Machine,
    /// What was measured, and beside what: the name and what it says of its version.
    pub versions: BTreeMap<String, String>,
    /// What was typed.
    pub command: String,
    /// When it began, in UTC.
    pub started: String,
    /// How long it took.
    pub elapsed_seconds: f64,
    /// What was found.
    pub findings: Vec<Finding>,
}

/// What to show again.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// JSON files of earlier runs. Of a load that several measured, the last one counts.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Write it into docs/performance.md and docs/performance/ as well.
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

/// Prints all tables, and what became of the budgets that these findings say something about.
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

/// Writes a run into the page. What it did not measure stays as an earlier run found it.
pub fn publish(mut run: Run, repository: &Path) -> Result<()> {
    let latest = repository.join(DIRECTORY).join("latest.json");
    if latest.exists() {
        let earlier = Run::load(&latest)?.findings.into_iter();
        let measured: BTreeSet<String> = run.findings.iter().map(|finding| finding.scenario.clone()).collect();
        run.findings.extend(earlier.filter(|finding| !measured.contains(&finding.scenario)));
    }
    write(&run, repository)
}

/// Writes the page's generated blocks, the JSON and the charts.
pub fn write(run: &Run, repository: &Path) -> Result<()> {
    let (page, directory) = (repository.join(PAGE), repository.join(DIRECTORY));
    let mut text = fs::read_to_string(&page).with_context(|| format!("reading {}", page.display()))?;
    let blocks = table::blocks(&run.findings);
    let charts = chart::charts(&blocks);
    for (name, content) in generated(run, &blocks, &charts) {
        text = document::replace(&text, &name, &content).with_context(|| format!("in {}", page.display()))?;
    }
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    // Charts of an earlier run may be of loads that are no longer measured.
    for file in fs::read_dir(&directory)?.filter_map(Result::ok).map(|entry| entry.path()) {
        if file.extension().is_some_and(|extension| extension == "svg") {
            fs::remove_file(&file)?;
        }
    }
    for chart in &charts {
        fs::write(directory.join(&chart.file), &chart.svg)?;
    }
    run.save(&directory.join("latest.json"))?;
    fs::write(&page, text).with_context(|| format!("writing {}", page.display()))
}

/// Name and content of each generated block of the page.
fn generated(run: &Run, blocks: &[table::Block], charts: &[chart::Chart]) -> Vec<(String, String)> {
    let mut all = vec![
        ("run".to_owned(), run.summary()),
        ("budgets".to_owned(), budgets::markdown(&budgets::assess(&run.findings))),
    ];
    for scenario in SCENARIOS {
        let pictures = charts.iter().filter(|chart| chart.scenario == scenario);
        let pictures = pictures.map(|chart| format!("![{}](performance/{})\n", chart.title, chart.file));
        let tables = blocks.iter().filter(|block| block.scenario == scenario).map(table::Block::markdown);
        let listed = listing::listings(&run.findings).into_iter().filter(|listing| listing.scenario == scenario);
        let listed = listed.map(|listing| listing.markdown());
        let parts: Vec<String> = pictures.chain(tables).chain(listed).collect();
        let content = if parts.is_empty() { "This run did not measure it.\n".to_owned() } else { parts.join("\n") };
        all.push((scenario.to_owned(), content));
    }
    all
}

/// An argument as it has to be typed into a shell.
fn quoted(argument: String) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&byte);
    match !argument.is_empty() && argument.bytes().all(plain) {
        true => argument,
        false => format!("'{}'", argument.replace('\'', "'\\''")),
    }
}

impl Run {
    /// Findings of this machine, made by the command that this process was started with.
    pub fn new(isthmus: &Path, started: SystemTime, elapsed: Duration, mut findings: Vec<Finding>) -> Self {
        // JSON has no word for what is not a number, and nothing was measured there.
        findings.iter_mut().for_each(|finding| finding.values.retain(|value| value.is_finite()));
        let mut versions: BTreeMap<String, String> =
            setup::versions().into_iter().map(|(name, said)| (name, bare(&said).to_owned())).collect();
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

    /// Reads what [`Run::save`] wrote.
    pub fn load(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not a report of this program", file.display()))
    }

    /// Writes all of it as JSON.
    pub fn save(&self, file: &Path) -> Result<()> {
        ensure!(
            self.findings.iter().flat_map(|finding| &finding.values).all(|value| value.is_finite()),
            "not a number"
        );
        fs::write(file, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("writing {}", file.display()))
    }

    /// Writes it into a directory, under the names of its scenarios, and says where.
    pub fn keep(&self, directory: &Path) -> Result<PathBuf> {
        let mut scenarios: Vec<&str> = self.findings.iter().map(|finding| finding.scenario.as_str()).collect();
        scenarios.dedup();
        let file = directory.join(format!("{}.json", scenarios.join("-")));
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        self.save(&file)?;
        Ok(file)
    }

    /// Both: of loads that both measured, what `later` found, in the place of what was known.
    fn followed_by(mut self, later: Self) -> Self {
        let load = |finding: &Finding| (finding.scenario.clone(), finding.load.clone());
        let known: Vec<_> = self.findings.iter().map(load).collect();
        let again: BTreeSet<_> = later.findings.iter().map(load).collect();
        self.findings.retain(|finding| !again.contains(&load(finding)));
        self.findings.extend(later.findings);
        let place = |finding: &Finding| known.iter().position(|known| *known == load(finding)).unwrap_or(known.len());
        self.findings.sort_by_cached_key(place);
        self.versions.extend(later.versions);
        // What was typed again is told once, where it was typed last.
        let again: Vec<&str> = later.command.lines().collect();
        let commands: Vec<&str> =
            self.command.lines().filter(|typed| !again.contains(typed)).chain(again.iter().copied()).collect();
        self.command = commands.join("\n");
        self.elapsed_seconds += later.elapsed_seconds;
        self
    }

    /// Machine, versions, command and date, in Markdown.
    fn summary(&self) -> String {
        let minutes = (self.elapsed_seconds / 60.0).ceil();
        let mut text = format!(
            "Measured {} in {minutes} min on {}, with\n\n```sh\n{}\n```\n\n| system | version |\n| --- | --- |\n",
            self.started,
            table::escape(&self.machine.to_string()),
            self.command
        );
        for (name, version) in &self.versions {
            text += &format!("| {name} | {} |\n", table::escape(version));
        }
        text
    }
}

fn version_of(isthmus: &Path) -> String {
    let output = Command::new(isthmus).arg("version").output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { "unknown".to_owned() } else { lines.join(", ") }
}

/// The version in what a program says of itself; all of that where there is none.
fn bare(said: &str) -> &str {
    let mut words = said.split([' ', '/']).filter(|word| word.contains('.'));
    words.find(|word| word.starts_with(|letter: char| letter.is_ascii_digit())).unwrap_or(said)
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
