//! Findings as tables: one for each scenario and quantity, with a row for each load, a column for each system, and a column
//! for each ratio to another system.

use std::fmt::Write as _;

use super::budgets;
use super::number::{Scale, ratio};
use crate::finding::{Better, Finding, Spread};

/// The system that the others are compared with.
pub const OURS: &str = "isthmus";
/// The name for no proxy at all. It gets no column of ratios.
pub const NONE: &str = "none";
/// The order of columns; other systems follow.
const ORDER: [&str; 9] = [OURS, "floor", "copy", "envoy", "istio", "haproxy", "haproxy (splice)", "nginx", NONE];

/// One table.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricTable {
    /// The scenario.
    pub scenario: String,
    /// The quantity, without a percentile: `latency`.
    pub quantity: String,
    /// Which direction is better.
    pub better: Better,
    /// The unit of all values.
    pub scale: Scale,
    /// The systems, in the order of the columns.
    pub systems: Vec<String>,
    /// The systems that have a column of ratios.
    pub compared: Vec<String>,
    /// The rows, one for each load and percentile.
    pub rows: Vec<TableRow>,
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct TableRow {
    /// The load, with the percentile if there is one.
    pub load: String,
    /// The values, one for each of [`MetricTable::systems`].
    pub cells: Vec<Option<Spread>>,
    /// The ratios, one for each of [`MetricTable::compared`].
    pub ratios: Vec<Option<Ratio>>,
}

/// Our median, divided by another system's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The quotient.
    pub value: f64,
    /// Whether ours is better.
    pub better: bool,
    /// Whether it is within its budget; `None` if it has none.
    pub within: Option<bool>,
}

/// Returns whether the metric was measured of another system too, under any load.
pub fn compared(finding: &Finding, findings: &[Finding]) -> bool {
    findings.iter().any(|other| {
        let same = other.scenario == finding.scenario && other.metric.name == finding.metric.name;
        same && other.system != OURS
    })
}

/// The tables of metrics that were measured of several systems, in the order of the findings.
pub fn blocks(findings: &[Finding]) -> Vec<MetricTable> {
    let mut keys: Vec<(&str, &str)> = Vec::new();
    for finding in findings.iter().filter(|finding| compared(finding, findings)) {
        let key = (finding.scenario.as_str(), split(&finding.metric.name).0);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let of = |(scenario, quantity): &(&str, &str)| {
        let chosen: Vec<&Finding> = findings
            .iter()
            .filter(|finding| finding.scenario == *scenario && split(&finding.metric.name).0 == *quantity)
            .filter(|finding| compared(finding, findings))
            .collect();
        block(&chosen)
    };
    keys.iter().filter_map(of).collect()
}

/// Splits a name into quantity and percentile: `latency p99.9` and `latency, p99.9` are `p99.9` of `latency`.
fn split(metric: &str) -> (&str, Option<&str>) {
    match metric.rsplit_once(' ') {
        Some((quantity, percentile))
            if percentile.strip_prefix('p').is_some_and(|number| number.parse::<f64>().is_ok()) =>
        {
            (quantity.trim_end_matches(','), Some(percentile))
        }
        _ => (metric, None),
    }
}

fn block(findings: &[&Finding]) -> Option<MetricTable> {
    let first = findings.first()?;
    let mut systems: Vec<String> = Vec::new();
    let mut keys: Vec<(&str, &str)> = Vec::new();
    for finding in findings {
        if !systems.contains(&finding.system) {
            systems.push(finding.system.clone());
        }
        let key = (finding.load.as_str(), finding.metric.name.as_str());
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    systems.sort_by_key(|system| ORDER.iter().position(|known| known == system).unwrap_or(ORDER.len()));
    // Percentiles of one load stand together.
    let loads: Vec<&str> = keys.iter().map(|(load, _)| *load).collect();
    keys.sort_by_key(|(load, _)| loads.iter().position(|other| other == load));
    let compared: Vec<String> = match systems.iter().any(|system| system == OURS) {
        true => systems.iter().filter(|system| ![OURS, NONE].contains(&system.as_str())).cloned().collect(),
        false => Vec::new(),
    };
    let rows = keys.iter().map(|(load, metric)| {
        let find = |system: &str| {
            let mut same = findings.iter().filter(|finding| finding.load == *load && finding.metric.name == *metric);
            same.find(|finding| finding.system == system).copied()
        };
        TableRow {
            load: match split(metric).1 {
                Some(percentile) if load.is_empty() => percentile.to_owned(),
                Some(percentile) => format!("{load}: {percentile}"),
                None => (*load).to_owned(),
            },
            cells: systems.iter().map(|system| find(system).map(|finding| finding.spread)).collect(),
            ratios: compared.iter().map(|other| compare(find(OURS)?, find(other)?)).collect(),
        }
    });
    let rows: Vec<TableRow> = rows.collect();
    let medians = rows.iter().flat_map(|row| row.cells.iter().flatten()).map(|spread| spread.median);
    Some(MetricTable {
        scenario: first.scenario.clone(),
        quantity: split(&first.metric.name).0.to_owned(),
        better: first.metric.better,
        scale: Scale::of(&first.metric.unit, medians),
        systems,
        compared,
        rows,
    })
}

fn compare(ours: &Finding, theirs: &Finding) -> Option<Ratio> {
    let value = ours.spread.median / theirs.spread.median;
    let better = match ours.metric.better {
        Better::Lower => value < 1.0,
        Better::Higher => value > 1.0,
    };
    let within = budgets::ratio_allowed(ours, &theirs.system).map(|bound| value <= bound);
    value.is_finite().then_some(Ratio { value, better, within })
}

impl MetricTable {
    /// `CPU per request, µs`
    pub fn title(&self) -> String {
        if self.scale.unit.is_empty() {
            self.quantity.clone()
        } else {
            format!("{}, {}", self.quantity, self.scale.unit)
        }
    }

    fn headings(&self) -> Vec<String> {
        let ratios = self.compared.iter().map(|system| format!("{OURS} ÷ {system}"));
        std::iter::once("load".to_owned()).chain(self.systems.iter().cloned()).chain(ratios).collect()
    }

    fn lines(&self, emphasis: &str) -> Vec<Vec<String>> {
        self.rows
            .iter()
            .map(|row| {
                let cells = row.cells.iter().map(|cell| cell.map_or_else(|| "–".into(), |cell| self.show(cell)));
                let ratios =
                    row.ratios.iter().map(|ratio| ratio.map_or_else(|| "–".into(), |ratio| ratio.show(emphasis)));
                std::iter::once(row.load.clone()).chain(cells).chain(ratios).collect()
            })
            .collect()
    }

    fn show(&self, spread: Spread) -> String {
        let [median, min, max] = [spread.median, spread.min, spread.max].map(|value| self.scale.show(value));
        if min == max { median } else { format!("{median} ({min}–{max})") }
    }

    /// The table with aligned columns.
    pub fn terminal(&self) -> String {
        let better = if self.better == Better::Lower { "lower is better" } else { "higher is better" };
        format!("{}: {} ({better})\n{}", self.scenario, self.title(), aligned(&self.headings(), &self.lines("")))
    }

    /// The table in Markdown, under a heading. A ratio is bold if our value is the better one.
    pub fn markdown(&self) -> String {
        let (headings, lines) = (self.headings(), self.lines("**"));
        let mut title = self.title();
        if let Some(first) = title.get(..1).map(str::to_uppercase) {
            title.replace_range(..1, &first);
        }
        format!("**{}**\n\n{}", escape(&title), piped(&headings, &lines))
    }
}

impl Ratio {
    fn show(self, emphasis: &str) -> String {
        let emphasis = if self.better { emphasis } else { "" };
        let verdict = match self.within {
            Some(true) => " ✓",
            Some(false) => " ✗",
            None => "",
        };
        format!("{emphasis}{}{emphasis}{verdict}", ratio(self.value))
    }
}

/// A table with aligned columns: the first to the left, the others to the right.
pub fn aligned(headings: &[String], lines: &[Vec<String>]) -> String {
    let all = || std::iter::once(headings).chain(lines.iter().map(Vec::as_slice));
    let length = |text: &String| text.chars().count();
    let widths: Vec<usize> =
        (0..headings.len()).map(|at| all().filter_map(|line| line.get(at)).map(length).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for line in all() {
        for (at, (cell, width)) in line.iter().zip(&widths).enumerate() {
            // Writing to a string cannot fail.
            let _ = if at == 0 { write!(text, "  {cell:<width$}") } else { write!(text, "  {cell:>width$}") };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// A table in Markdown: the first column to the left, the others to the right.
pub fn piped(headings: &[String], lines: &[Vec<String>]) -> String {
    let row =
        |cells: &[String]| format!("| {} |\n", cells.iter().map(|cell| escape(cell)).collect::<Vec<_>>().join(" | "));
    let rule = format!("| --- |{}\n", " ---: |".repeat(headings.len().saturating_sub(1)));
    row(headings) + &rule + &lines.iter().map(|line| row(line)).collect::<String>()
}

/// Text for a cell of a table in Markdown.
pub fn escape(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace('\n', " ")
}
