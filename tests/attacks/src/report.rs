//! The table of attacks, for terminals and for docs/security/attacks.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::attack::ALL;
use crate::drive::Outcome;

const BEGIN: &str = "<!-- generated: attacks -->";
const END: &str = "<!-- end -->";
const HEAD: &str = "\
| attack | traffic beside it | requests | failed | p50 / p99 before | during | attacked process | memory before, peak, at rest | descriptors before, peak, at rest | within bounds |
| --- | --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | --- |
";

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

/// Writes the table to a page, between its markers. Rows of attacks that did not run now stay, if they lasted as long.
pub fn write(page: &Path, outcomes: &[Outcome], seconds: u64) -> Result<()> {
    let text = std::fs::read_to_string(page).with_context(|| page.display().to_string())?;
    std::fs::write(page, updated(&text, outcomes, seconds)?)?;
    Ok(())
}

fn updated(page: &str, outcomes: &[Outcome], seconds: u64) -> Result<String> {
    let missing = || format!("the page has no `{BEGIN}` with `{END}` after it");
    let (before, rest) = page.split_once(BEGIN).with_context(missing)?;
    let (old, after) = rest.split_once(END).with_context(missing)?;
    let duration = format!("Each attack lasted {seconds} s.");
    let mut rows = if old.contains(&duration) { rows_by_attack(old) } else { BTreeMap::new() };
    rows.extend(outcomes.iter().map(|outcome| (outcome.attack.name.to_owned(), self::rows(outcome))));
    let table: String = ALL.iter().filter_map(|attack| rows.get(attack.name)).map(String::as_str).collect();
    Ok(format!("{before}{BEGIN}\n\n{duration}\n\n{HEAD}{table}\n{END}{after}"))
}

/// Returns the rows of each attack in a table: the first names it, and the others have an empty first cell.
fn rows_by_attack(table: &str) -> BTreeMap<String, String> {
    let mut rows: BTreeMap<String, String> = BTreeMap::new();
    let mut current = None;
    for row in table.lines().filter(|line| line.starts_with('|')) {
        if let Some((name, _)) = row.strip_prefix("| `").and_then(|rest| rest.split_once('`')) {
            current = Some(name.to_owned());
        }
        if let Some(name) = &current {
            let of_attack = rows.entry(name.clone()).or_default();
            of_attack.push_str(row);
            of_attack.push('\n');
        }
    }
    rows
}

fn rows(outcome: &Outcome) -> String {
    let readings = &outcome.readings;
    let all = [readings.before, readings.peak, readings.rest];
    let memory = all.map(|reading| mebibytes(reading.memory)).join(", ");
    let files = all.map(|reading| reading.files.to_string()).join(", ");
    let mut rows = String::new();
    for (index, (kind, calls)) in outcome.traffic.iter().enumerate() {
        let first = index == 0;
        let once = |text: &str| if first { text.to_owned() } else { String::new() };
        let within = if outcome.faults.is_empty() { "yes" } else { "**no**" };
        let what = format!("`{}`: {}", outcome.attack.name, outcome.attack.what);
        let _ = writeln!(
            rows,
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
    rows
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
    use crate::process::Reading;
    use crate::traffic::Traffic;
    use crate::verdict::{Calls, Readings};

    fn outcome(index: usize, requests: usize) -> Outcome {
        let calls = Calls { requests, before: [Duration::from_millis(2), Duration::from_secs(3)], ..Calls::default() };
        Outcome {
            attack: &ALL[index],
            traffic: vec![(Traffic::Local, calls.clone()), (Traffic::Across, calls)],
            readings: Readings { peak: Reading { memory: 3 << 20, files: 7 }, ..Readings::default() },
            attackers: Vec::new(),
            faults: Vec::new(),
        }
    }

    #[test]
    fn the_rows_of_an_attack_replace_those_before() {
        let page = format!("head\n{BEGIN}\nold\n{END}\ntail\n");
        let both = updated(&page, &[outcome(1, 8), outcome(0, 9)], 60).unwrap();
        assert!(both.starts_with("head\n") && both.ends_with(&format!("{END}\ntail\n")) && !both.contains("old"));
        let rows: Vec<&str> = both.lines().filter(|line| line.starts_with("| ")).collect();
        assert_eq!(rows.len(), 6);
        assert!(
            rows[2].contains("| 9 | 0 | 2.0 ms / 3.0 s |") && rows[2].contains("| 0.0, 3.0, 0.0 MiB | 0, 7, 0 | yes |"),
            "{both}"
        );
        let columns = |row: &str| row.matches('|').count();
        assert!(rows.iter().all(|row| columns(row) == columns(rows[0])), "{both}");

        let again = updated(&both, &[outcome(0, 7)], 60).unwrap();
        assert_eq!(again, both.replace("| 9 | 0 |", "| 7 | 0 |"), "the other attack's rows stay");
        let shorter = updated(&both, &[outcome(0, 7)], 10).unwrap();
        assert!(shorter.contains("lasted 10 s") && !shorter.contains("| 8 | 0 |"), "{shorter}");
        assert!(updated("head", &[], 60).is_err());
    }
}
