//! Calls at a fixed rate, and the timeline of their results.
//!
//! A request is sent when it is due, whether or not earlier requests have been answered, and its latency counts from
//! then: a stall shows as latency, as its users see it, and not as fewer requests.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::client::{CallClient, CallHeader, CallProtocol, CallTarget};

/// Most requests of a plan.
const MAX_COUNT: usize = 100_000;
/// Highest rate, in requests per second.
const MAX_RATE: f64 = 2000.0;
/// Most requests that may wait for a response. A further request fails at once, so that a stalled target cannot exhaust
/// this process.
const MAX_WAITING: usize = 2000;

/// A plan of calls.
#[derive(Clone, Debug)]
pub struct CallPlan {
    /// Target of the calls.
    pub target: CallTarget,
    /// Protocol of the calls.
    pub protocol: CallProtocol,
    /// Headers of requests over HTTP/1.1.
    pub headers: Vec<CallHeader>,
    /// Number of calls.
    pub count: usize,
    /// Calls per second.
    pub rate: f64,
    /// Timeout of a call.
    pub timeout: Duration,
}

/// The result of one call.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// When the call was due, in milliseconds from the start.
    pub at_ms: f64,
    /// Time from then to the complete response, or the failure, in milliseconds.
    pub latency_ms: f64,
    /// Whether the call succeeded.
    pub ok: bool,
    /// HTTP status, if there was a response.
    pub status: Option<u16>,
    /// gRPC status, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u16>,
    /// Cluster of the instance that answered.
    pub cluster: String,
    /// Zone of the instance.
    pub zone: String,
    /// Pod of the instance.
    pub pod: String,
    /// Version of the instance.
    pub version: String,
    /// Description of the failure.
    pub error: Option<String>,
}

/// A period in which the same cluster answered with the same result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// When the first call was due, in milliseconds from the start.
    pub from_ms: f64,
    /// When the last call was due, in milliseconds from the start.
    pub to_ms: f64,
    /// Number of calls.
    pub count: usize,
    /// Whether the calls succeeded.
    pub ok: bool,
    /// Cluster that answered; empty if none did.
    pub cluster: String,
}

/// Percentiles of latencies, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

/// The timeline of a plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Timeline {
    /// URL of the target.
    pub url: String,
    /// When the first call was due, in milliseconds since 1970.
    pub started_ms: f64,
    /// Calls per second.
    pub rate: f64,
    /// Number of successful calls: HTTP status below 400, gRPC status 0.
    pub ok: usize,
    /// Number of failed calls.
    pub failed: usize,
    /// Number of successful calls by cluster.
    pub clusters: BTreeMap<String, usize>,
    /// Number of successful calls by pod.
    pub pods: BTreeMap<String, usize>,
    /// Number of failed calls by description.
    pub errors: BTreeMap<String, usize>,
    /// Latencies of the successful calls.
    pub latency_ms: Latency,
    /// Periods, in order.
    pub phases: Vec<Phase>,
    /// All calls, in the order in which they were due.
    pub requests: Vec<Sample>,
}

impl CallPlan {
    /// Checks the plan's limits.
    ///
    /// # Errors
    /// Returns a description of the limit that is exceeded.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=MAX_COUNT).contains(&self.count) {
            return Err(format!("{} requests are out of range (1 to {MAX_COUNT})", self.count));
        }
        if !(0.01..=MAX_RATE).contains(&self.rate) {
            return Err(format!("{} requests per second are out of range (0.01 to {MAX_RATE})", self.rate));
        }
        Ok(())
    }

    /// Makes the calls and returns their timeline.
    pub async fn run(self) -> Timeline {
        let client = Arc::new(CallClient::new(self.target.clone(), self.protocol, self.headers));
        let waiting = Arc::new(AtomicUsize::new(0));
        let (start, started) = (Instant::now(), SystemTime::now());
        let mut calls = JoinSet::new();
        let mut samples = Vec::with_capacity(self.count);
        for number in 0..self.count {
            let due = start + Duration::from_secs_f64(number as f64 / self.rate);
            tokio::time::sleep_until(due).await;
            while let Some(done) = calls.try_join_next() {
                samples.extend(done.ok());
            }
            let (client, waiting, timeout) = (Arc::clone(&client), Arc::clone(&waiting), self.timeout);
            calls.spawn(async move {
                let result = if waiting.fetch_add(1, Relaxed) >= MAX_WAITING {
                    Err(format!("{MAX_WAITING} requests are already waiting for a response"))
                } else {
                    tokio::time::timeout(timeout, client.call())
                        .await
                        .unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")))
                };
                waiting.fetch_sub(1, Relaxed);
                Sample::of(start, due, result)
            });
        }
        while let Some(done) = calls.join_next().await {
            samples.extend(done.ok());
        }
        let started_ms = started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0;
        Timeline { started_ms, ..Timeline::of(self.target.to_string(), self.rate, samples) }
    }
}

impl Sample {
    fn of(start: Instant, due: Instant, result: Result<super::client::CallResult, String>) -> Self {
        let milliseconds = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1000.0;
        let sample =
            Self { at_ms: milliseconds(due - start), latency_ms: milliseconds(due.elapsed()), ..Self::default() };
        match result {
            Err(error) => Self { error: Some(error), ..sample },
            Ok(response) => {
                let ok = response.status < 400 && response.grpc_status.unwrap_or(0) == 0;
                let error = (!ok).then(|| match response.grpc_status {
                    Some(status) => format!("gRPC status {status}"),
                    None => format!("HTTP status {}", response.status),
                });
                Self {
                    ok,
                    status: Some(response.status),
                    grpc_status: response.grpc_status,
                    cluster: response.answer.cluster,
                    zone: response.answer.zone,
                    pod: response.answer.pod,
                    version: response.answer.version,
                    error,
                    ..sample
                }
            }
        }
    }
}

impl Timeline {
    fn of(url: String, rate: f64, mut requests: Vec<Sample>) -> Self {
        requests.sort_by(|a, b| a.at_ms.total_cmp(&b.at_ms));
        let mut timeline = Self {
            url,
            started_ms: 0.0,
            rate,
            ok: 0,
            failed: 0,
            clusters: BTreeMap::new(),
            pods: BTreeMap::new(),
            errors: BTreeMap::new(),
            latency_ms: Latency::of(
                requests.iter().filter(|sample| sample.ok).map(|sample| sample.latency_ms).collect(),
            ),
            phases: Vec::new(),
            requests: Vec::new(),
        };
        for sample in &requests {
            if sample.ok {
                timeline.ok += 1;
                *timeline.clusters.entry(sample.cluster.clone()).or_default() += 1;
                *timeline.pods.entry(sample.pod.clone()).or_default() += 1;
            } else {
                timeline.failed += 1;
                *timeline.errors.entry(sample.error.clone().unwrap_or_default()).or_default() += 1;
            }
            match timeline.phases.last_mut() {
                Some(phase) if phase.ok == sample.ok && phase.cluster == sample.cluster => {
                    phase.to_ms = sample.at_ms;
                    phase.count += 1;
                }
                _ => timeline.phases.push(Phase {
                    from_ms: sample.at_ms,
                    to_ms: sample.at_ms,
                    count: 1,
                    ok: sample.ok,
                    cluster: sample.cluster.clone(),
                }),
            }
        }
        timeline.requests = requests;
        timeline
    }

    /// Formats the periods and totals for display.
    pub fn text(&self) -> String {
        /// Further periods are omitted: with a service spread over clusters each call may be one.
        const SHOWN: usize = 40;
        let mut text = format!("{} at {}/s\n", self.url, self.rate);
        for phase in self.phases.iter().take(SHOWN) {
            let who = if phase.cluster.is_empty() { "-" } else { &phase.cluster };
            let what = if phase.ok { "answered" } else { "FAILED" };
            let (from, to) = (phase.from_ms / 1000.0, phase.to_ms / 1000.0);
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{from:9.3}s - {to:8.3}s  {:>6} {what:<8} {who}", phase.count);
        }
        if self.phases.len() > SHOWN {
            let _ = writeln!(text, "           and {} phases more", self.phases.len() - SHOWN);
        }
        for (error, count) in &self.errors {
            let _ = writeln!(text, "{count:>6} x {error}");
        }
        let Latency { p50, p99, max, .. } = self.latency_ms;
        let clusters: Vec<_> = self.clusters.iter().map(|(cluster, count)| format!("{cluster} {count}")).collect();
        let _ = writeln!(
            text,
            "{} ok ({}), {} failed; latency p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms",
            self.ok,
            clusters.join(", "),
            self.failed
        );
        text
    }
}

impl Latency {
    fn of(mut all: Vec<f64>) -> Self {
        all.sort_by(f64::total_cmp);
        let at = |share: f64| all.get(((all.len() as f64 * share).ceil() as usize).saturating_sub(1)).copied();
        let at = |share| at(share).unwrap_or_default();
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) }
    }
}
