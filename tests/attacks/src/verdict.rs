//! Compares what happened during an attack with its bounds.

use std::time::Duration;

use crate::attack::Bounds;
use crate::process::Reading;
use crate::traffic::{Sample, Traffic};

/// Memory that a process may keep after an attack, in percent of what it used before: allocators keep some pages.
const KEPT_PERCENT: u64 = 25;
/// The same in MiB, for small processes.
const KEPT: u64 = 8;
/// Descriptors that may be open afterwards beyond those of before: connections of the traffic come and go.
const KEPT_FILES: usize = 16;

/// Latencies and failures of one kind of traffic.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calls {
    /// The number of requests during and after the attack.
    pub requests: usize,
    /// How many of them failed.
    pub failed: usize,
    /// How many failed before the attack.
    pub failed_before: usize,
    /// The first failure.
    pub error: Option<String>,
    /// Median and 99th percentile before the attack.
    pub before: [Duration; 2],
    /// The same during the attack.
    pub during: [Duration; 2],
}

/// The readings of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readings {
    /// Before the attack.
    pub before: Reading,
    /// The largest values during and after the attack.
    pub peak: Reading,
    /// The last values.
    pub rest: Reading,
}

impl Calls {
    /// Divides requests by the beginning and the end of an attack.
    pub fn of(samples: &[Sample], begin: Duration, end: Duration) -> Self {
        let percentiles = |chosen: &dyn Fn(&Sample) -> bool| {
            let mut latencies: Vec<Duration> =
                samples.iter().filter(|sample| chosen(sample)).map(|sample| sample.latency).collect();
            latencies.sort_unstable();
            let at = |part: f64| {
                let index = (latencies.len() as f64 * part) as usize;
                latencies.get(index.min(latencies.len().saturating_sub(1))).copied().unwrap_or_default()
            };
            [at(0.5), at(0.99)]
        };
        let (affected, early): (Vec<&Sample>, Vec<&Sample>) =
            samples.iter().partition(|sample| sample.at + sample.latency >= begin);
        let failed = |samples: &[&Sample]| samples.iter().filter(|sample| sample.error.is_some()).count();
        Self {
            requests: affected.len(),
            failed: failed(&affected),
            failed_before: failed(&early),
            error: samples.iter().find_map(|sample| sample.error.clone()),
            before: percentiles(&|sample| sample.at + sample.latency < begin),
            during: percentiles(&|sample| sample.at + sample.latency >= begin && sample.at < end),
        }
    }
}

impl Readings {
    /// Returns whether the process uses no more than before, but for what it may keep.
    pub fn is_at_rest(&self) -> bool {
        self.rest.memory <= self.before.memory + (self.before.memory * KEPT_PERCENT / 100).max(KEPT << 20)
            && self.rest.files <= self.before.files + KEPT_FILES
    }
}

/// Describes each bound that was exceeded.
pub fn faults(traffic: &[(Traffic, Calls)], readings: &Readings, bounds: Bounds) -> Vec<String> {
    let mut faults = Vec::new();
    for (kind, calls) in traffic {
        let why = calls.error.as_deref().unwrap_or_default();
        if calls.failed_before > 0 {
            let advice = "the attack shows nothing: try again on a machine with less to do";
            faults.push(format!("{kind}: {} failed before the attack ({why}); {advice}", calls.failed_before));
        }
        if calls.failed > 0 {
            faults.push(format!("{kind}: {} of {} failed: {why}", calls.failed, calls.requests));
        }
        if calls.requests == 0 {
            faults.push(format!("{kind}: no request was sent"));
        }
    }
    let Readings { before, peak, rest } = *readings;
    if peak.memory > before.memory + (bounds.memory << 20) {
        let [before, peak] = [before.memory, peak.memory].map(|bytes| bytes >> 20);
        faults.push(format!("memory grew from {before} to {peak} MiB, by more than {}", bounds.memory));
    }
    if peak.files > before.files + bounds.files {
        faults.push(format!("descriptors grew from {} to {}, by more than {}", before.files, peak.files, bounds.files));
    }
    if !readings.is_at_rest() {
        faults.push(format!(
            "not at rest: {} MiB and {} descriptors, before {} and {}",
            rest.memory >> 20,
            rest.files,
            before.memory >> 20,
            before.files
        ));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: u64, latency: u64, error: Option<&str>) -> Sample {
        let [at, latency] = [at, latency].map(Duration::from_millis);
        Sample { at, latency, error: error.map(str::to_owned) }
    }

    fn reading(mebibytes: u64, files: usize) -> Reading {
        Reading { memory: mebibytes << 20, files }
    }

    #[test]
    fn a_request_counts_from_when_the_attack_could_affect_it() {
        let samples =
            [sample(0, 5, None), sample(100, 7, Some("early")), sample(990, 20, Some("late")), sample(1500, 9, None)];
        let calls = Calls::of(&samples, Duration::from_secs(1), Duration::from_secs(2));
        assert_eq!((calls.requests, calls.failed, calls.failed_before), (2, 1, 1));
        assert!(
            faults(&[(Traffic::Local, calls.clone())], &Readings::default(), Bounds { memory: 1, files: 1 }).len() == 2
        );
        assert_eq!(calls.before[1], Duration::from_millis(7));
        assert_eq!(calls.during, [Duration::from_millis(20); 2]);
    }

    #[test]
    fn each_bound_is_checked() {
        let bounds = Bounds { memory: 10, files: 100 };
        let calls = |requests, failed| Calls { requests, failed, ..Calls::default() };
        let of = |calls: Calls, peak, rest| {
            let readings = Readings { before: reading(40, 20), peak, rest };
            faults(&[(Traffic::Local, calls)], &readings, bounds)
        };
        assert!(of(calls(9, 0), reading(50, 120), reading(50, 36)).is_empty());
        assert!(of(calls(9, 1), reading(50, 120), reading(50, 36))[0].contains("1 of 9 failed"));
        assert!(of(calls(0, 0), reading(50, 120), reading(50, 36))[0].contains("no request"));
        assert!(of(calls(9, 0), reading(51, 120), reading(50, 36))[0].contains("memory grew"));
        assert!(of(calls(9, 0), reading(50, 121), reading(50, 36))[0].contains("descriptors grew"));
        assert!(of(calls(9, 0), reading(50, 120), reading(51, 36))[0].contains("not at rest"));
        assert!(of(calls(9, 0), reading(50, 120), reading(50, 37))[0].contains("not at rest"));
    }
}
