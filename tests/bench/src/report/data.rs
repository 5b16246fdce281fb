//! The JSON form of a [`Run`]: one line for each load, with the median, the smallest and the largest value and the number of
//! values of each system, so that a run of all scenarios is a small file whose changes can be read.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::Run;
use super::machine::Machine;
use crate::finding::{Better, Finding, Metric, Spread};

#[derive(Serialize, Deserialize)]
struct Document {
    #[serde(flatten)]
    head: Head,
    loads: Vec<Load>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    machine: Machine,
    versions: BTreeMap<String, String>,
    command: String,
    started: String,
    elapsed_seconds: f64,
}

#[derive(Serialize, Deserialize)]
struct Load {
    scenario: String,
    load: String,
    metrics: Vec<LoadMetric>,
}

#[derive(Serialize, Deserialize)]
struct LoadMetric {
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    unit: String,
    better: Better,
    systems: BTreeMap<String, Numbers>,
}

/// A [`Spread`]: `[value]` if there is one, else `[median, min, max, count]`.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Numbers {
    One([f64; 1]),
    Many((f64, f64, f64, usize)),
}

/// Writes a run as JSON.
pub fn to_json(run: &Run) -> Result<String> {
    let head = Head {
        machine: run.machine.clone(),
        versions: run.versions.clone(),
        command: run.command.clone(),
        started: run.started.clone(),
        elapsed_seconds: run.elapsed_seconds,
    };
    let head = serde_json::to_string(&head)?;
    let mut text = format!("{},\n\"loads\":[", head.trim_end_matches('}'));
    for (number, load) in loads(&run.findings).iter().enumerate() {
        let separator = if number == 0 { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}\n{}", serde_json::to_string(load)?);
    }
    text.push_str("\n]}\n");
    Ok(text)
}

/// Reads what [`to_json`] wrote.
pub fn from_json(text: &str) -> Result<Run> {
    let Document { head, loads } = serde_json::from_str(text).context("not a report of this program")?;
    let Head { machine, versions, command, started, elapsed_seconds } = head;
    let mut findings = Vec::new();
    for Load { scenario, load, metrics } in loads {
        for LoadMetric { name, unit, better, systems } in metrics {
            findings.extend(systems.into_iter().map(|(system, numbers)| Finding {
                scenario: scenario.clone(),
                load: load.clone(),
                system,
                metric: Metric { name: name.clone(), unit: unit.clone(), better },
                spread: numbers.into(),
            }));
        }
    }
    Ok(Run { machine, versions, command, started, elapsed_seconds, findings })
}

/// Findings by load and metric, in the order of the first of each.
fn loads(findings: &[Finding]) -> Vec<Load> {
    let mut loads: Vec<Load> = Vec::new();
    for finding in findings {
        let same = |load: &Load| load.scenario == finding.scenario && load.load == finding.load;
        let at = loads.iter().position(same).unwrap_or_else(|| {
            let (scenario, load) = (finding.scenario.clone(), finding.load.clone());
            loads.push(Load { scenario, load, metrics: Vec::new() });
            loads.len() - 1
        });
        let metrics = &mut loads[at].metrics;
        let Metric { name, unit, better } = &finding.metric;
        let at = metrics.iter().position(|known| known.name == *name && known.unit == *unit).unwrap_or_else(|| {
            let (name, unit, better, systems) = (name.clone(), unit.clone(), *better, BTreeMap::new());
            metrics.push(LoadMetric { name, unit, better, systems });
            metrics.len() - 1
        });
        metrics[at].systems.insert(finding.system.clone(), finding.spread.into());
    }
    loads
}

impl From<Spread> for Numbers {
    fn from(Spread { median, min, max, count }: Spread) -> Self {
        if count == 1 { Self::One([median]) } else { Self::Many((median, min, max, count)) }
    }
}

impl From<Numbers> for Spread {
    fn from(numbers: Numbers) -> Self {
        match numbers {
            Numbers::One([value]) => Self { median: value, min: value, max: value, count: 1 },
            Numbers::Many((median, min, max, count)) => Self { median, min, max, count },
        }
    }
}
