//! The Prometheus text format: families sorted by name, each with help and type, label sets sorted.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::ops::Bound;
use std::sync::atomic::Ordering::Relaxed;

use super::{FamilyEntry, LabelValues, MetricKind, OVERFLOW, Registry, Series, lock};

/// The size from which a piece of a scrape is complete.
const PIECE: usize = 64 * 1024;

/// A scrape in progress: an iterator over the pieces of the text. Series that are created meanwhile may be missing.
#[derive(Debug)]
pub struct Scrape {
    registry: Registry,
    /// The families that are left, in reverse order.
    families: Vec<&'static str>,
    /// The last label set that was rendered of the current family.
    last: Option<LabelValues>,
}

impl Scrape {
    pub(super) fn new(registry: &Registry) -> Self {
        let mut names: BTreeSet<&'static str> = lock(&registry.inner.families).keys().copied().collect();
        names.extend(lock(&registry.inner.observed).iter().map(|observed| observed.family.name));
        names.insert(OVERFLOW.name);
        Self { registry: registry.clone(), families: names.into_iter().rev().collect(), last: None }
    }

    /// Renders the next series of a family. Returns whether all are rendered.
    fn series(&mut self, name: &str, out: &mut String) -> bool {
        let families = lock(&self.registry.inner.families);
        let Some(entry) = families.get(name) else { return true };
        if self.last.is_none() {
            let kind = match entry.kind {
                MetricKind::Counter => "counter",
                MetricKind::Gauge => "gauge",
                MetricKind::Histogram(_) => "histogram",
            };
            header(out, entry.family.name, entry.family.help, kind);
        }
        let from = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        for (values, series) in entry.series.range::<LabelValues, _>((from, Bound::Unbounded)) {
            lines(out, entry, values, series);
            if out.len() >= PIECE {
                self.last = Some(values.clone());
                return false;
            }
        }
        true
    }

    /// Renders what is computed at each scrape.
    fn observed(&self, name: &str, out: &mut String) {
        let mut has_header = lock(&self.registry.inner.families).contains_key(name);
        for observed in lock(&self.registry.inner.observed).iter().filter(|observed| observed.family.name == name) {
            if !std::mem::replace(&mut has_header, true) {
                header(out, name, observed.family.help, observed.kind);
            }
            (observed.observe)(&mut |values, value| {
                sample(out, name, "", observed.family.labels, values, None);
                number(out, value);
            });
        }
    }

    fn overflows(&self, out: &mut String) {
        let families = lock(&self.registry.inner.families);
        let overflows = families.iter().filter(|(_, entry)| entry.overflowed > 0);
        for (number_of, (family, entry)) in overflows.enumerate() {
            if number_of == 0 {
                header(out, OVERFLOW.name, OVERFLOW.help, "counter");
            }
            sample(out, OVERFLOW.name, "", OVERFLOW.labels, &[*family], None);
            number(out, entry.overflowed as f64);
        }
    }
}

impl Iterator for Scrape {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut out = String::new();
        while let Some(name) = self.families.last().copied() {
            if !self.series(name, &mut out) {
                break;
            }
            self.observed(name, &mut out);
            if name == OVERFLOW.name {
                self.overflows(&mut out);
            }
            self.last = None;
            self.families.pop();
            if out.len() >= PIECE {
                break;
            }
        }
        (!out.is_empty()).then_some(out)
    }
}

/// Renders the lines of one label set.
fn lines(out: &mut String, entry: &FamilyEntry, values: &LabelValues, series: &Series) {
    let values: Vec<&str> = values.iter().map(|value| &**value).collect();
    let mut line = |suffix, bound, value| {
        sample(out, entry.family.name, suffix, entry.family.labels, &values, bound);
        number(out, value);
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
