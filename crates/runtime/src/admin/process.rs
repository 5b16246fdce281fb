//! Prometheus' standard metrics of a process, read from `/proc` at each scrape.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use telemetry::metrics::{Family, Registry};

const RESIDENT: Family =
    Family { name: "process_resident_memory_bytes", help: "Resident memory size in bytes.", labels: &[] };
const FILES: Family = Family { name: "process_open_fds", help: "Number of open file descriptors.", labels: &[] };
const STARTED: Family = Family {
    name: "process_start_time_seconds",
    help: "Start time of the process as a Unix timestamp in seconds.",
    labels: &[],
};

pub(super) fn observe(registry: &Registry) {
    registry.observe_gauge(RESIDENT, |put| {
        if let Some(bytes) = resident_bytes(&fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default()) {
            put(&[], bytes);
        }
    });
    registry.observe_gauge(FILES, |put| {
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            put(&[], files.count() as f64);
        }
    });
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    registry.observe_gauge(STARTED, move |put| put(&[], started));
}

/// Parses the resident size. `/proc/self/statm` counts pages and lags behind per thread; this sum is exact.
fn resident_bytes(rollup: &str) -> Option<f64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_size_is_parsed() {
        assert_eq!(resident_bytes("55d0 rollup\nRss:        7040 kB\nPss:   1 kB\n"), Some(7040.0 * 1024.0));
        assert_eq!(resident_bytes(""), None);
        let own = resident_bytes(&fs::read_to_string("/proc/self/smaps_rollup").unwrap());
        assert!(own.is_some_and(|bytes| bytes > 100_000.0), "{own:?}");
    }
}
