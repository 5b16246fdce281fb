//! Startup, readiness and liveness probes.
//!
//! As from a kubelet, requests come from outside of the pod (from the cluster's network), to the pod's address. Unlike
//! in Kubernetes, a startup or readiness probe runs every tenth of a second (or at its period, if that is shorter) until its
//! first success, so that a lab is up as soon as its pods are. The time that a startup probe allows, failure threshold
//! times period, is the same.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use probe::http::{Get, authority, is_success};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Period until the first success, and the period of a probe that runs a command.
const EAGER: Duration = Duration::from_millis(100);
const EAGER_COMMAND: Duration = Duration::from_millis(500);

/// The kind of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    /// Returns the name in events.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// A result of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ProbeFinding {
    /// The probe's state has changed.
    Now(bool),
    /// One attempt failed, with the reason.
    Failed(String),
}

/// Runs a command in the container. An error is the command's output.
pub(super) type ProbeExec =
    std::sync::Arc<dyn Fn(Vec<String>) -> futures_util::future::BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// The target of a probe.
#[derive(Clone)]
pub(super) struct ProbeTarget {
    pub address: IpAddr,
    pub container: Container,
    pub exec: ProbeExec,
}

/// Counts consecutive results against a probe's thresholds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Threshold {
    needed: [u32; 2],
    streak: (bool, u32),
    state: Option<bool>,
}

impl Threshold {
    pub(super) fn new(success: u32, failure: u32) -> Self {
        Self { needed: [failure.max(1), success.max(1)], streak: (false, 0), state: None }
    }

    /// Adds a result. Returns the state if it has changed.
    pub(super) fn note(&mut self, success: bool) -> Option<bool> {
        self.streak = if self.streak.0 == success { (success, self.streak.1 + 1) } else { (success, 1) };
        let reached = self.streak.1 >= self.needed[usize::from(success)];
        (reached && self.state != Some(success)).then(|| {
            self.state = Some(success);
            success
        })
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
}

/// Probes until the receiver is dropped. A startup probe ends with its first success, or after the time that it allows.
pub(super) async fn watch(kind: ProbeKind, probe: Probe, target: ProbeTarget, findings: mpsc::Sender<ProbeFinding>) {
    let period = seconds(probe.period_seconds.filter(|period| *period > 0), 10);
    let timeout = seconds(probe.timeout_seconds.filter(|timeout| *timeout > 0), 1);
    let failures = probe.failure_threshold.and_then(|count| u32::try_from(count).ok()).unwrap_or(3);
    let successes = probe.success_threshold.and_then(|count| u32::try_from(count).ok()).unwrap_or(1);
    let mut threshold = Threshold::new(successes, failures);
    tokio::time::sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let begun = Instant::now();
    let eager = if probe.exec.is_some() { EAGER_COMMAND } else { EAGER };
    let mut ever = false;
    loop {
        let tried = Instant::now();
        let outcome = tokio::time::timeout(timeout, attempt(&probe, &target)).await;
        let outcome = outcome.unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")));
        let success = outcome.is_ok();
        // Additional attempts before the first success do not count towards the failure threshold.
        let counts = success || ever || kind == ProbeKind::Liveness;
        if let Err(message) = outcome
            && findings.send(ProbeFinding::Failed(message)).await.is_err()
        {
            return;
        }
        let changed = if counts {
            threshold.note(success)
        } else {
            let over = begun.elapsed() >= period * failures.saturating_sub(1).max(1);
            (kind == ProbeKind::Startup && over).then_some(false)
        };
        ever |= success;
        if let Some(state) = changed
            && (findings.send(ProbeFinding::Now(state)).await.is_err() || kind == ProbeKind::Startup)
        {
            return;
        }
        let pause = if ever || kind == ProbeKind::Liveness { period } else { period.min(eager) };
        tokio::time::sleep_until(tried + pause).await;
        if findings.is_closed() {
            return;
        }
    }
}

/// Makes one attempt. An error is the text of the event.
async fn attempt(probe: &Probe, target: &ProbeTarget) -> Result<(), String> {
    if let Some(wanted) = &probe.http_get {
        return get(wanted, &target.container, target.address).await;
    }
    if let Some(wanted) = &probe.tcp_socket {
        let port = port(&wanted.port, &target.container)?;
        let host = wanted.host.clone().filter(|host| !host.is_empty()).unwrap_or(target.address.to_string());
        return match TcpStream::connect((host.as_str(), port)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("dial tcp {}: {error}", authority(&host, port))),
        };
    }
    if let Some(wanted) = &probe.grpc {
        let port = u16::try_from(wanted.port).map_err(|_| format!("port {} is out of range", wanted.port))?;
        let service = wanted.service.as_deref().unwrap_or_default();
        let address = SocketAddr::new(target.address, port);
        let stream = TcpStream::connect(address).await.map_err(|error| format!("dial {address}: {error}"))?;
        return probe::grpc::check(stream, address, service).await;
    }
    if let Some(wanted) = &probe.exec {
        return (target.exec)(wanted.command.clone().unwrap_or_default()).await;
    }
    Err("the probe has no httpGet, tcpSocket, grpc or exec".into())
}

/// Sends the request of a probe or hook. Every status from 200 to 399 is a success.
pub(super) async fn get(wanted: &HTTPGetAction, container: &Container, address: IpAddr) -> Result<(), String> {
    let port = port(&wanted.port, container)?;
    let host = wanted.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| address.to_string());
    let https = wanted.scheme.as_deref() == Some("HTTPS");
    let headers = wanted.http_headers.iter().flatten().map(|header| (header.name.clone(), header.value.clone()));
    let path = wanted.path.clone().unwrap_or_else(|| "/".to_owned());
    let get = Get { https, path, headers: headers.collect() };
    let answer = async {
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|error| error.to_string())?;
        match get.send(stream, &host, port).await? {
            status if is_success(status) => Ok(()),
            status => Err(format!("HTTP probe failed with statuscode: {status}")),
        }
    };
    let scheme = if https { "https" } else { "http" };
    answer.await.map_err(|error| format!("{scheme}://{}{}: {error}", authority(&host, port), get.path))
}

/// Returns a port by number, or by the name that the container gives it.
pub(super) fn port(wanted: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match wanted {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let mut named = container.ports.iter().flatten().filter(|port| port.name.as_ref() == Some(name));
            named.next().map(|port| port.container_port).or_else(|| name.parse().ok())
        }
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .ok_or_else(|| format!("container {:?} has no port {wanted:?}", container.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_streaks() {
        let mut readiness = Threshold::new(2, 3);
        let changes: Vec<_> = [true, true, true, false, false, true, false, false, false, false]
            .into_iter()
            .map(|success| readiness.note(success))
            .collect();
        assert_eq!(changes, [None, Some(true), None, None, None, None, None, None, Some(false), None]);
    }

    #[tokio::test]
    async fn a_startup_probe_fails_after_its_time() {
        tokio::time::pause();
        let probe: Probe = serde_json::from_value(serde_json::json!({
            "exec": {"command": ["false"]}, "periodSeconds": 2, "failureThreshold": 3}))
        .unwrap();
        let exec: ProbeExec = std::sync::Arc::new(|_| Box::pin(async { Err("no".to_owned()) }));
        let target = ProbeTarget { address: [127, 0, 0, 1].into(), container: Container::default(), exec };
        let (sender, mut findings) = mpsc::channel(100);
        let begun = Instant::now();
        tokio::spawn(watch(ProbeKind::Startup, probe, target, sender));
        let mut failures = 0;
        while let Some(finding) = findings.recv().await {
            match finding {
                ProbeFinding::Failed(_) => failures += 1,
                ProbeFinding::Now(state) => assert!(!state),
            }
        }
        assert_eq!((failures, begun.elapsed().as_secs()), (9, 4));
    }
}
