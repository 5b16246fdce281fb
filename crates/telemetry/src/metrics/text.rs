//! The Prometheus text format: families sorted by name, each with help and type, label sets sorted.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

use super::{FamilyEntry, MetricKind, Registry, Series, lock};

/// Renders a registry.
pub(super) fn render(registry: &Registry) -> String {
    let mut blocks: BTreeMap<&'static str, String> = BTreeMap::new();
    for (name, entry) in lock(&registry.inner.families).iter() {
        blocks.insert(name, family(entry));
    }
    for observed in lock(&registry.inner.observed).iter() {
        let block = blocks.entry(observed.family.name).or_insert_with(|| {
            let mut block = String::new();
            header(&mut block, observed.family.name, observed.family.help, observed.kind);
            block
        });
        (observed.observe)(&mut |values, value| {
            sample(block, observed.family.name, "", observed.family.labels, values, None);
            number(block, value);
        });
    }
    blocks.into_values().collect()
}

fn family(entry: &FamilyEntry) -> String {
    let mut out = String::new();
    let kind = match entry.kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram(_) => "histogram",
    };
    header(&mut out, entry.family.name, entry.family.help, kind);
    let mut series: Vec<_> = entry.series.iter().collect();
    series.sort_by_key(|(values, _)| *values);
    for (values, series) in series {
        let values: Vec<&str> = values.iter().map(|value| &**value).collect();
        let mut line = |suffix, bound, value| {
            sample(&mut out, entry.family.name, suffix, entry.family.labels, &values, bound);
            number(&mut out, value);
        };
        match entry.kind {
            MetricKind::Counter => line("", None, total(series, 0) as f64),
            MetricKind::Gauge => line("", None, total(series, 0).cast_signed() as f64),
            MetricKind::Histogram(bounds) => {
                let mut count = 0;
                for (bucket, bound) in bounds.iter().enumerate() {
                    count += total(series, bucket);
                    line("_bucket", Some(*bound), count as f64);
                }
                count += total(series, bounds.len());
                line("_bucket", Some(f64::INFINITY), count as f64);
                let sums = series.iter().map(|(_, cells)| f64::from_bits(cells[bounds.len() + 1].load(Relaxed)));
                line("_sum", None, sums.sum());
                line("_count", None, count as f64);
            }
        }
    }
    out
}

fn total(series: &Series, cell: usize) -> u64 {
    series.iter().fold(0, |sum: u64, (_, cells)| sum.wrapping_add(cells[cell].load(Relaxed)))
}

fn header(out: &mut String, name: &str, help: &str, kind: &str) {
    let help = help.replace('\\', "\\\\").replace('\n', "\\n");
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn sample(out: &mut String, name: &str, suffix: &str, labels: &[&str], values: &[&str], bound: Option<f64>) {
    out.push_str(name);
    out.push_str(suffix);
    if labels.is_empty() && bound.is_none() {
        return;
    }
    let mut separator = '{';
    for (label, value) in labels.iter().zip(values) {
        out.push(separator);
        separator = ',';
        out.push_str(label);
        out.push_str("=\"");
        for character in value.chars() {
            match character {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                other => out.push(other),
            }
        }
        out.push('"');
    }
    if let Some(bound) = bound {
        out.push(separator);
        if bound.is_infinite() {
            out.push_str("le=\"+Inf\"");
        } else {
            let _ = write!(out, "le=\"{bound}\"");
        }
    }
    out.push('}');
}

fn number(out: &mut String, value: f64) {
    let _ = if value.is_nan() { writeln!(out, " NaN") } else { writeln!(out, " {value}") };
}
