//! Instructions per operation, counted by callgrind. The counts do not depend on the load of the machine, so growth of
//! a few percent shows. `tests/bench` measures times.
//!
//! ```sh
//! cargo bench -p isthmus-sidecar --bench instructions -- check    # compares with baseline.txt; growth is an error
//! cargo bench -p isthmus-sidecar --bench instructions -- update   # writes baseline.txt
//! ```
//!
//! Each operation runs in two processes under valgrind, with few repetitions and with many. The difference of the
//! counts is divided by the difference of the repetitions, so that the start does not count. Cryptography is left out:
//! its implementation depends on the processor.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

#[path = "../../tests/mesh/app.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod app;
#[path = "../../tests/mesh/fixture/mod.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod fixture;
#[path = "../../tests/mesh/gate.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod gate;
mod operations;
#[path = "../../tests/requests/pair.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod pair;

use operations::{OPERATIONS, Operation};

const BASELINE: &str = "benches/instructions/baseline.txt";
/// The tolerated difference from the baseline, in percent. Runs of one build differ by less than 0.1 %, and with
/// threads by 0.5 % (November 2026); the rest is for differences between builds of the same code.
const TOLERANCE_PERCENT: f64 = 3.0;
/// The tolerated difference of small operations, in instructions: one function inlined more or less.
const TOLERANCE_INSTRUCTIONS: u64 = 25;

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["run", name, times] => run(name, times),
        ["show"] | [] => count_all().map(|counts| counts.iter().for_each(|(name, count)| println!("{name}: {count}"))),
        ["check"] => check(),
        ["update"] => update(),
        _ => Err("unknown arguments; expected one of: show, check, update".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs an operation. This is the process whose instructions are counted.
fn run(name: &str, times: &str) -> Result<(), String> {
    let times = times.parse().map_err(|_| format!("{times:?} is not a number of repetitions"))?;
    let operation = OPERATIONS.iter().find(|operation| operation.name == name);
    (operation.ok_or_else(|| format!("there is no operation {name:?}"))?.run)(times);
    Ok(())
}

type Counts = Vec<(&'static str, u64)>;

fn count_all() -> Result<Counts, String> {
    OPERATIONS.iter().map(|operation| Ok((operation.name, count(operation)?))).collect()
}

/// Counts the instructions of one repetition.
fn count(operation: &Operation) -> Result<u64, String> {
    let (few, many) = (operation.times / 5, operation.times);
    let of = |times: u32| -> Result<u64, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(program)
            .args(["run", operation.name, &times.to_string()])
            .stdout(Stdio::null())
            .output()
            .map_err(|error| format!("cannot start valgrind ({error}); install the package valgrind"))?;
        let log = String::from_utf8_lossy(&output.stderr);
        let collected = log.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse::<u64>().ok());
        collected.filter(|_| output.status.success()).ok_or_else(|| format!("{}: {log}", operation.name))
    };
    Ok(of(many)?.saturating_sub(of(few)?) / u64::from(many - few))
}

fn update() -> Result<(), String> {
    let lines: Vec<String> = count_all()?.iter().map(|(name, count)| format!("{name}: {count}\n")).collect();
    print!("{}", lines.concat());
    std::fs::write(baseline(), lines.concat()).map_err(|error| error.to_string())
}

/// Compares the counts with the baseline. Growth beyond the tolerance is an error. After an improvement the baseline
/// should be updated, or later growth up to the old count would go unnoticed.
fn check() -> Result<(), String> {
    let text = std::fs::read_to_string(baseline()).map_err(|error| format!("{BASELINE}: {error}"))?;
    let before = |name: &str| {
        let line = text.lines().find_map(|line| line.rsplit_once(": ").filter(|(known, _)| *known == name));
        line.and_then(|(_, count)| count.parse::<u64>().ok())
    };
    let (mut grown, mut shrunk) = (Vec::new(), Vec::new());
    for (name, count) in count_all()? {
        let Some(before) = before(name) else {
            shrunk.push(name);
            println!("{name}: {count}, new");
            continue;
        };
        let change = (count as f64 / before as f64 - 1.0) * 100.0;
        println!("{name}: {before} → {count} ({change:+.1} %)");
        if count.abs_diff(before) <= TOLERANCE_INSTRUCTIONS {
            continue;
        }
        if change > TOLERANCE_PERCENT {
            grown.push(name);
        } else if change < -TOLERANCE_PERCENT {
            shrunk.push(name);
        }
    }
    let update = "cargo bench -p isthmus-sidecar --bench instructions -- update";
    if !grown.is_empty() {
        let grown = grown.join(", ");
        return Err(format!(
            "more than {TOLERANCE_PERCENT} % above the baseline: {grown}. To accept the growth, run `{update}`"
        ));
    }
    if !shrunk.is_empty() {
        println!(
            "better than the baseline, or not in it: {}. To update the baseline, run `{update}`",
            shrunk.join(", ")
        );
    }
    Ok(())
}

fn baseline() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(BASELINE)
}
