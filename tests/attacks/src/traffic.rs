//! Legitimate traffic: calls between services, admission of pods, enrolment of new proxies, and changes in another cluster.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::lab::{Lab, is_ready};

/// Requests per second of each stream of calls.
const RATE: u32 = 50;
/// New connections per second across clusters.
const CONNECTION_RATE: u32 = 20;
/// The time that a caller waits, for every kind of request but a restart.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a pod may take to be replaced by a ready one, with programs that are not optimised.
const RESTART: Duration = Duration::from_secs(30);

/// A kind of legitimate traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Calls from `frontend` to `local`, through two sidecars of one cluster.
    Local,
    /// Calls from `frontend` to `ratings` in the other cluster, through its gateway.
    Across,
    /// New connections from `frontend` to `ratings` in the other cluster, through its gateway, each with an echo of a line.
    Connections,
    /// Creation of pods in `west`, as a dry run, which the webhook injects.
    Admission,
    /// Replacement of the pod of `canary`: its sidecar enrols.
    Enrolment,
    /// New Services in `east`, until the controller has them.
    Change,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When it was due, from the beginning of the traffic.
    pub at: Duration,
    /// How long it took.
    pub latency: Duration,
    /// Why it failed.
    pub error: Option<String>,
}

impl std::fmt::Display for Traffic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Traffic::Local => "calls in a cluster",
            Traffic::Across => "calls across clusters",
            Traffic::Connections => "new connections across clusters",
            Traffic::Admission => "admission",
            Traffic::Enrolment => "enrolment",
            Traffic::Change => "changes in east",
        })
    }
}

impl Traffic {
    /// Sends the traffic for `duration` from `origin` on, and returns all requests.
    pub async fn send(self, lab: &Lab, origin: Instant, duration: Duration) -> Result<Vec<Sample>> {
        match self {
            Traffic::Local => calls(lab, "http://local:9080/", RATE, origin, duration).await,
            Traffic::Across => calls(lab, "http://ratings:9080/", RATE, origin, duration).await,
            Traffic::Connections => calls(lab, "tcp://ratings:9090/", CONNECTION_RATE, origin, duration).await,
            Traffic::Admission => repeat(origin, duration, Duration::from_millis(500), PATIENCE, || admit(lab)).await,
            Traffic::Enrolment => repeat(origin, duration, Duration::from_secs(2), RESTART, || restart(lab)).await,
            Traffic::Change => repeat(origin, duration, Duration::from_secs(1), PATIENCE, || change(lab)).await,
        }
    }
}

/// The output of the test application as a client.
#[derive(Deserialize)]
struct Timeline {
    requests: Vec<Call>,
}

#[derive(Deserialize)]
struct Call {
    at_ms: f64,
    latency_ms: f64,
    ok: bool,
    status: Option<u16>,
    error: Option<String>,
}

async fn calls(lab: &Lab, url: &str, rate: u32, origin: Instant, duration: Duration) -> Result<Vec<Sample>> {
    let (rate, seconds) = (rate.to_string(), format!("{}s", duration.as_secs()));
    let begun = origin.elapsed();
    let client = ["isthmus", "testapp", "--call", url, "--rate", &rate, "--duration", &seconds, "--output", "json"];
    let output = lab.exec("west/default/frontend", &client)?.wait_with_output().await?;
    let timeline: Timeline = serde_json::from_slice(&output.stdout).with_context(|| {
        let status: ExitStatus = output.status;
        format!("calls to {url} ({status}): {}", String::from_utf8_lossy(&output.stderr))
    })?;
    let sample = |call: Call| Sample {
        at: begun + Duration::from_secs_f64(call.at_ms / 1e3),
        latency: Duration::from_secs_f64(call.latency_ms / 1e3),
        error: (!call.ok).then(|| match (call.error, call.status) {
            (Some(error), _) => error,
            (None, status) => format!("status {}", status.unwrap_or_default()),
        }),
    };
    Ok(timeline.requests.into_iter().map(sample).collect())
}

/// Repeats a request, one at a time with a pause between.
async fn repeat<F: Future<Output = Result<()>>>(
    origin: Instant,
    duration: Duration,
    pause: Duration,
    patience: Duration,
    mut request: impl FnMut() -> F,
) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    while origin.elapsed() < duration {
        let at = origin.elapsed();
        let error = match tokio::time::timeout(patience, request()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some(format!("no answer within {patience:?}")),
        };
        samples.push(Sample { at, latency: origin.elapsed() - at, error });
        tokio::time::sleep(pause).await;
    }
    Ok(samples)
}

async fn admit(lab: &Lab) -> Result<()> {
    let pod: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "probe-", "labels": {"app": "probe"}},
        "spec": {"containers": [{"name": "probe", "image": "isthmus/testapp"}]},
    }))?;
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let made = lab.objects("west", "default", "", "v1", "Pod").create(&params, &pod).await?;
    let of = |list: &str| made.data["spec"][list].as_array().map_or(0, Vec::len);
    if of("containers") + of("initContainers") < 2 {
        bail!("the pod was admitted without a sidecar");
    }
    Ok(())
}

async fn restart(lab: &Lab) -> Result<()> {
    let pods = lab.objects("west", "default", "", "v1", "Pod");
    let of_canary = ListParams::default().labels("app=canary");
    let before: Vec<String> = pods.list(&of_canary).await?.items.iter().map(|pod| pod.name_any()).collect();
    for name in &before {
        pods.delete(name, &DeleteParams::default().grace_period(0)).await?;
    }
    loop {
        let now = pods.list(&of_canary).await?;
        if now.items.iter().any(|pod| is_ready(pod) && !before.contains(&pod.name_any())) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn change(lab: &Lab) -> Result<()> {
    let before = services_of_east(lab).await?;
    let service: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"generateName": "change-"},
        "spec": {"selector": {"app": "none"}, "ports": [{"name": "http", "port": 80}]},
    }))?;
    lab.objects("east", "default", "", "v1", "Service").create(&PostParams::default(), &service).await?;
    while services_of_east(lab).await? <= before {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// The number of services of `east` that the controller has.
async fn services_of_east(lab: &Lab) -> Result<u64> {
    let page: Value = serde_json::from_str(&lab.pages.read("clusters").await?)?;
    let clusters = page["clusters"].as_array().into_iter().flatten();
    let east = clusters.filter(|cluster| cluster["name"] == "east").find_map(|cluster| cluster["services"].as_u64());
    east.context("the controller does not know east")
}
