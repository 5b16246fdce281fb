//! Linkerd's annotations of Services: retries, time limits, and the ejection of endpoints that fail.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::duration::parse_duration;
use crate::networking::json::shown;

/// The beginnings of the annotations that are read.
pub const PREFIXES: [&str; 3] = ["retry.linkerd.io/", "timeout.linkerd.io/", "balancer.linkerd.io/"];

/// The longest value that is read.
const MAX_VALUE: usize = 1_024;
/// The number of retries of one request.
const MAX_LIMIT: u32 = 100;
/// The conditions of gRPC.
const GRPC: [&str; 5] = ["cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"];

/// What the annotations of a Service say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceAnnotations {
    /// The outcomes that are repeated, as `retryOn` of a VirtualService names them; empty: none.
    pub retry_on: Vec<String>,
    /// The number of attempts after the first one.
    pub retry_limit: u32,
    /// The time limit of an attempt that may be repeated, in milliseconds; 0: none.
    pub retry_timeout_ms: u64,
    /// The time limit of a request with all attempts, in milliseconds; 0: none.
    pub timeout_ms: u64,
    /// When endpoints that fail are ejected.
    pub accrual: Option<FailureAccrual>,
    /// What has no effect, and why.
    pub problems: Vec<String>,
}

/// The ejection of endpoints by consecutive failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureAccrual {
    /// The number of failures.
    pub max_failures: u32,
    /// The time of the first ejection, in milliseconds.
    pub min_penalty_ms: u64,
}

impl Default for FailureAccrual {
    /// Linkerd's default.
    fn default() -> Self {
        FailureAccrual { max_failures: 7, min_penalty_ms: 1_000 }
    }
}

impl ServiceAnnotations {
    /// Reads annotations. Returns `None` if none of them is one of these.
    pub fn read(annotations: &BTreeMap<String, String>) -> Option<Self> {
        let own = |key: &&String| PREFIXES.iter().any(|prefix| key.starts_with(prefix));
        annotations.keys().any(|key| own(&key)).then(|| {
            let mut read = ServiceAnnotations { retry_limit: 1, ..ServiceAnnotations::default() };
            let mut accrual = FailureAccrual::default();
            for (key, value) in annotations.iter().filter(|(key, _)| own(key)) {
                let value: &str = if value.len() > MAX_VALUE { "" } else { value.trim() };
                if let Err(problem) = read.annotation(key, value, &mut accrual) {
                    read.problems.push(format!("annotation {}: {problem}", shown(key)));
                }
            }
            read.accrual = read.accrual.map(|_| accrual);
            read
        })
    }

    fn annotation(&mut self, key: &str, value: &str, accrual: &mut FailureAccrual) -> Result<(), String> {
        match key {
            "retry.linkerd.io/http" => self.retry_on.extend(statuses(value)?),
            "retry.linkerd.io/grpc" => self.retry_on.extend(grpc_conditions(value)?),
            "retry.linkerd.io/limit" => {
                let limit = value.parse().ok().filter(|limit| *limit <= MAX_LIMIT);
                self.retry_limit = limit.ok_or_else(|| format!("{value:?} is no number from 0 to {MAX_LIMIT}"))?;
            }
            "retry.linkerd.io/timeout" => self.retry_timeout_ms = millis(value)?,
            "timeout.linkerd.io/request" | "timeout.linkerd.io/response" => {
                let limit = millis(value)?;
                self.timeout_ms = if self.timeout_ms == 0 { limit } else { self.timeout_ms.min(limit) };
            }
            "timeout.linkerd.io/idle" => {
                return Err("has no effect: set idleTimeout in connectionPool.http of a DestinationRule".to_owned());
            }
            "balancer.linkerd.io/failure-accrual" if value == "consecutive" => self.accrual = Some(*accrual),
            "balancer.linkerd.io/failure-accrual" => {
                let text = "has no effect: write \"consecutive\", or outlierDetection of a DestinationRule";
                return Err(format!("{:?} {text}", shown(value)));
            }
            "balancer.linkerd.io/failure-accrual-consecutive-max-failures" => {
                let failures = value.parse().ok().filter(|failures| *failures > 0);
                accrual.max_failures = failures.ok_or_else(|| format!("{:?} is no number above 0", shown(value)))?;
            }
            "balancer.linkerd.io/failure-accrual-consecutive-min-penalty" => accrual.min_penalty_ms = millis(value)?,
            "balancer.linkerd.io/failure-accrual-consecutive-max-penalty" => {
                return Err("has no effect: the time of an ejection grows by the least penalty, to at most 5 minutes"
                    .to_owned());
            }
            // Ejections have a jitter of their own.
            "balancer.linkerd.io/failure-accrual-consecutive-jitter-ratio" => {}
            _ => return Err("has no effect; remove it".to_owned()),
        }
        Ok(())
    }
}

fn millis(text: &str) -> Result<u64, String> {
    let duration = parse_duration(text).filter(|duration| *duration >= Duration::from_millis(1));
    let millis = duration.and_then(|duration| u64::try_from(duration.as_millis()).ok());
    millis.ok_or_else(|| format!("{:?} is no duration such as \"300ms\"", shown(text)))
}

/// Reads conditions on statuses: `5xx`, `gateway-error`, statuses, and ranges of statuses.
fn statuses(text: &str) -> Result<Vec<String>, String> {
    let mut conditions = Vec::new();
    for word in words(text)? {
        if matches!(word, "5xx" | "gateway-error") {
            conditions.push(word.to_owned());
            continue;
        }
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        let status = |text: &str| text.trim().parse::<u16>().ok().filter(|status| (100..=599).contains(status));
        match (status(first), status(last)) {
            (Some(first), Some(last)) if first <= last => {
                conditions.extend((first..=last).map(|status| status.to_string()));
            }
            _ => return Err(format!("{:?} is no status, range, \"5xx\" or \"gateway-error\"", shown(word))),
        }
    }
    conditions.sort_unstable();
    conditions.dedup();
    Ok(conditions)
}

fn grpc_conditions(text: &str) -> Result<Vec<String>, String> {
    let words = words(text)?;
    match words.iter().find(|word| !GRPC.contains(word)) {
        Some(word) => Err(format!("{:?} is none of {}", shown(word), GRPC.join(", "))),
        None => Ok(words.into_iter().map(str::to_owned).collect()),
    }
}

fn words(text: &str) -> Result<Vec<&str>, String> {
    let words: Vec<&str> = text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    if words.is_empty() { Err("has no value that is read".to_owned()) } else { Ok(words) }
}
