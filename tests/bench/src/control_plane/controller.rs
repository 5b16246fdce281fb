//! The controller's process and its debug page.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::objects::CLUSTERS;
use crate::process::{Process, Usage};
use crate::rig::Rig;

/// The listen address for discovery.
pub const DISCOVERY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 15012);
const MONITORING: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 15014);

/// A running controller.
#[derive(Debug)]
pub struct Controller {
    process: Process,
    started: Instant,
}

/// The response of `/debug/clusters`.
#[derive(Debug, Deserialize)]
struct ClustersPage {
    clusters: Vec<ClusterState>,
}

/// What the controller knows of a cluster.
#[derive(Debug, Deserialize)]
pub struct ClusterState {
    /// Whether every kind is listed.
    pub synced: bool,
    /// The number of services.
    pub services: usize,
    /// The number of endpoints.
    pub endpoints: usize,
    /// The number of exported services.
    pub exported: usize,
    pods: usize,
}

/// The state of each cluster to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedState {
    /// The number of services, all exported.
    pub services: usize,
    /// The number of endpoints, each with a pod. The first one of a service may be unready.
    pub endpoints: usize,
}

impl Controller {
    /// Starts the controller of the first cluster. `state` is the directory of its snapshots.
    pub fn start(rig: &Rig, kubeconfig: &Path, state: &Path, log: &str) -> Result<Self> {
        let log = rig.log(log);
        let mut command = Command::new(&rig.isthmus);
        command
            .arg("federation-controller")
            .args(["--cluster", CLUSTERS[0], "--network", &super::objects::network(0), "--log", "info"])
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg("--state-dir")
            .arg(state)
            .args(["--discovery-listen", &DISCOVERY.to_string(), "--monitoring-listen", &MONITORING.to_string()])
            .args(["--webhook-listen", "127.0.0.1:15017"]);
        let started = Instant::now();
        let mut process = Process::start("controller", command, &log)?;
        process.listens_at(MONITORING, &log)?;
        Ok(Self { process, started })
    }

    /// Waits until the controller has this state of both clusters, and returns the time since its start.
    pub async fn wait_for(&self, known: ExpectedState, within: Duration) -> Result<Duration> {
        let good = |row: &ClusterState| {
            let ExpectedState { services, endpoints } = known;
            let ready = (endpoints - services.min(endpoints)..=endpoints).contains(&row.endpoints);
            row.synced && ready && (row.services, row.exported, row.pods) == (services, services, endpoints)
        };
        let all = |rows: &[ClusterState]| rows.len() == CLUSTERS.len() && rows.iter().all(good);
        self.wait_until(&format!("{known:?}"), within, all).await
    }

    /// Waits until what the controller knows of the clusters is `good`, and returns the time since its start.
    pub async fn wait_until(
        &self,
        what: &str,
        within: Duration,
        good: impl Fn(&[ClusterState]) -> bool,
    ) -> Result<Duration> {
        let began = Instant::now();
        loop {
            let page = self.get("/debug/clusters");
            let page = page.as_deref().ok().and_then(|page| serde_json::from_str::<ClustersPage>(page).ok());
            if page.as_ref().is_some_and(|page| good(&page.clusters)) {
                return Ok(self.started.elapsed());
            }
            ensure!(began.elapsed() < within, "the controller does not know {what} within {within:?}: {page:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The resources that the controller used so far.
    pub fn usage(&self) -> Result<Usage> {
        self.process.usage()
    }

    /// The resident memory in bytes: all of it, and without pages of the program's file.
    pub fn resident(&self) -> Result<(u64, u64)> {
        Ok((self.process.resident()?, self.process.resident_own()?))
    }

    /// The resident memory of the idle controller: the smallest of several readings, because memory that only a list or a burst
    /// needed is returned when the process is idle.
    pub async fn settled(&self, for_seconds: u32) -> Result<(u64, u64)> {
        let mut least = self.resident()?;
        for _ in 0..for_seconds * 4 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let now = self.resident()?;
            least = (least.0.min(now.0), least.1.min(now.1));
        }
        Ok(least)
    }

    /// Stops the controller and waits for its end.
    pub fn stop(mut self) -> Result<()> {
        self.process.terminate()?;
        let status = self.process.wait()?;
        ensure!(status.success(), "the controller ended with {status}");
        Ok(())
    }

    fn get(&self, path: &str) -> Result<String> {
        let mut socket = TcpStream::connect_timeout(&MONITORING, Duration::from_secs(1))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer.split_once("\r\n\r\n").context("no answer")?.1.to_owned())
    }
}
