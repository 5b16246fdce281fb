//! The cost of losing a service's pods in one cluster: a lab of two clusters, a steady rate of requests from a pod in one of
//! them, and then the near endpoints are killed.
//!
//! The caller does not retry; its sidecar does.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::finding::{Finding, Metric, Recorder};
use crate::rig::Rig;
use crate::setup;

const NAME: &str = "isthmus-bench";
/// Requests per second.
const RATE: u32 = 200;

/// Options of `failover`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {}

/// The test application's report of its calls.
#[derive(Debug, Deserialize)]
struct CallReport {
    requests: Vec<TestCall>,
}

#[derive(Debug, Deserialize)]
struct TestCall {
    at_ms: f64,
    latency_ms: f64,
    ok: bool,
    cluster: String,
}

/// A lab, which stops when dropped.
pub struct Lab<'a> {
    rig: &'a Rig,
}

/// Runs the scenario: kills `reviews` in one cluster under load, several times.
pub fn run(_: &Options, rig: &Rig) -> Result<Vec<Finding>> {
    let topology = setup::repository().join("topologies/primary-remote.yaml");
    let lab = Lab::up(rig, &topology)?;
    let load = format!("HTTP/1.1, {RATE} requests/s, the cluster's pods of the service killed");
    let mut recorder = Recorder::new("failover");
    let mut add = |metric, value| recorder.add(&load, "isthmus", metric, value);
    for turn in 0..if rig.quick { 1 } else { 3 } {
        eprintln!("failover: turn {}", turn + 1);
        let calls = lab.lose_pods(Duration::from_secs(if rig.quick { 4 } else { 8 }))?;
        add(Metric::cost("cluster lost to first success elsewhere", "ms"), without_success(&calls.requests)?);
        let failed = calls.requests.iter().filter(|call| !call.ok).count();
        add(Metric::cost("failed requests", ""), failed as f64);
        add(Metric::gain("requests", ""), calls.requests.len() as f64);
    }
    Ok(recorder.findings())
}

/// The time in milliseconds from the near cluster's last response before another cluster's first one, to that one.
fn without_success(calls: &[TestCall]) -> Result<f64> {
    let answered = |call: &&TestCall| call.ok;
    let near = &calls.iter().find(answered).context("no call succeeded")?.cluster;
    let ended = |call: &TestCall| call.at_ms + call.latency_ms;
    let elsewhere = calls.iter().filter(answered).filter(|call| call.cluster != *near).map(ended);
    let first = elsewhere.min_by(f64::total_cmp).context("no other cluster responded")?;
    let last = calls.iter().filter(answered).filter(|call| call.cluster == *near).map(ended);
    let last = last.filter(|end| *end <= first).max_by(f64::total_cmp).context("the near cluster never responded")?;
    Ok(first - last)
}

impl<'a> Lab<'a> {
    /// Starts a lab, and waits until it is ready.
    pub fn up(rig: &'a Rig, topology: &Path) -> Result<Self> {
        let lab = Self { rig };
        let up = lab.command(&["lab", "up", "--detach", "--name", NAME]).arg(topology).output()?;
        ensure!(up.status.success(), "the lab did not start: {}", String::from_utf8_lossy(&up.stderr));
        Ok(lab)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.rig.isthmus);
        command.args(arguments).env("ISTHMUS_RUNTIME_DIR", self.rig.directory()).env_remove("ISTHMUS_LAB");
        command.stdin(Stdio::null());
        command
    }

    fn lose_pods(&self, duration: Duration) -> Result<CallReport> {
        let isthmus = self.rig.isthmus.display().to_string();
        let load = self
            .command(&["lab", "exec", "west/default/frontend", "--", &isthmus, "testapp"])
            .args(["--call", "http://reviews:9080/", "--rate", &RATE.to_string(), "-o", "json"])
            .args(["--duration", &format!("{}s", duration.as_secs())])
            .stdout(Stdio::piped())
            .spawn()?;
        std::thread::sleep(duration / 4);
        let fault = self.command(&["lab", "fault", "kill-workload", "west/default/reviews"]).output()?;
        ensure!(fault.status.success(), "the pods could not be killed: {}", String::from_utf8_lossy(&fault.stderr));
        let output = load.wait_with_output()?;
        serde_json::from_slice(&output.stdout).context("the caller printed no report")
    }
}

impl Drop for Lab<'_> {
    fn drop(&mut self) {
        // The end of the sandbox removes the rest.
        let _ = self.command(&["lab", "down", NAME]).stdout(Stdio::null()).status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(at_ms: f64, ok: bool, cluster: &str) -> TestCall {
        TestCall { at_ms, latency_ms: 1.0, ok, cluster: cluster.into() }
    }

    #[test]
    fn the_gap_is_between_the_last_answer_here_and_the_first_there() {
        let calls = [
            call(0.0, true, "west"),
            call(5.0, true, "west"),
            call(10.0, false, ""),
            call(40.0, true, "east"),
            call(60.0, true, "west"),
        ];
        assert_eq!(without_success(&calls).unwrap(), 35.0);
        assert!(without_success(&calls[..2]).is_err());
        assert!(without_success(&[]).is_err());
    }
}
