//! The budgets: what the proxies and the controller may cost, and whether findings meet it.
//!
//! A budget names a scenario, a metric (whose name may go on after a space), and parts of a load's name
//! (`HTTP/1.1 keep-alive, 1 KiB, 16 connections` has three). If several loads match, the worst one counts.

mod list;

use super::number::{Scale, convert, ratio};
use super::table::{self, NONE, OURS};
use crate::finding::{Finding, Metric};
use list::BUDGETS;

/// One budget.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// The description.
    pub what: &'static str,
    /// The row of the page that shows the budget; `None` if only the tables do. Budgets of one row follow each other.
    pub row: Option<&'static str>,
    scenario: &'static str,
    metric: &'static str,
    load: &'static [&'static str],
    bound: Bound,
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    /// Our median, divided by that of the best of these systems.
    Ratio { peers: &'static [&'static str], at_most: f64 },
    /// The same of what a system adds to having no proxy.
    Added { peer: &'static str, at_most: f64 },
    /// Our median, in this unit.
    Value { at_most: f64, unit: &'static str },
}

const FLOOR: &[&str] = &["floor"];

/// A budget compared with findings.
#[derive(Clone, Debug, PartialEq)]
pub struct Assessment {
    /// [`Budget::what`].
    pub what: &'static str,
    /// [`Budget::row`].
    pub row: Option<&'static str>,
    /// The bound's number, as text.
    pub bound: String,
    /// The systems that the bound's number is a multiple of, as text; empty if it is not.
    pub reference: String,
    /// The measurement under the worst load; `None` if these findings have none.
    pub measured: Option<Measurement>,
}

/// What a budget is compared with.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// The measurement in the bound's terms, as text.
    pub value: String,
    /// The median that a ratio is of, with its unit, as text.
    pub ours: Option<String>,
    /// The best peer and its median, as text.
    pub peer: Option<String>,
    /// The floor in the bound's terms, as text.
    pub floor: Option<String>,
    /// The worst load.
    pub load: String,
    /// The number of loads that meet the bound.
    pub meeting: usize,
    /// The number of loads.
    pub loads: usize,
    /// Whether the worst load meets the bound.
    pub met: bool,
}

/// Compares all budgets with findings.
pub fn assess(findings: &[Finding]) -> Vec<Assessment> {
    BUDGETS.iter().map(|budget| budget.assess(findings)).collect()
}

/// The bound of our ratio to another system, by a budget; the smallest if there are several.
pub fn ratio_allowed(ours: &Finding, other: &str) -> Option<f64> {
    let bounds = BUDGETS.iter().filter(|budget| budget.is_about(ours)).filter_map(|budget| match budget.bound {
        Bound::Ratio { peers, at_most } => peers.contains(&other).then_some(at_most),
        Bound::Added { .. } | Bound::Value { .. } => None,
    });
    bounds.reduce(f64::min)
}

impl Budget {
    fn is_about(&self, finding: &Finding) -> bool {
        let parts: Vec<&str> = finding.load.split(", ").collect();
        let rest = finding.metric.name.strip_prefix(self.metric);
        finding.scenario == self.scenario
            && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
            && self.load.iter().all(|part| parts.contains(part))
    }

    fn assess(&self, findings: &[Finding]) -> Assessment {
        let Self { what, row, bound, .. } = *self;
        let (shown, reference) = bound.show();
        let ours = findings.iter().filter(|finding| finding.system == OURS && self.is_about(finding));
        let all: Vec<(&Finding, Comparison)> = ours.filter_map(|of| Some((of, bound.compare(of, findings)?))).collect();
        let meets = |comparison: &Comparison| comparison.value <= bound.at_most();
        let worst = all.iter().max_by(|(_, one), (_, other)| one.value.total_cmp(&other.value));
        let measured = worst.map(|(ours, worst)| {
            let floor = same_metric(ours, FLOOR[0], findings).filter(|_| !bound.is_to_floor());
            let floor = floor.and_then(|floor| bound.compare(floor, findings));
            Measurement {
                value: bound.show_number(worst.value),
                ours: worst.ours.clone(),
                peer: worst.peer.clone(),
                floor: floor.map(|floor| bound.show_number(floor.value)),
                load: ours.load.clone(),
                meeting: all.iter().filter(|(_, comparison)| meets(comparison)).count(),
                loads: all.len(),
                met: meets(worst),
            }
        });
        Assessment { what, row, bound: shown, reference, measured }
    }
}

/// A finding in a bound's terms.
struct Comparison {
    value: f64,
    ours: Option<String>,
    peer: Option<String>,
}

impl Bound {
    fn at_most(self) -> f64 {
        match self {
            Self::Ratio { at_most, .. } | Self::Added { at_most, .. } | Self::Value { at_most, .. } => at_most,
        }
    }

    fn is_to_floor(self) -> bool {
        matches!(self, Self::Ratio { peers, .. } if peers.contains(&FLOOR[0]))
    }

    /// The number, and what it is a multiple of.
    fn show(self) -> (String, String) {
        let number = format!("≤ {}", self.show_number(self.at_most()));
        match self {
            Self::Ratio { peers: [peer], .. } => (number, (*peer).to_owned()),
            Self::Ratio { peers, .. } => (number, format!("the best of {}", peers.join(", "))),
            Self::Added { peer, .. } => (number, format!("what {peer} adds")),
            Self::Value { .. } => (number, String::new()),
        }
    }

    fn show_number(self, number: f64) -> String {
        match self {
            Self::Ratio { .. } | Self::Added { .. } => ratio(number),
            Self::Value { unit, .. } => Scale::plain(unit).with_unit(number),
        }
    }

    fn compare(self, of: &Finding, findings: &[Finding]) -> Option<Comparison> {
        let median = |system: &str| same_metric(of, system, findings).map(|finding| finding.spread.median);
        let (ours, unit) = (of.spread.median, &of.metric.unit);
        let show = |value: f64| Scale::of(unit, [value]).with_unit(value);
        let comparison = match self {
            Self::Ratio { peers, .. } => {
                let best = peers.iter().filter_map(|peer| Some((*peer, median(peer)?)));
                let (peer, best) = best.min_by(|(_, one), (_, other)| one.total_cmp(other))?;
                Comparison { value: ours / best, ours: Some(show(ours)), peer: Some(format!("{peer} {}", show(best))) }
            }
            Self::Added { peer, .. } => {
                let none = median(NONE)?;
                let (ours, theirs) = (ours - none, median(peer)? - none);
                Comparison {
                    value: ours / theirs,
                    ours: Some(show(ours)),
                    peer: Some(format!("{peer} {}", show(theirs))),
                }
            }
            Self::Value { unit: wanted, .. } => {
                Comparison { value: convert(ours, unit, wanted)?, ours: None, peer: None }
            }
        };
        comparison.value.is_finite().then_some(comparison)
    }
}

/// The same metric of another system under the same load.
fn same_metric<'a>(of: &Finding, system: &str, findings: &'a [Finding]) -> Option<&'a Finding> {
    let same = |finding: &&Finding| {
        let Metric { name, unit, .. } = &finding.metric;
        finding.scenario == of.scenario && finding.load == of.load && (name, unit) == (&of.metric.name, &of.metric.unit)
    };
    findings.iter().filter(same).find(|finding| finding.system == system)
}

/// All assessments as a table, one row each.
fn lines(rows: &[Assessment]) -> (Vec<String>, Vec<Vec<String>>) {
    let headings = ["budget", "bound", "measured", "floor", "worst load", "verdict"].map(ToOwned::to_owned).to_vec();
    let lines = rows.iter().map(|row| {
        let measured = row.measured.as_ref();
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".into());
        let bound = format!("{} {}", row.bound, row.reference).trim_end().to_owned();
        let load = measured.map(|measured| match measured.loads {
            1 => measured.load.clone(),
            many => format!("{}; {} of {many} loads meet it", measured.load, measured.meeting),
        });
        vec![
            row.what.into(),
            bound,
            or_dash(measured.map(|measured| measured.value.clone())),
            or_dash(measured.and_then(|measured| measured.floor.clone())),
            or_dash(load),
            verdict(measured.map(|measured| measured.met)),
        ]
    });
    (headings, lines.collect())
}

fn verdict(met: Option<bool>) -> String {
    match met {
        Some(true) => "✓ met".into(),
        Some(false) => "✗ missed".into(),
        None => "not measured".into(),
    }
}

/// A table with aligned columns.
pub fn terminal(rows: &[Assessment]) -> String {
    let (headings, lines) = lines(rows);
    format!("budgets\n{}", table::aligned(&headings, &lines))
}

/// A table of all budgets in Markdown.
pub fn markdown(rows: &[Assessment]) -> String {
    let (headings, lines) = lines(rows);
    table::piped(&headings, &lines)
}

/// The page's table in Markdown: one line for each row.
pub fn page(rows: &[Assessment]) -> String {
    let headings = ["what", "budget", "measured", "peer", "verdict"].map(ToOwned::to_owned);
    let lines: Vec<Vec<String>> = rows
        .chunk_by(|one, other| one.row == other.row)
        .filter_map(|group| Some(page_line(group.first()?.row?, group)))
        .collect();
    table::piped(&headings, &lines)
}

fn page_line(what: &str, group: &[Assessment]) -> Vec<String> {
    let joined = |of: fn(&Assessment) -> String| group.iter().map(of).collect::<Vec<_>>().join(" / ");
    let reference = match group.first().map(|row| row.reference.as_str()) {
        Some(best) if best.starts_with("the best of") => "the best peer",
        Some(reference) => reference,
        None => "",
    };
    let measured = |row: &Assessment| match &row.measured {
        None => "–".into(),
        Some(Measurement { value, ours, loads, meeting, .. }) => {
            let ours = ours.as_ref().map(|ours| format!(" ({ours})")).unwrap_or_default();
            let is_ratio = !ours.is_empty();
            let meeting = if is_ratio && *loads > 1 && meeting < loads {
                format!("; {meeting} of {loads} loads meet it")
            } else {
                String::new()
            };
            format!("{value}{ours}{meeting}")
        }
    };
    let peers: Vec<&str> = group.iter().filter_map(|row| row.measured.as_ref()?.peer.as_deref()).collect();
    let met: Option<Vec<bool>> = group.iter().map(|row| row.measured.as_ref().map(|measured| measured.met)).collect();
    let missed = met.map(|met| met.iter().filter(|met| !**met).count());
    let verdict = match missed {
        Some(missed) if missed > 0 && missed < group.len() => format!("✗ {missed} of {} missed", group.len()),
        missed => verdict(missed.map(|missed| missed == 0)),
    };
    vec![
        what.to_owned(),
        format!("{} {reference}", joined(|row| row.bound.clone())).trim_end().to_owned(),
        joined(measured),
        if peers.is_empty() { "–".into() } else { peers.join(" / ") },
        verdict,
    ]
}
