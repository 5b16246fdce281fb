//! The processes of containers, from `/proc` (`proc_pid_stat(5)`).

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use net::process::MountNamespace;

/// CPU time of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProcessTimes {
    pub(super) parent: u32,
    /// When the process started, in clock ticks since boot. Ids are used again, both together are not.
    pub(super) started: u64,
    /// CPU time of the process and of its children that have ended, in clock ticks.
    pub(super) ticks: u64,
}

/// The processes of a container by id.
pub(super) type ContainerProcesses = HashMap<u32, ProcessTimes>;

/// All processes, and whose they are.
pub(super) struct ProcessTable {
    processes: HashMap<u32, ProcessTimes>,
    /// The mount namespaces of processes. A zombie has none.
    namespaces: HashMap<u32, (u64, u64)>,
}

impl ProcessTable {
    /// Reads `/proc`. Processes that end meanwhile are missing.
    pub(super) fn read() -> Self {
        let mut table = Self { processes: HashMap::new(), namespaces: HashMap::new() };
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Some(times) = fs::read(format!("/proc/{pid}/stat")).ok().as_deref().and_then(parse) else { continue };
            table.processes.insert(pid, times);
            if let Ok(namespace) = MountNamespace::id_of(pid) {
                table.namespaces.insert(pid, namespace);
            }
        }
        table
    }
}

/// Parses `/proc/<pid>/stat`. The name of the program is in parentheses, and may contain anything.
fn parse(stat: &[u8]) -> Option<ProcessTimes> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    // The first of these fields is the third one of the file.
    let number = |field: usize| fields.get(field - 3)?.parse::<i64>().ok().map(|number| number.max(0).unsigned_abs());
    let ticks = [14, 15, 16, 17].map(number).into_iter().try_fold(0, |sum: u64, time| Some(sum.saturating_add(time?)));
    Some(ProcessTimes { parent: u32::try_from(number(4)?).ok()?, started: number(22)?, ticks: ticks? })
}

/// Returns the processes of containers, whose first processes are given: those in the container's mount namespace, which
/// commands of `kubectl exec` share and which orphans keep, and the descendants of these, in whatever namespace.
pub(super) fn owned(table: &ProcessTable, first_processes: &[u32]) -> Vec<ContainerProcesses> {
    let by_namespace: HashMap<(u64, u64), usize> = first_processes
        .iter()
        .enumerate()
        .filter_map(|(index, pid)| table.namespaces.get(pid).map(|namespace| (*namespace, index)))
        .collect();
    let direct = |pid: u32| table.namespaces.get(&pid).and_then(|namespace| by_namespace.get(namespace)).copied();
    let mut owned = vec![ContainerProcesses::new(); first_processes.len()];
    for (&pid, times) in &table.processes {
        let lineage = lineage(&table.processes, pid);
        if let Some(index) = lineage.into_iter().find_map(direct) {
            owned[index].insert(pid, *times);
        }
    }
    owned
}

/// Returns a process and its ancestors, the nearest first. Bounded, because a table that is read while processes start and end
/// may have cycles.
fn lineage(processes: &HashMap<u32, ProcessTimes>, pid: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(pid), |pid| processes.get(pid).map(|times| times.parent)).take(processes.len())
}

/// Returns the CPU time that a container used between two samples. The time of a process that has ended is in that of its
/// parent, or lost if all of its ancestors in the container have ended as well.
pub(super) fn cpu_time(before: &ContainerProcesses, now: &ContainerProcesses) -> Duration {
    let runs = |pid: &u32| {
        let earlier = before.get(pid);
        earlier.is_some() && earlier.map(|times| times.started) == now.get(pid).map(|times| times.started)
    };
    let kept = before.iter().filter(|(pid, _)| lineage(before, **pid).any(|pid| runs(&pid)));
    let earlier: u64 = kept.map(|(_, times)| times.ticks).sum();
    let later: u64 = now.values().map(|times| times.ticks).sum();
    let ticks = later.saturating_sub(earlier);
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Returns the memory of a process in bytes: its PSS, or its resident set if that cannot be read.
pub(super) fn memory(pid: u32) -> u64 {
    let proportional = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
    let proportional = proportional.and_then(|text| {
        let value = text.lines().find_map(|line| line.strip_prefix("Pss:"))?.trim();
        value.strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    if let Some(kibibytes) = proportional {
        return kibibytes.saturating_mul(1024);
    }
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = text.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    pages.saturating_mul(rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(parent: u32, ticks: u64) -> ProcessTimes {
        ProcessTimes { parent, started: 1, ticks }
    }

    #[test]
    fn stat_is_parsed_whatever_the_program_is_called() {
        let rest = "S 41 9 9 0 -1 4194560 1 2 3 4 100 20 3 -4 20 0 1 0 5555 1 1";
        let expected = Some(ProcessTimes { parent: 41, started: 5555, ticks: 123 });
        assert_eq!(parse(format!("42 (app) {rest}").as_bytes()), expected);
        assert_eq!(parse(format!("42 (a) R 7 (b)) {rest}").as_bytes()), expected);
        assert_eq!(parse([b"42 (\xff\n) ", rest.as_bytes()].concat().as_slice()), expected);
        for bad in ["", "42 (app", "42 (app) S 41", "42 (app) S x 9 9 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 5555"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn descendants_and_orphans_belong_to_their_container() {
        let processes = [(1, 0), (2, 1), (10, 2), (11, 10), (12, 11), (13, 2), (20, 2), (21, 20)];
        let processes = processes.map(|(pid, parent)| (pid, times(parent, 0))).into();
        // 12 is in a namespace of its own, 13 is an orphan, 21 a zombie.
        let namespaces = [(1, 0), (2, 0), (10, 5), (11, 5), (12, 6), (13, 5), (20, 7)];
        let namespaces = namespaces.map(|(pid, number)| (pid, (0, number))).into();
        let owned = owned(&ProcessTable { processes, namespaces }, &[10, 20, 99]);
        let sorted = |processes: &ContainerProcesses| {
            let mut pids: Vec<u32> = processes.keys().copied().collect();
            pids.sort_unstable();
            pids
        };
        assert_eq!(owned.iter().map(sorted).collect::<Vec<_>>(), [vec![10, 11, 12, 13], vec![20, 21], vec![]]);
    }

    #[test]
    fn time_of_ended_processes_is_neither_lost_nor_counted_twice() {
        let second = rustix::param::clock_ticks_per_second();
        let before = [(10, times(1, second)), (11, times(10, 5 * second)), (30, times(1, 9 * second))].into();
        // 11 has ended after another second, and 30, whose parent is elsewhere.
        let now = [(10, times(1, 7 * second)), (12, times(10, second))].into();
        assert_eq!(cpu_time(&before, &now), Duration::from_secs(2));
        assert_eq!(cpu_time(&before, &[(11, times(10, 0))].into()), Duration::ZERO);
        // Another process has the id.
        let other = [(10, ProcessTimes { started: 2, ..times(1, second) })].into();
        assert_eq!(cpu_time(&[(10, times(1, 8 * second))].into(), &other), Duration::from_secs(1));
        let cycle = [(1, times(2, 1)), (2, times(1, 1))].into();
        assert_eq!(cpu_time(&cycle, &[].into()), Duration::ZERO);
    }

    #[test]
    fn the_own_process_is_read() {
        let pid = std::process::id();
        let table = ProcessTable::read();
        let processes = owned(&table, &[pid]);
        assert!(processes[0].contains_key(&pid), "{:?}", table.processes.get(&pid));
        assert!(memory(pid) > 100 << 10);
        assert_eq!(memory(u32::MAX), 0);
    }
}
