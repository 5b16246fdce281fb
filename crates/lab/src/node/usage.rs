//! CPU and memory of the nodes and the running containers, for `metrics.k8s.io` (`kubectl top`).
//!
//! The agent samples `/proc` at intervals ([`processes`]); CPU usage is the mean between two samples. A container that is in
//! one of them only has no usage yet, and neither has its pod, as in metrics-server. Memory is the proportional set size (PSS):
//! pages that processes share count once in total, so that a node is the sum of its containers. A node has no processes
//! beside those of its pods.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

use super::host::Host;
use crate::timestamp;

mod processes;

use processes::{ContainerProcesses, ProcessTable, cpu_time, memory, owned};

/// Shortest time between two samples.
const INTERVAL: Duration = Duration::from_secs(5);
/// Longest time between two samples, the default of metrics-server.
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);
/// A sample takes at most the time since the last one divided by this number, if the longest interval permits.
const SHARE: u32 = 50;

/// The usage of a node or a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Usage {
    /// Mean CPU usage, in nanocores.
    cpu: u64,
    /// Memory, in bytes.
    memory: u64,
}

/// The usage between the last two samples.
#[derive(Debug, Default, Serialize)]
pub(super) struct UsageReport {
    timestamp: String,
    window: String,
    /// By name of the node.
    nodes: BTreeMap<String, Usage>,
    /// By UID of the pod and name of the container.
    pods: BTreeMap<String, BTreeMap<String, Usage>>,
}

/// The latest report; empty before the second sample.
#[derive(Debug, Default)]
pub(super) struct LatestUsage(RwLock<Arc<UsageReport>>);

impl LatestUsage {
    pub(super) fn get(&self) -> Arc<UsageReport> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A sample.
struct Sample {
    at: Instant,
    /// The containers by UID of the pod, name, and id of the first process, which differs after a restart.
    containers: HashMap<(String, String, u32), ContainerSample>,
}

struct ContainerSample {
    node: String,
    processes: ContainerProcesses,
    memory: u64,
}

/// Samples until cancelled.
pub(super) async fn measure(host: Arc<Host>) -> Infallible {
    let mut last: Option<Sample> = None;
    loop {
        let started = Instant::now();
        let sampled = host.clone();
        let sample = tokio::task::spawn_blocking(move || sample(&sampled)).await.ok();
        if let (Some(last), Some(sample)) = (&last, &sample) {
            let report = Arc::new(report(last, sample, host.nodes.running()));
            *host.usage.0.write().unwrap_or_else(PoisonError::into_inner) = report;
        }
        last = sample;
        tokio::time::sleep((started.elapsed() * SHARE).clamp(INTERVAL, LONGEST_INTERVAL)).await;
    }
}

/// Reads the processes of all running containers. Blocks for some milliseconds.
fn sample(host: &Host) -> Sample {
    let mut keys = Vec::new();
    let mut first_processes = Vec::new();
    for pod in host.pods.all() {
        for (container, live) in pod.all_live() {
            let pid = live.process.pid();
            keys.push(((pod.name.uid.clone(), container, pid), pod.node.clone()));
            first_processes.push(pid);
        }
    }
    let at = Instant::now();
    let owned = owned(&ProcessTable::read(), &first_processes);
    let containers = keys.into_iter().zip(owned).map(|((key, node), processes)| {
        let memory = processes.keys().map(|pid| memory(*pid)).sum();
        (key, ContainerSample { node, processes, memory })
    });
    Sample { at, containers: containers.filter(|(_, sample)| !sample.processes.is_empty()).collect() }
}

/// Returns the usage between two samples. Pods are absent unless all of their containers are in both, and so are nodes that
/// are not among the running ones.
fn report(before: &Sample, now: &Sample, nodes: Vec<String>) -> UsageReport {
    let window = now.at.saturating_duration_since(before.at).max(Duration::from_millis(1));
    let mut report = UsageReport {
        timestamp: timestamp::seconds(Timestamp::now()),
        window: format!("{:?}", Duration::from_millis(u64::try_from(window.as_millis()).unwrap_or(u64::MAX))),
        nodes: nodes.into_iter().map(|node| (node, Usage::default())).collect(),
        pods: BTreeMap::new(),
    };
    let mut incomplete = Vec::new();
    for (key, sample) in &now.containers {
        let (pod, container, _) = key;
        let Some(node) = report.nodes.get_mut(&sample.node) else { continue };
        let Some(earlier) = before.containers.get(key) else {
            incomplete.push(pod);
            continue;
        };
        let busy = cpu_time(&earlier.processes, &sample.processes).as_nanos() * 1_000_000_000 / window.as_nanos();
        let usage = Usage { cpu: u64::try_from(busy).unwrap_or(u64::MAX), memory: sample.memory };
        node.cpu = node.cpu.saturating_add(usage.cpu);
        node.memory = node.memory.saturating_add(usage.memory);
        report.pods.entry(pod.clone()).or_default().insert(container.clone(), usage);
    }
    for pod in incomplete {
        report.pods.remove(pod);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::processes::ProcessTimes;
    use super::*;

    fn sample_with(at: Instant, containers: &[(&str, &str, u32, u64)]) -> Sample {
        let containers = containers.iter().map(|&(pod, container, pid, ticks)| {
            let times = ProcessTimes { parent: 1, started: 7, ticks };
            let sample = ContainerSample { node: "west-a".into(), processes: [(pid, times)].into(), memory: 1 << 20 };
            ((pod.to_owned(), container.to_owned(), pid), sample)
        });
        Sample { at, containers: containers.collect() }
    }

    #[test]
    fn usage_is_the_mean_between_two_samples() {
        let (start, second) = (rustix::param::clock_ticks_per_second(), Duration::from_secs(1));
        let before =
            sample_with(Instant::now(), &[("a", "app", 10, 0), ("a", "proxy", 11, start), ("b", "app", 12, 5)]);
        let now = [("a", "app", 10, start), ("a", "proxy", 11, start), ("b", "app", 12, 5), ("b", "new", 13, 900)];
        let now = sample_with(before.at + 2 * second, &now);
        let usage = report(&before, &now, vec!["west-a".into(), "west-b".into()]);
        assert_eq!(usage.window, "2s");
        assert_eq!(usage.pods["a"]["app"], Usage { cpu: 500_000_000, memory: 1 << 20 });
        assert_eq!(usage.pods["a"]["proxy"].cpu, 0);
        assert!(!usage.pods.contains_key("b"), "a container of the pod has been measured once");
        assert_eq!(usage.nodes["west-a"], Usage { cpu: 500_000_000, memory: 3 << 20 });
        assert_eq!(usage.nodes["west-b"], Usage::default());

        let restarted = sample_with(now.at + second, &[("a", "app", 20, 3)]);
        assert!(report(&now, &restarted, vec!["west-a".into()]).pods.is_empty());
        let dead = report(&before, &now, Vec::new());
        assert!(dead.pods.is_empty() && dead.nodes.is_empty(), "the node is killed");
    }
}
