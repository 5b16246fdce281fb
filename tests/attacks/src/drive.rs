//! Runs one attack: traffic, the attackers, readings of the attacked process, and rest.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::future::join_all;
use kube::api::{DeleteParams, DynamicObject, PostParams};
use serde_json::json;
use tokio::process::Child;

use crate::attack::{ATTACKER, Attack, Scene};
use crate::inside::api_server::ApiServer;
use crate::inside::{Order, Weapon};
use crate::lab::{Lab, ROOT, SYSTEM};
use crate::process::Process;
use crate::traffic::Traffic;
use crate::verdict::{self, Calls, Readings};

/// The longest time of traffic before the attack.
const BEFORE: Duration = Duration::from_secs(10);
/// The shortest.
const BEFORE_AT_LEAST: Duration = Duration::from_secs(3);
/// The time of traffic after the attack.
const AFTER: Duration = Duration::from_secs(5);
/// The time for the attacked process to come to rest. A proxy closes a connection to an application that has been idle for 60 to
/// 70 s.
const REST: Duration = Duration::from_secs(90);
/// The interval of readings.
const INTERVAL: Duration = Duration::from_millis(200);
/// How long attackers may take to stop.
const STOP: Duration = Duration::from_secs(20);
/// The port of the hostile API server in the attacker's pod.
const API_PORT: u16 = 6443;
/// The name of the hostile cluster.
const ROGUE: &str = "rogue";

/// What happened during an attack.
#[derive(Debug)]
pub struct Outcome {
    /// The attack.
    pub attack: &'static Attack,
    /// The traffic beside it.
    pub traffic: Vec<(Traffic, Calls)>,
    /// The readings of the attacked process.
    pub readings: Readings,
    /// What the attackers report.
    pub attackers: Vec<String>,
    /// The bounds that were exceeded.
    pub faults: Vec<String>,
}

/// Runs an attack for `duration`.
pub async fn run(lab: &Lab, attack: &'static Attack, duration: Duration) -> Result<Outcome> {
    let scene = scene(lab).await?;
    let process = lab.process(attack.victim)?;
    let before = duration.clamp(BEFORE_AT_LEAST, BEFORE);
    let (begin, end) = (before, before + duration);
    let origin = Instant::now();
    let readings = Arc::new(Mutex::new(Readings::default()));
    let watching = tokio::spawn(watch(process.clone(), origin + begin, Arc::clone(&readings)));
    let sent = attack.traffic.iter().map(|kind| async move { (*kind, kind.send(lab, origin, end + AFTER).await) });
    let attackers = async {
        tokio::time::sleep_until((origin + begin).into()).await;
        assault(lab, attack, &scene, duration).await
    };
    let (traffic, attackers) = tokio::join!(join_all(sent), attackers);
    at_rest(&readings).await;
    watching.abort();

    let readings = *readings.lock().unwrap_or_else(PoisonError::into_inner);
    let mut faults: Vec<String> =
        process.read().err().map(|error| format!("{}: {error:#}", attack.victim)).into_iter().collect();
    let mut calls = Vec::new();
    for (kind, samples) in traffic {
        match samples {
            Ok(samples) => calls.push((kind, Calls::of(&samples, begin, end))),
            Err(error) => faults.push(format!("{kind}: {error:#}")),
        }
    }
    faults.extend(verdict::faults(&calls, &readings, attack.bounds));
    Ok(Outcome { attack, traffic: calls, readings, attackers: attackers?, faults })
}

async fn scene(lab: &Lab) -> Result<Scene> {
    Ok(Scene {
        local: lab.pod("west", "default", "local").await?,
        controller: lab.pod("west", SYSTEM, "isthmus-controller").await?,
        gateways: [lab.gateway("west").await?, lab.gateway("east").await?],
        east_gateway: lab.pod("east", SYSTEM, "isthmus-eastwestgateway").await?,
        roots: lab.roots().await?,
        token: lab.token().await?,
    })
}

/// Reads the process until the task is ended: the last reading before `begin`, the largest values from then on, and the
/// last ones.
async fn watch(process: Process, begin: Instant, readings: Arc<Mutex<Readings>>) {
    while let Ok(reading) = process.read() {
        {
            let mut kept = readings.lock().unwrap_or_else(PoisonError::into_inner);
            if Instant::now() < begin {
                kept.before = kept.before.max(reading);
            }
            *kept = Readings { peak: kept.peak.max(reading), rest: reading, ..*kept };
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Waits until the process is at rest, but not longer than [`REST`].
async fn at_rest(readings: &Mutex<Readings>) {
    let start = Instant::now();
    let rests = || readings.lock().unwrap_or_else(PoisonError::into_inner).is_at_rest();
    while !rests() && start.elapsed() < REST {
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Starts the attackers, and returns what they report when they have stopped.
async fn assault(lab: &Lab, attack: &Attack, scene: &Scene, duration: Duration) -> Result<Vec<String>> {
    let mut running = Vec::new();
    for (pod, weapon) in (attack.attackers)(scene) {
        running.push(start(lab, pod, weapon, duration)?);
    }
    if let Some(content) = attack.rogue {
        let server = ApiServer { port: API_PORT, content };
        running.push(start(lab, ATTACKER, Weapon::ApiServer(server), duration)?);
        join(lab).await?;
    }
    tokio::time::sleep(duration).await;
    if attack.rogue.is_some() {
        let secrets = lab.objects("west", ROOT, "", "v1", "Secret");
        secrets.delete(&secret_name(), &DeleteParams::default()).await.context("removing the rogue cluster")?;
    }
    let mut reports = Vec::new();
    for attacker in running {
        let output =
            tokio::time::timeout(STOP, attacker.wait_with_output()).await.context("an attacker does not stop")??;
        let [report, errors] =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).trim().to_owned());
        reports.push(if errors.is_empty() { report } else { format!("{report} {errors}").trim().to_owned() });
    }
    Ok(reports)
}

fn start(lab: &Lab, pod: &str, weapon: Weapon, duration: Duration) -> Result<Child> {
    let order = serde_json::to_string(&Order { weapon, seconds: duration.as_secs_f64() })?;
    lab.exec(pod, &[&lab.attacker().display().to_string(), "inside", &order])
}

fn secret_name() -> String {
    format!("istio-remote-secret-{ROGUE}")
}

/// Joins the hostile API server in the pod of `attacker` as a remote cluster.
async fn join(lab: &Lab) -> Result<()> {
    let server = format!("https://{}:{API_PORT}", lab.pod("west", "default", "attacker").await?);
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": ROGUE,
        "clusters": [{"name": ROGUE, "cluster": {"server": server, "insecure-skip-tls-verify": true}}],
        "contexts": [{"name": ROGUE, "context": {"cluster": ROGUE, "user": ROGUE}}],
        "users": [{"name": ROGUE, "user": {"token": "rogue"}}],
    });
    let secret: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": secret_name(), "labels": {"istio/multiCluster": "true"}},
        "stringData": {ROGUE: kubeconfig.to_string()},
    }))?;
    let secrets = lab.objects("west", ROOT, "", "v1", "Secret");
    secrets.create(&PostParams::default(), &secret).await.context("joining the rogue cluster")?;
    Ok(())
}
