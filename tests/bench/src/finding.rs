//! Measurements in one form for every scenario.

use serde::{Deserialize, Serialize};

/// Which direction of a quantity is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// A cost.
    Lower,
    /// A gain.
    Higher,
}

/// A quantity that is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    /// The name, as a table's heading has it: `CPU per request`.
    pub name: String,
    /// The unit: `µs`.
    pub unit: String,
    /// Which direction is better.
    pub better: Better,
}

impl Metric {
    /// A metric of which less is better.
    pub fn cost(name: &str, unit: &str) -> Self {
        Self { name: name.into(), unit: unit.into(), better: Better::Lower }
    }

    /// A metric of which more is better.
    pub fn gain(name: &str, unit: &str) -> Self {
        Self { name: name.into(), unit: unit.into(), better: Better::Higher }
    }
}

/// The values of all turns, summarised. Values have five significant digits; whole numbers are exact.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The median; of an even number of values, the mean of the two in the middle.
    pub median: f64,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
    /// The number of values.
    pub count: usize,
}

impl Spread {
    /// Summarises the finite values. `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (median, min, max) = (rounded(median(&sorted)), rounded(min), rounded(max));
        Some(Self { median, min, max, count: sorted.len() })
    }
}

/// One metric of one system under one load, measured in as many turns as the systems took.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The scenario: `sidecar`, `routes`, `stream`, `gateway`, `control-plane`, `memory`, `failover` or `soak`.
    pub scenario: String,
    /// The load: `HTTP/1.1 keep-alive, 1 KiB, 16 connections`.
    pub load: String,
    /// The system that carried the load: `isthmus`, `floor`, `copy`, `envoy`, `istio`, `haproxy`, `nginx` or `none`.
    pub system: String,
    /// The metric.
    pub metric: Metric,
    /// The values of all turns.
    pub spread: Spread,
}

/// Collects the values of a scenario turn by turn.
#[derive(Debug)]
pub struct Recorder {
    scenario: &'static str,
    series: Vec<Series>,
}

#[derive(Debug)]
struct Series {
    load: String,
    system: String,
    metric: Metric,
    values: Vec<f64>,
}

impl Recorder {
    /// A recorder without values.
    pub fn new(scenario: &'static str) -> Self {
        Self { scenario, series: Vec::new() }
    }

    /// Adds the value of one turn.
    pub fn add(&mut self, load: &str, system: &str, metric: Metric, value: f64) {
        let same = |series: &&mut Series| series.load == load && series.system == system && series.metric == metric;
        match self.series.iter_mut().find(same) {
            Some(series) => series.values.push(value),
            None => {
                let (load, system) = (load.to_owned(), system.to_owned());
                self.series.push(Series { load, system, metric, values: vec![value] });
            }
        }
    }

    /// Drops the values of a system under a load.
    pub fn discard(&mut self, load: &str, system: &str) {
        self.series.retain(|series| series.load != load || series.system != system);
    }

    /// The medians so far of a system under a load, as text for progress output. `None` if there are none.
    pub fn progress(&self, load: &str, system: &str) -> Option<String> {
        let series = self.series.iter().filter(|series| series.load == load && series.system == system);
        let medians: Vec<String> = series
            .map(|Series { metric, values, .. }| format!("{} {:.3} {}", metric.name, median(values), metric.unit))
            .map(|text| text.trim_end().to_owned())
            .collect();
        (!medians.is_empty()).then(|| format!("{}: {load}, {system}: {}", self.scenario, medians.join(", ")))
    }

    /// One finding for each series that has a finite value, in the order of their first values.
    pub fn findings(self) -> Vec<Finding> {
        let scenario = self.scenario;
        let finding = |Series { load, system, metric, values }: Series| {
            Some(Finding { scenario: scenario.into(), load, system, metric, spread: Spread::of(&values)? })
        };
        self.series.into_iter().filter_map(finding).collect()
    }
}

/// The median of finite values; NaN if there are none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

/// A value with five significant digits; a whole number as it is.
fn rounded(value: f64) -> f64 {
    if value.fract() == 0.0 { value } else { format!("{value:.4e}").parse().unwrap_or(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert!(median(&[]).is_nan());
        assert_eq!(median(&[3.0, f64::NAN, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn a_spread_has_five_digits_and_exact_counts() {
        assert_eq!(Spread::of(&[f64::NAN, f64::INFINITY]), None);
        let spread = Spread::of(&[12.345_678, f64::NAN, 1_448_272.0, 0.000_123_456]);
        let expected = Spread { median: 12.346, min: 0.000_123_46, max: 1_448_272.0, count: 3 };
        assert_eq!(spread, Some(expected));
    }

    #[test]
    fn a_recorder_joins_the_turns_of_a_system() {
        let mut recorder = Recorder::new("sidecar");
        let cpu = || Metric::cost("CPU", "µs");
        for (system, value) in [("isthmus", 1.0), ("envoy", 4.0), ("envoy", f64::NAN), ("isthmus", 3.0)] {
            recorder.add("load", system, cpu(), value);
        }
        recorder.add("load", "floor", cpu(), f64::NAN);
        assert_eq!(recorder.progress("load", "isthmus").as_deref(), Some("sidecar: load, isthmus: CPU 2.000 µs"));
        assert_eq!(recorder.progress("load", "nginx"), None);
        recorder.discard("load", "envoy");
        let findings = recorder.findings();
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].spread, Spread { median: 2.0, min: 1.0, max: 3.0, count: 2 });
    }
}
