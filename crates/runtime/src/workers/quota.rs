//! The number of processors that the process may use.

use std::fs;
use std::path::Path;

/// The CPU limits of a process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cpus {
    /// The number of processors in its CPU affinity.
    pub affinity: usize,
    /// The CPU quota of its cgroups in processors; `None` without a limit.
    pub quota: Option<f64>,
}

/// Returns the number of workers for these limits. A fractional quota is rounded up, since fewer workers could not use
/// it fully.
pub fn choose(requested: Option<usize>, cpus: &Cpus, at_most: usize) -> usize {
    if let Some(requested) = requested.filter(|requested| *requested > 0) {
        return requested;
    }
    let quota = cpus.quota.map_or(usize::MAX, |quota| quota.ceil() as usize);
    cpus.affinity.min(quota).min(at_most).max(1)
}

impl Cpus {
    /// Reads the limits from `/proc` and `/sys/fs/cgroup`.
    pub fn of_this_process() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self {
            affinity: affinity(&status).unwrap_or(1),
            quota: cgroup_quota(&cgroups, |path| fs::read_to_string(Path::new("/sys/fs/cgroup").join(path)).ok()),
        }
    }
}

/// Returns the number of processors in `Cpus_allowed_list` of `/proc/<pid>/status`.
fn affinity(status: &str) -> Option<usize> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    list.trim().split(',').try_fold(0, |count, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        Some(count + last.checked_sub(first)? + 1)
    })
}

/// Returns the memory limit of the process's cgroups in bytes; `None` without a limit.
pub fn memory_limit() -> Option<u64> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    cgroup_memory(&cgroups, |path| fs::read_to_string(Path::new("/sys/fs/cgroup").join(path)).ok())
}

/// Returns the smallest memory limit of the process's cgroups and their ancestors.
fn cgroup_memory(cgroups: &str, read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    /// The kernel's value for no limit, in the first version of cgroups, is above this.
    const UNLIMITED: f64 = (1_u64 << 60) as f64;
    let files = [("", ["memory.max"].as_slice()), ("memory", &["memory.limit_in_bytes"])];
    let limit = smallest(cgroups, files, read, |text| text.trim().parse().ok().filter(|limit| *limit < UNLIMITED));
    limit.map(|limit| limit as u64)
}

/// Returns the smallest quota of the process's cgroups and their ancestors. `read` reads files below `/sys/fs/cgroup`.
fn cgroup_quota(cgroups: &str, read: impl Fn(&str) -> Option<String>) -> Option<f64> {
    let files = [("", ["cpu.max"].as_slice()), ("cpu", &["cpu.cfs_quota_us", "cpu.cfs_period_us"])];
    smallest(cgroups, files, read, quota)
}

/// Returns the smallest value of the process's cgroups and their ancestors. `files` has the names of the files for both
/// versions of cgroups, the second with the name of the controller.
fn smallest(
    cgroups: &str,
    [(_, unified), (controller, own)]: [(&str, &[&str]); 2],
    read: impl Fn(&str) -> Option<String>,
    parse: impl Fn(&str) -> Option<f64>,
) -> Option<f64> {
    let mut smallest: Option<f64> = None;
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let (hierarchy, files): (&str, &[&str]) = match (id, controllers) {
            ("0", "") => ("", unified),
            (_, controllers) if controllers.split(',').any(|name| name == controller) => (controller, own),
            _ => continue,
        };
        for directory in Path::new(path.trim_start_matches('/')).ancestors() {
            let at = |file: &str| {
                let path = Path::new(hierarchy).join(directory).join(file);
                read(path.to_str()?)
            };
            let text: Option<Vec<String>> = files.iter().map(|file| at(file)).collect();
            if let Some(value) = text.and_then(|text| parse(&text.join(" "))) {
                smallest = Some(smallest.map_or(value, |smallest| smallest.min(value)));
            }
        }
    }
    smallest
}

/// Parses `<quota> <period>`. The quota is `max` or negative if there is no limit.
fn quota(text: &str) -> Option<f64> {
    let mut fields = text.split_whitespace();
    let quota: f64 = fields.next()?.parse().ok()?;
    let period: f64 = fields.next()?.parse().ok()?;
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_takes_precedence_over_quota_and_affinity() {
        let cpus = |affinity, quota| Cpus { affinity, quota };
        for (requested, cpus, at_most, expected) in [
            (None, cpus(8, None), 64, 8),
            (None, cpus(8, None), 2, 2),
            (None, cpus(8, Some(2.0)), 64, 2),
            (None, cpus(8, Some(1.5)), 64, 2),
            (None, cpus(8, Some(0.1)), 64, 1),
            (None, cpus(2, Some(6.0)), 64, 2),
            (None, cpus(0, None), 64, 1),
            (None, cpus(4, None), 0, 1),
            (Some(3), cpus(8, Some(1.0)), 2, 3),
            (Some(0), cpus(8, None), 64, 8),
        ] {
            assert_eq!(choose(requested, &cpus, at_most), expected, "{requested:?} {cpus:?} {at_most}");
        }
    }

    #[test]
    fn reads_affinity_lists() {
        for (list, expected) in
            [("0", Some(1)), ("0-3", Some(4)), ("0-1,4,6-7", Some(5)), ("", None), ("3-1", None), ("x", None)]
        {
            let status = format!("Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t{list}\nMems_allowed:\t1\n");
            assert_eq!(affinity(&status), expected, "{list}");
        }
        assert_eq!(affinity("Name:\tx\n"), None);
    }

    #[test]
    fn the_smallest_quota_of_all_ancestors_applies() {
        let files = |path: &str| {
            Some(
                match path {
                    "pods/a/cpu.max" => "max 100000\n",
                    "pods/cpu.max" => "150000 100000\n",
                    "cpu.max" => "400000 100000\n",
                    "cpu/old/cpu.cfs_quota_us" => "50000\n",
                    "cpu/old/cpu.cfs_period_us" | "cpu/cpu.cfs_period_us" => "100000\n",
                    "cpu/cpu.cfs_quota_us" => "-1\n",
                    _ => return None,
                }
                .to_owned(),
            )
        };
        assert_eq!(cgroup_quota("0::/pods/a\n", files), Some(1.5));
        assert_eq!(cgroup_quota("0::/\n", files), Some(4.0));
        assert_eq!(cgroup_quota("5:cpu,cpuacct:/old\n3:memory:/old\n", files), Some(0.5));
        assert_eq!(cgroup_quota("5:cpu:/\n", files), None);
        assert_eq!(cgroup_quota("0::/elsewhere\n", |_| None), None);
        assert_eq!(cgroup_quota("nonsense", files), None);
    }

    #[test]
    fn this_process_has_a_processor() {
        assert!(Cpus::of_this_process().affinity >= 1);
    }

    #[test]
    fn the_smallest_memory_limit_applies() {
        let read = |path: &str| match path {
            "pods/a/memory.max" => Some("max\n".to_owned()),
            "pods/memory.max" => Some("134217728\n".to_owned()),
            "memory/b/memory.limit_in_bytes" => Some("9223372036854771712\n".to_owned()),
            _ => None,
        };
        assert_eq!(cgroup_memory("0::/pods/a\n", read), Some(128 << 20));
        assert_eq!(cgroup_memory("5:memory:/b\n", read), None);
        assert_eq!(cgroup_memory("", read), None);
    }
}
