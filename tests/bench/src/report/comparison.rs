//! Findings of two builds as a table: before, after, change.

use super::number::Scale;
use super::table::{aligned, piped};
use crate::finding::{Finding, Spread};

/// The names of the two builds: the columns of the table.
pub const BUILDS: [&str; 2] = ["before", "after"];

/// Findings of two builds.
#[derive(Clone, Debug)]
pub struct Comparison {
    rows: Vec<[String; 4]>,
}

impl Comparison {
    /// Compares findings of the systems `before` and `after`. A metric of one of them alone has a dash for the other.
    pub fn new(findings: Vec<Finding>) -> Self {
        let mut metrics = Vec::new();
        for finding in &findings {
            if !metrics.contains(&&finding.metric) {
                metrics.push(&finding.metric);
            }
        }
        let rows = metrics.into_iter().map(|metric| {
            let spreads = BUILDS.map(|build| {
                let same = |finding: &&Finding| finding.metric == *metric && finding.system == build;
                findings.iter().find(same).map(|finding| finding.spread)
            });
            let scale = Scale::of(&metric.unit, spreads.iter().flatten().map(|spread| spread.median));
            let [before, after] =
                spreads.map(|spread| spread.map_or_else(|| "–".into(), |spread| show(&scale, spread)));
            [metric.name.clone(), before, after, change(spreads)]
        });
        Self { rows: rows.collect() }
    }

    fn parts(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let headings = ["", BUILDS[0], BUILDS[1], "change"].map(ToOwned::to_owned).to_vec();
        (headings, self.rows.iter().map(|row| row.to_vec()).collect())
    }

    /// The table with aligned columns.
    pub fn terminal(&self) -> String {
        let (headings, lines) = self.parts();
        aligned(&headings, &lines)
    }

    /// The table in Markdown.
    pub fn markdown(&self) -> String {
        let (headings, lines) = self.parts();
        piped(&headings, &lines)
    }
}

fn show(scale: &Scale, spread: Spread) -> String {
    let (min, max) = (scale.show(spread.min), scale.show(spread.max));
    let range = if min == max { String::new() } else { format!(" ({min}–{max})") };
    format!("{}{range}", scale.with_unit(spread.median))
}

/// The change of the median in percent.
fn change(spreads: [Option<Spread>; 2]) -> String {
    match spreads {
        [Some(before), Some(after)] if before.median == after.median => "0 %".into(),
        [Some(before), Some(after)] if before.median != 0.0 => {
            format!("{:+.1} %", (after.median / before.median - 1.0) * 100.0)
        }
        _ => "–".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{Metric, Recorder};

    #[test]
    fn each_metric_is_a_row() {
        let mut recorder = Recorder::new("compare");
        for (build, name, unit, value) in [
            ("before", "instructions", "", 85_000.0),
            ("before", "memory", "MiB", 8.0),
            ("after", "instructions", "", 84_000.0),
            ("after", "memory", "MiB", 8.0),
            ("after", "memory", "MiB", 9.0),
            ("after", "allocations", "", 35.0),
        ] {
            recorder.add("", build, Metric::cost(name, unit), value);
        }
        let expected = "\
|  | before | after | change |
| --- | ---: | ---: | ---: |
| instructions | 85\u{202f}000 | 84\u{202f}000 | -1.2 % |
| memory | 8 MiB | 8.5 MiB (8–9) | +6.2 % |
| allocations | – | 35 | – |
";
        assert_eq!(Comparison::new(recorder.findings()).markdown(), expected);
    }
}
