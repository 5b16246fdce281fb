//! What was measured of our own system alone, as one table for each scenario: quantities one way, loads the other, whichever
//! makes it longer than wide.

use super::number::Scale;
use super::table::{OURS, aligned, compared, piped};
use crate::finding::Finding;

/// One table.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing {
    /// The scenario.
    pub scenario: String,
    headings: Vec<String>,
    lines: Vec<Vec<String>>,
}

/// A table for each scenario that has something to list.
pub fn listings(findings: &[Finding]) -> Vec<Listing> {
    let mut scenarios: Vec<&str> = Vec::new();
    for finding in findings {
        if !scenarios.contains(&finding.scenario.as_str()) {
            scenarios.push(&finding.scenario);
        }
    }
    let of = |scenario: &&str| {
        let alone = findings.iter().filter(|finding| finding.scenario == *scenario && !compared(finding, findings));
        listing(&alone.filter(|finding| !finding.median().is_nan()).collect::<Vec<_>>())
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
    let median = finding.median();
    let scale = Scale::of(&finding.metric.unit, [median]);
    let known = || finding.values.iter().copied().filter(|value| !value.is_nan());
    let (least, most) = (known().fold(f64::INFINITY, f64::min), known().fold(f64::NEG_INFINITY, f64::max));
    let (least, most) = (scale.show(least), scale.show(most));
    let range = if least == most { String::new() } else { format!(" ({least}–{most})") };
    format!("{}{range}", scale.with_unit(median))
}

impl Listing {
    /// With columns under each other.
    pub fn terminal(&self) -> String {
        format!("{}\n{}", self.scenario, aligned(&self.headings, &self.lines))
    }

    /// In Markdown.
    pub fn markdown(&self) -> String {
        piped(&self.headings, &self.lines)
    }
}
