//! The table of attacks, for terminals and for docs/security/attacks.md.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::drive::Outcome;

const BEGIN: &str = "<!-- generated: attacks -->";
const END: &str = "<!-- end -->";

/// Prints what happened during an attack.
pub fn print(outcome: &Outcome) {
    for (kind, calls) in &outcome.traffic {
        let [before, during] = [calls.before, calls.during].map(percentiles);
        println!("  {kind}: {} requests, {} failed; before {before}, during {during}", calls.requests, calls.failed);
    }
    let readings = &outcome.readings;
    println!(
        "  {}: {} MiB and {} descriptors, at most {} and {}, then {} and {}",
        outcome.attack.victim,
        mebibytes(readings.before.memory),
        readings.before.files,
        mebibytes(readings.peak.memory),
        readings.peak.files,
        mebibytes(readings.rest.memory),
        readings.rest.files
    );
    outcome.attackers.iter().for_each(|report| println!("  attacker: {report}"));
    outcome.faults.iter().for_each(|fault| println!("  FAULT: {fault}"));
    if outcome.faults.is_empty() {
        println!("  within its bounds");
    }
}

/// Writes the table to a page, between its markers.
pub fn write(page: &Path, outcomes: &[Outcome], seconds: u64) -> Result<()> {
    let text = std::fs::read_to_string(page).with_context(|| page.display().to_string())?;
    std::fs::write(page, replaced(&text, &table(outcomes, seconds))?)?;
    Ok(())
}

fn replaced(page: &str, table: &str) -> Result<String> {
    let missing = || format!("the page has no `{BEGIN}` with `{END}` after it");
    let (before, rest) = page.split_once(BEGIN).with_context(missing)?;
    let (_, after) = rest.split_once(END).with_context(missing)?;
    Ok(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", table.trim()))
}

fn table(outcomes: &[Outcome], seconds: u64) -> String {
    let mut table = format!("Each attack lasted {seconds} s.\n\n");
    table.push_str("| attack | traffic beside it | requests | failed | p50 / p99 before | during | attacked process | memory before, peak, at rest | descriptors before, peak, at rest | within bounds |\n");
    table.push_str("| --- | --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | --- |\n");
    for outcome in outcomes {
        let readings = &outcome.readings;
        let all = [readings.before, readings.peak, readings.rest];
        let memory = all.map(|reading| mebibytes(reading.memory)).join(", ");
        let files = all.map(|reading| reading.files.to_string()).join(", ");
        for (index, (kind, calls)) in outcome.traffic.iter().enumerate() {
            let first = index == 0;
            let once = |text: &str| if first { text.to_owned() } else { String::new() };
            let within = if outcome.faults.is_empty() { "yes" } else { "**no**" };
            let what = format!("`{}`: {}", outcome.attack.name, outcome.attack.what);
            let _ = writeln!(
                table,
                "| {} | {kind} | {} | {} | {} | {} | {} | {} | {} | {} |",
                once(&what),
                calls.requests,
                calls.failed,
                percentiles(calls.before),
                percentiles(calls.during),
                once(&outcome.attack.victim.to_string()),
                once(&format!("{memory} MiB")),
                once(&files),
                once(within),
            );
        }
    }
    table
}

fn percentiles([median, high]: [Duration; 2]) -> String {
    let text = |duration: Duration| match duration.as_secs_f64() {
        seconds if seconds >= 1.0 => format!("{seconds:.1} s"),
        seconds => format!("{:.1} ms", seconds * 1e3),
    };
    format!("{} / {}", text(median), text(high))
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::ALL;
    use crate::process::Reading;
    use crate::traffic::Traffic;
    use crate::verdict::{Calls, Readings};

    #[test]
    fn the_table_replaces_the_one_before() {
        let calls =
            Calls { requests: 9, before: [Duration::from_millis(2), Duration::from_secs(3)], ..Calls::default() };
        let outcome = Outcome {
            attack: &ALL[0],
            traffic: vec![(Traffic::Local, calls.clone()), (Traffic::Across, calls)],
            readings: Readings { peak: Reading { memory: 3 << 20, files: 7 }, ..Readings::default() },
            attackers: Vec::new(),
            faults: Vec::new(),
        };
        let table = table(&[outcome], 60);
        let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).collect();
        assert_eq!(rows.len(), 4);
        assert!(
            rows[2].contains("| 9 | 0 | 2.0 ms / 3.0 s |") && rows[2].contains("| 0.0, 3.0, 0.0 MiB | 0, 7, 0 | yes |"),
            "{table}"
        );
        let columns = |row: &str| row.matches('|').count();
        assert!(rows.iter().all(|row| columns(row) == columns(rows[0])), "{table}");
        let page = format!("head\n{BEGIN}\nold\n{END}\ntail\n");
        let once = replaced(&page, &table).unwrap();
        assert!(once.starts_with("head\n") && once.ends_with(&format!("{END}\ntail\n")) && !once.contains("old"));
        assert_eq!(replaced(&once, &table).unwrap(), once);
        assert!(replaced("head", &table).is_err());
    }
}
