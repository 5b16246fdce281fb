//! What the data path and the controller may cost, and whether they keep to it.
//!
//! A budget names a scenario, a quantity (whose name may go on after a space), and what a load has among its parts
//! (`HTTP/1.1 keep-alive, 1 KiB, 16 connections` has three).
//! Where several loads have them, the worst one counts.

use super::number::{Scale, convert, ratio};
use super::table::{self, NONE, OURS};
use crate::finding::{Finding, Metric};

/// One budget.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// What it is about, for people.
    pub what: &'static str,
    scenario: &'static str,
    metric: &'static str,
    load: &'static [&'static str],
    bound: Bound,
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    /// Our median by the best of theirs.
    Ratio { peers: &'static [&'static str], at_most: f64 },
    /// The same of what is added to having no proxy at all.
    Added { peer: &'static str, at_most: f64 },
    /// Our median, in this unit.
    Value { at_most: f64, unit: &'static str },
}

const PAIR: &[&str] = &["envoy"];
const GATEWAYS: &[&str] = &["haproxy", "haproxy (splice)", "nginx", "envoy"];
const FLOOR: &[&str] = &["floor"];

const fn budget(
    what: &'static str,
    (scenario, metric, load): (&'static str, &'static str, &'static [&'static str]),
    bound: Bound,
) -> Budget {
    Budget { what, scenario, metric, load, bound }
}

const fn ratio_to(peers: &'static [&'static str], at_most: f64) -> Bound {
    Bound::Ratio { peers, at_most }
}

const fn value(at_most: f64, unit: &'static str) -> Bound {
    Bound::Value { at_most, unit }
}

/// All of them.
pub const BUDGETS: &[Budget] = &[
    budget(
        "CPU per request of two sidecars with mutual TLS, authorization and metrics: HTTP/1.1 keep-alive, 32 connections",
        ("sidecar", "CPU per request", &["HTTP/1.1 keep-alive", "32 connections"]),
        ratio_to(PAIR, 0.36),
    ),
    budget(
        "the same at one connection, 1 KiB",
        ("sidecar", "CPU per request", &["HTTP/1.1 keep-alive", "1 KiB", "1 connection"]),
        ratio_to(PAIR, 0.30),
    ),
    budget(
        "the same at one connection, any body up to 1 MiB",
        ("sidecar", "CPU per request", &["HTTP/1.1 keep-alive", "1 connection"]),
        ratio_to(PAIR, 0.30),
    ),
    budget(
        "the same, 32 connections, beside the floor: the price of features",
        ("sidecar", "CPU per request", &["HTTP/1.1 keep-alive", "32 connections"]),
        ratio_to(FLOOR, 1.15),
    ),
    budget(
        "latency that two sidecars add at a fixed rate, p50",
        ("sidecar", "latency p50", &["HTTP/1.1 keep-alive"]),
        Bound::Added { peer: "envoy", at_most: 0.33 },
    ),
    budget(
        "the same, p99",
        ("sidecar", "latency p99", &["HTTP/1.1 keep-alive"]),
        Bound::Added { peer: "envoy", at_most: 0.5 },
    ),
    budget(
        "context switches per request in one sidecar",
        ("sidecar", "context switches per request", &["HTTP/1.1 keep-alive", "32 connections"]),
        value(0.2, ""),
    ),
    budget(
        "system calls per request in one sidecar",
        ("sidecar", "system calls per request", &["HTTP/1.1 keep-alive", "32 connections"]),
        value(6.0, ""),
    ),
    budget("east-west gateway: CPU per GiB", ("gateway", "CPU per GiB", &[]), ratio_to(GATEWAYS, 0.7)),
    budget(
        "east-west gateway: CPU per new connection",
        ("gateway", "CPU per connection", &[]),
        ratio_to(GATEWAYS, 1.0),
    ),
    budget(
        "east-west gateway: memory per idle connection, of 10,000 or as many as a process may open files for",
        ("gateway", "resident memory per connection", &[]),
        value(16.0, "KiB"),
    ),
    budget(
        "sidecar memory with 10 services used of 10,000 in the mesh",
        ("memory", "resident memory of the sidecar", &["10 services used of 10000"]),
        value(12.0, "MiB"),
    ),
    budget(
        "an endpoint's change in one cluster until a sidecar of another has it, p99: 1,000 services, 10,000 endpoints, 200 proxies",
        ("control-plane", "change to arrival, p99", &["10000 endpoints in 2 clusters"]),
        value(250.0, "ms"),
    ),
    budget(
        "controller memory per endpoint, beyond the idle process",
        ("control-plane", "resident memory per endpoint", &["10000 endpoints in 2 clusters"]),
        value(400.0, "bytes"),
    ),
    budget(
        "cluster lost until the first success elsewhere",
        ("failover", "cluster lost to first success elsewhere", &[]),
        value(1000.0, "ms"),
    ),
    budget("requests that fail meanwhile, with retries on", ("failover", "failed requests", &[]), value(0.0, "")),
    budget(
        "gRPC streams of small messages at full speed that are reset",
        ("stream", "streams reset", &[]),
        value(0.0, ""),
    ),
    budget("requests of mixed load that fail over time", ("soak", "failed requests", &[]), value(0.0, "")),
];

/// What became of a budget.
#[derive(Clone, Debug, PartialEq)]
pub struct Assessment {
    /// [`Budget::what`].
    pub what: &'static str,
    /// The bound, for people.
    pub bound: String,
    /// What was measured under the worst load; nothing where this run did not measure it.
    pub measured: Option<String>,
    /// The same of the floor, where it was measured beside.
    pub floor: Option<String>,
    /// The worst load, and how many of them keep to the bound.
    pub load: Option<String>,
    /// Whether it was kept.
    pub met: Option<bool>,
}

/// What became of each budget.
pub fn assess(findings: &[Finding]) -> Vec<Assessment> {
    BUDGETS.iter().map(|budget| budget.assess(findings)).collect()
}

/// What a ratio of ours to another system's may be, by a budget; the least where there are several.
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
        let ours = findings.iter().filter(|finding| finding.system == OURS && self.is_about(finding));
        let all: Vec<(&Finding, f64)> = ours.filter_map(|ours| Some((ours, self.measure(ours, findings)?))).collect();
        let worst = all.iter().copied().max_by(|(_, one), (_, other)| one.total_cmp(other));
        let (what, bound) = (self.what, self.bound.show());
        let Some((ours, measured)) = worst else {
            return Assessment { what, bound, measured: None, floor: None, load: None, met: None };
        };
        let keeps = |measured: f64| measured <= self.bound.at_most();
        let keeping = all.iter().filter(|(_, measured)| keeps(*measured)).count();
        let load = match all.len() {
            1 => ours.load.clone(),
            many => format!("{}; {keeping} of {many} keep to it", ours.load),
        };
        let compared_with_floor = matches!(self.bound, Bound::Ratio { peers, .. } if peers.contains(&FLOOR[0]));
        let floor = beside(ours, FLOOR[0], findings).filter(|_| !compared_with_floor);
        let floor = floor.and_then(|floor| Some(self.bound.show_measured(self.measure(floor, findings)?)));
        Assessment {
            what,
            bound,
            measured: Some(self.bound.show_measured(measured)),
            floor,
            load: Some(load),
            met: Some(keeps(measured)),
        }
    }

    /// What the bound is about, of this finding.
    fn measure(&self, of: &Finding, findings: &[Finding]) -> Option<f64> {
        let median = |system: &str| beside(of, system, findings).map(Finding::median);
        let value = match self.bound {
            Bound::Ratio { peers, .. } => {
                let best = peers.iter().filter_map(|peer| median(peer)).reduce(f64::min)?;
                of.median() / best
            }
            Bound::Added { peer, .. } => {
                let none = median(NONE)?;
                (of.median() - none) / (median(peer)? - none)
            }
            Bound::Value { unit, .. } => convert(of.median(), &of.metric.unit, unit)?,
        };
        value.is_finite().then_some(value)
    }
}

impl Bound {
    fn at_most(self) -> f64 {
        match self {
            Self::Ratio { at_most, .. } | Self::Added { at_most, .. } | Self::Value { at_most, .. } => at_most,
        }
    }

    fn show(self) -> String {
        match self {
            Self::Ratio { peers: [peer], at_most } => format!("≤ {} {peer}", ratio(at_most)),
            Self::Ratio { peers, at_most } => format!("≤ {} the best of {}", ratio(at_most), peers.join(", ")),
            Self::Added { peer, at_most } => format!("≤ {} what {peer} adds", ratio(at_most)),
            Self::Value { at_most, .. } => format!("≤ {}", self.show_measured(at_most)),
        }
    }

    fn show_measured(self, measured: f64) -> String {
        match self {
            Self::Ratio { .. } | Self::Added { .. } => ratio(measured),
            Self::Value { unit, .. } => Scale::plain(unit).with_unit(measured),
        }
    }
}

/// The same quantity of another system under the same load.
fn beside<'a>(of: &Finding, system: &str, findings: &'a [Finding]) -> Option<&'a Finding> {
    let same = |finding: &&Finding| {
        let Metric { name, unit, .. } = &finding.metric;
        finding.scenario == of.scenario && finding.load == of.load && (name, unit) == (&of.metric.name, &of.metric.unit)
    };
    findings.iter().filter(same).find(|finding| finding.system == system && !finding.median().is_nan())
}

fn lines(rows: &[Assessment]) -> (Vec<String>, Vec<Vec<String>>) {
    let headings = ["budget", "bound", "measured", "floor", "worst load", "verdict"].map(ToOwned::to_owned).to_vec();
    let lines = rows.iter().map(|row| {
        let verdict = match row.met {
            Some(true) => "✓ met",
            Some(false) => "✗ missed",
            None => "not measured",
        };
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "–".into());
        let cells = [&row.measured, &row.floor, &row.load].map(or_dash);
        [row.what.into(), row.bound.clone()].into_iter().chain(cells).chain([verdict.into()]).collect()
    });
    (headings, lines.collect())
}

/// A table with columns under each other.
pub fn terminal(rows: &[Assessment]) -> String {
    let (headings, lines) = lines(rows);
    format!("budgets\n{}", table::aligned(&headings, &lines))
}

/// A table in Markdown.
pub fn markdown(rows: &[Assessment]) -> String {
    let (headings, lines) = lines(rows);
    table::piped(&headings, &lines)
}
