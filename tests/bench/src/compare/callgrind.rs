//! Instructions and allocations of a running process, counted by callgrind.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::Process;
use crate::rig::Rig;
use crate::setup;

/// The allocator's entry points: those of jemalloc, and those of the C library.
const ALLOCATING: [&str; 5] = ["malloc", "mallocx", "calloc", "realloc", "rallocx"];

/// What a process did since its counters were zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Instructions of all threads in user space.
    pub instructions: u64,
    /// Calls of the allocator that return memory; `None` if the program has no symbols.
    pub allocations: Option<u64>,
}

/// Writes a script that starts the rig's program under callgrind, and returns its path.
pub fn wrapper(rig: &Rig) -> Result<PathBuf> {
    let file = rig.directory().join("under-callgrind");
    let valgrind = setup::peer("valgrind")?;
    let (valgrind, output, program) = (valgrind.display(), rig.directory().display(), rig.isthmus.display());
    let script = format!(
        "#!/bin/sh\nexec '{valgrind}' --tool=callgrind --callgrind-out-file='{output}/callgrind.%p' \\\n  \
         --vgdb-prefix='{output}/vgdb' '{program}' \"$@\"\n"
    );
    fs::write(&file, script)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o700))?;
    Ok(file)
}

/// Sets a process's counters to zero.
pub fn zero(rig: &Rig, process: &Process) -> Result<()> {
    control(rig, process, "zero")
}

/// Reads a process's counters.
pub fn dump(rig: &Rig, process: &Process) -> Result<Counts> {
    control(rig, process, "dump")?;
    let prefix = format!("callgrind.{}.", process.pid());
    let numbered = fs::read_dir(rig.directory())?.filter_map(Result::ok).filter_map(|entry| {
        let number: u32 = entry.file_name().to_str()?.strip_prefix(&prefix)?.parse().ok()?;
        Some((number, entry.path()))
    });
    let (_, latest) = numbered.max().with_context(|| format!("callgrind wrote no counts of {}", process.name))?;
    let text = fs::read_to_string(&latest).with_context(|| format!("reading {}", latest.display()))?;
    parse(&text).with_context(|| format!("{} has no sum of instructions", latest.display()))
}

/// Sends a command to callgrind in a process.
fn control(rig: &Rig, process: &Process, command: &str) -> Result<()> {
    let mut vgdb = Command::new(setup::peer("vgdb")?);
    vgdb.arg(format!("--vgdb-prefix={}/vgdb", rig.directory().display())).arg(format!("--pid={}", process.pid()));
    let output = vgdb.arg(command).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "vgdb cannot {command} the counts of {}: {}", process.name, errors.trim());
    Ok(())
}

/// Reads a file in callgrind's format: `totals:` has the sum, and `calls=N` after `cfn=(id) name` how often a function is called. A
/// name is written once; later only its id is.
fn parse(text: &str) -> Option<Counts> {
    let sum = |line: &str| line.trim().parse().ok();
    let total = text.lines().find_map(|line| line.strip_prefix("totals:").and_then(sum));
    let summary = text.lines().find_map(|line| line.strip_prefix("summary:").and_then(sum));
    let mut names: HashMap<&str, bool> = HashMap::new();
    let (mut allocations, mut called, mut any) = (0, false, false);
    for line in text.lines() {
        if let Some(function) = line.strip_prefix("cfn=").or_else(|| line.strip_prefix("fn=")) {
            let (id, name) = function.split_once(' ').unwrap_or((function, ""));
            if !name.is_empty() {
                names.insert(id, allocates(name));
            }
            called = line.starts_with("cfn=") && names.get(id).copied().unwrap_or(false);
            any |= called;
        } else if let Some(calls) = line.strip_prefix("calls=")
            && called
        {
            allocations += calls.split(' ').next().and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Some(Counts { instructions: total.or(summary)?, allocations: any.then_some(allocations) })
}

fn allocates(name: &str) -> bool {
    // A recursive call has a number behind an apostrophe.
    let name = name.split('\'').next().unwrap_or(name);
    ALLOCATING.contains(&name.strip_prefix("_rjem_").unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_the_allocator_are_counted() {
        let file = "\
fn=(1) isthmus::serve
cfn=(2) _rjem_malloc
calls=3 0
0 300
cfn=(3) free
calls=9 0
0 90
fn=(4) isthmus::relay
cfn=(2)
calls=4 0
0 400
cfn=(5) _rjem_rallocx'2
calls=1 0
0 10

totals: 12345
";
        assert_eq!(parse(file), Some(Counts { instructions: 12345, allocations: Some(8) }));
        let without_symbols = "fn=(1) 0x1234\ncfn=(2) 0x5678\ncalls=3 0\n0 5\ntotals: 5\n";
        assert_eq!(parse(without_symbols), Some(Counts { instructions: 5, allocations: None }));
        assert_eq!(parse("fn=(1) f\n"), None);
    }
}
