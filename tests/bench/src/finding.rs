//! What was measured, in one form for every scenario.

use serde::{Deserialize, Serialize};

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Costs.
    Lower,
    /// Throughput.
    Higher,
}

/// A quantity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metric {
    /// What, as a table's heading has it: `CPU per request`.
    pub name: String,
    /// In what: `µs`.
    pub unit: String,
    /// Which way is better.
    pub better: Better,
}

impl Metric {
    /// A cost.
    pub fn cost(name: &str, unit: &str) -> Self {
        Self { name: name.into(), unit: unit.into(), better: Better::Lower }
    }

    /// A gain.
    pub fn gain(name: &str, unit: &str) -> Self {
        Self { name: name.into(), unit: unit.into(), better: Better::Higher }
    }
}

/// One quantity of one system under one kind of load, measured as many times as the systems took turns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// `sidecar`, `gateway`, `control-plane`, `memory`, `soak`.
    pub scenario: String,
    /// The load: `HTTP/1.1 keep-alive, 1 KiB, 16 connections`.
    pub load: String,
    /// What carried it: `isthmus`, `floor`, `envoy`, `haproxy`, `nginx`, `none`.
    pub system: String,
    /// What was measured.
    pub metric: Metric,
    /// A value for each turn, in order.
    pub values: Vec<f64>,
}

impl Finding {
    /// The median of all turns; of an even number, the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        median(&self.values)
    }
}

/// The median; NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians() {
        assert!(median(&[]).is_nan());
        assert_eq!(median(&[3.0, f64::NAN, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
