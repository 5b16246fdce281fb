//! Findings of our own system alone, as one table for each scenario. The longer one of the two lists, metrics and loads, makes
//! the rows.

use super::number::Scale;
use super::table::{OURS, aligned, compared, piped};
use crate::finding::{Finding, Spread};

/// One table.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing {
    /// The scenario.
    pub scenario: String,
    headings: Vec<String>,
    lines: Vec<Vec<String>>,
}

/// One table for each scenario with findings of our own system alone.
pub fn listings(findings: &[Finding]) -> Vec<Listing> {
    let mut scenarios: Vec<&str> = Vec::new();
    for finding in findings {
        if !scenarios.contains(&finding.scenario.as_str()) {
            scenarios.push(&finding.scenario);
        }
    }
    let of = |scenario: &&str| {
        let alone = findings.iter().filter(|finding| finding.scenario == *scenario && !compared(finding, findings));
        listing(&alone.collect::<Vec<_>>())
    };
    scenarios.iter().filter_map(of).collect()
}

fn listing(findings: &[&Finding]) -> Option<Listing> {
    let scenario = findings.first()?.scenario.clone();
    let (mut loads, mut quantities): (Vec<&str>, Vec<&str>) = Default::default();
    for finding in findings {
        let (load, quantity) = (finding.load.as_str(), finding.metric.name.as_str());
        if !loads.contains(&load) {
            loads.push(load);
        }
        if !quantities.contains(&quantity) {
            quantities.push(quantity);
        }
    }
    let cell = |load: &str, quantity: &str| {
        let found = findings.iter().find(|finding| finding.load == load && finding.metric.name == quantity);
        found.map_or_else(|| "–".to_owned(), |finding| show(finding))
    };
    let by_load = loads.len() > quantities.len();
    let (rows, columns) = if by_load { (&loads, &quantities) } else { (&quantities, &loads) };
    let line = |row: &&str| {
        let cells = columns.iter().map(|column| if by_load { cell(row, column) } else { cell(column, row) });
        std::iter::once((*row).to_owned()).chain(cells).collect()
    };
    let first = if by_load { "load" } else { OURS };
    let headings = std::iter::once(first).chain(columns.iter().copied()).map(ToOwned::to_owned).collect();
    Some(Listing { scenario, headings, lines: rows.iter().map(line).collect() })
}

/// `12.3 MiB (12.1–12.4)`
fn show(finding: &Finding) -> String {
    let Spread { median, min, max, .. } = finding.spread;
    let scale = Scale::of(&finding.metric.unit, [median]);
    let (min, max) = (scale.show(min), scale.show(max));
    let range = if min == max { String::new() } else { format!(" ({min}–{max})") };
    format!("{}{range}", scale.with_unit(median))
}

impl Listing {
    /// The table with aligned columns.
    pub fn terminal(&self) -> String {
        format!("{}\n{}", self.scenario, aligned(&self.headings, &self.lines))
    }

    /// The table in Markdown.
    pub fn markdown(&self) -> String {
        piped(&self.headings, &self.lines)
    }
}
