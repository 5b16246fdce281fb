//! Instructions per operation, counted by callgrind: the same on a busy machine as on an idle one, so that growth of a few
//! percent shows. Time is measured elsewhere (`tests/bench`).
//!
//! ```sh
//! cargo bench -p isthmus-sidecar --bench instructions -- check    # compares with baseline.txt; growth is an error
//! cargo bench -p isthmus-sidecar --bench instructions -- update   # writes baseline.txt
//! ```
//!
//! Each operation runs in a process of its own under valgrind, twice: a few times and many times. What the second took
//! more is divided by how often it did more, so that starting up does not count. Cryptography is left out: it is
//! chosen by what the processor can do.

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
/// How far a count may be from the baseline, in percent. The same program differs by less than 0.1 % from run to run, and
/// with threads by 0.5 % (November 2026); this leaves room for another build of the same code.
const TOLERANCE: f64 = 3.0;
/// What small operations may differ by, in instructions: one inlined function more or less.
const LEAST: u64 = 25;

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["run", name, times] => run(name, times),
        ["show"] | [] => count_all().map(|counts| counts.iter().for_each(|(name, count)| println!("{name}: {count}"))),
        ["check"] => check(),
        ["update"] => update(),
        _ => Err("say: show, check or update".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// In the process that is counted.
fn run(name: &str, times: &str) -> Result<(), String> {
    let times = times.parse().map_err(|error| format!("{times}: {error}"))?;
    let operation = OPERATIONS.iter().find(|operation| operation.name == name);
    (operation.ok_or_else(|| format!("there is no {name}"))?.run)(times);
    Ok(())
}

type Counts = Vec<(&'static str, u64)>;

fn count_all() -> Result<Counts, String> {
    OPERATIONS.iter().map(|operation| Ok((operation.name, count(operation)?))).collect()
}

/// Instructions of one time.
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
            .map_err(|error| format!("valgrind does not start ({error}); it is a package of that name"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        let collected = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse::<u64>().ok());
        collected.filter(|_| output.status.success()).ok_or_else(|| format!("{}: {said}", operation.name))
    };
    Ok(of(many)?.saturating_sub(of(few)?) / u64::from(many - few))
}

fn update() -> Result<(), String> {
    let lines: Vec<String> = count_all()?.iter().map(|(name, count)| format!("{name}: {count}\n")).collect();
    print!("{}", lines.concat());
    std::fs::write(baseline(), lines.concat()).map_err(|error| error.to_string())
}

/// Compares with the baseline. Growth beyond the tolerance is an error. A gain should be written down: what eats it up later
/// would not be noticed.
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
        if count.abs_diff(before) <= LEAST {
            continue;
        }
        if change > TOLERANCE {
            grown.push(name);
        } else if change < -TOLERANCE {
            shrunk.push(name);
        }
    }
    let renew = "cargo bench -p isthmus-sidecar --bench instructions -- update";
    if !grown.is_empty() {
        let grown = grown.join(", ");
        return Err(format!("more than {TOLERANCE} % above the baseline: {grown}. Where that is worth it: {renew}"));
    }
    if !shrunk.is_empty() {
        println!("better than the baseline, or not in it: {}. Write it down: {renew}", shrunk.join(", "));
    }
    Ok(())
}

fn baseline() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(BASELINE)
}
