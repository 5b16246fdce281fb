//! The lab of the attacks, made by the `isthmus` command.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use install::debug_pages::DebugPages;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::process::{Process, Victim};

const TOPOLOGY: &str = include_str!("topology.yaml");
/// How long a lab may take to become ready, with programs that are not optimised, on a busy machine.
const READY: Duration = Duration::from_secs(300);
/// The namespace of the components.
pub const SYSTEM: &str = "isthmus-system";
/// The root namespace.
pub const ROOT: &str = "istio-system";

/// A running lab.
pub struct Lab {
    directory: tempfile::TempDir,
    launcher: Child,
    clients: BTreeMap<&'static str, Client>,
    /// The controller's debug pages.
    pub pages: DebugPages,
}

impl Lab {
    /// Starts the lab and waits until it is ready.
    pub async fn up(isthmus: &Path) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("isthmus-attacks-").tempdir()?;
        // A copy, so that the processes of this lab differ from those of others by the file that they run.
        std::fs::copy(isthmus, directory.path().join("isthmus"))
            .with_context(|| format!("{}: build it, or give --isthmus PATH", isthmus.display()))?;
        // A copy of this program too: it may be built anew meanwhile.
        std::fs::copy(std::env::current_exe()?, directory.path().join("isthmus-attacks"))?;
        std::fs::create_dir(directory.path().join("run"))?;
        let topology = directory.path().join("attacks.yaml");
        std::fs::write(&topology, TOPOLOGY)?;
        let mut command = program(directory.path());
        command.args(["lab", "up"]).arg(&topology).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut launcher = command.spawn().context("starting isthmus lab up")?;
        let ready = tokio::time::timeout(READY, until_ready(&mut launcher)).await;
        ready.with_context(|| format!("the lab is not ready after {READY:?}"))??;
        let mut clients = BTreeMap::new();
        for cluster in ["west", "east"] {
            let path = output(directory.path(), &["lab", "kubeconfig", cluster]).await?;
            let file = Kubeconfig::read_from(path.trim())?;
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
            clients.insert(cluster, Client::try_from(config)?);
        }
        let pages = DebugPages::new(clients["west"].clone(), SYSTEM);
        Ok(Self { directory, launcher, clients, pages })
    }

    /// Stops the lab, as Ctrl-C does.
    pub async fn down(mut self) {
        if let Some(id) = self.launcher.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::INT);
        }
        if tokio::time::timeout(Duration::from_secs(20), self.launcher.wait()).await.is_err() {
            let _ = self.launcher.kill().await;
        }
    }

    /// The program that all processes of the lab run.
    pub fn binary(&self) -> PathBuf {
        self.directory.path().join("isthmus")
    }

    /// The program of attackers. Pods of a lab see the files of the machine.
    pub fn attacker(&self) -> PathBuf {
        self.directory.path().join("isthmus-attacks")
    }

    /// The process of a victim.
    pub fn process(&self, victim: Victim) -> Result<Process> {
        Process::find(victim, &self.binary())
    }

    /// Starts a command in a pod of `west`, with piped output. It ends with the returned handle.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Result<Child> {
        let mut exec = program(self.directory.path());
        exec.args(["lab", "exec", "--no-stdin", pod, "--"]).args(command);
        exec.stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(exec.spawn()?)
    }

    /// The client of a cluster's administrator.
    pub fn client(&self, cluster: &str) -> Client {
        self.clients[cluster].clone()
    }

    /// The objects of a kind in a namespace of a cluster.
    pub fn objects(
        &self,
        cluster: &str,
        namespace: &str,
        group: &str,
        version: &str,
        kind: &str,
    ) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::namespaced_with(self.client(cluster), namespace, &resource)
    }

    /// The address of a workload's ready pod.
    pub async fn pod(&self, cluster: &str, namespace: &str, workload: &str) -> Result<IpAddr> {
        let pods = self.objects(cluster, namespace, "", "v1", "Pod");
        let list = pods.list(&ListParams::default().labels(&format!("app={workload}"))).await?;
        let ready = list.items.iter().filter(|pod| is_ready(pod));
        let address = ready.filter_map(|pod| pod.data["status"]["podIP"].as_str()?.parse().ok()).next();
        address.with_context(|| format!("{cluster}: no pod of {workload} is ready"))
    }

    /// The address of a cluster's gateway on the network between clusters.
    pub async fn gateway(&self, cluster: &str) -> Result<IpAddr> {
        let services = self.objects(cluster, SYSTEM, "", "v1", "Service");
        let service = services.get("isthmus-eastwestgateway").await?;
        let address = service.data["status"]["loadBalancer"]["ingress"][0]["ip"].as_str();
        Ok(address.context("the gateway has no address")?.parse()?)
    }

    /// The file with the mesh's roots.
    pub async fn roots(&self) -> Result<PathBuf> {
        let path = self.directory.path().join("roots.pem");
        let maps = self.objects("west", "default", "", "v1", "ConfigMap");
        let map = maps.get("istio-ca-root-cert").await?;
        std::fs::write(&path, map.data["data"]["root-cert.pem"].as_str().context("no roots")?)?;
        Ok(path)
    }

    /// The file with a token that enrols the service account of `attacker`.
    pub async fn token(&self) -> Result<PathBuf> {
        let path = self.directory.path().join("token");
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": ["istio-ca"], "expirationSeconds": 3600},
        });
        let accounts = self.objects("west", "default", "", "v1", "ServiceAccount");
        let made = accounts.create_subresource("token", "attacker", &PostParams::default(), &request).await;
        let made: Value = made.context("a token for attacker")?;
        std::fs::write(&path, made["status"]["token"].as_str().context("no token")?)?;
        Ok(path)
    }
}

/// Returns whether a pod is ready and stays.
pub fn is_ready(pod: &DynamicObject) -> bool {
    let conditions = pod.data["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().any(|it| it["type"] == "Ready" && it["status"] == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// The output of `isthmus ARGUMENTS`.
async fn output(directory: &Path, arguments: &[&str]) -> Result<String> {
    let output = program(directory).args(arguments).output().await?;
    if !output.status.success() {
        bail!("isthmus {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn program(directory: &Path) -> Command {
    let mut command = Command::new(directory.join("isthmus"));
    command.env("ISTHMUS_RUNTIME_DIR", directory.join("run"));
    command.env_remove("KUBECONFIG").env_remove("ISTHMUS_LAB");
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Waits until the launcher reports that the lab is ready, and then reads its output to nowhere.
async fn until_ready(launcher: &mut Child) -> Result<()> {
    let (Some(output), Some(errors)) = (launcher.stdout.take(), launcher.stderr.take()) else { bail!("no output") };
    let mut errors = BufReader::new(errors).lines();
    let said = tokio::spawn(async move {
        let mut said = String::new();
        while let Ok(Some(line)) = errors.next_line().await {
            if said.len() < 1 << 16 {
                said.push_str(&line);
                said.push('\n');
            }
        }
        said
    });
    let mut lines = BufReader::new(output).lines();
    while let Some(line) = lines.next_line().await? {
        if line.starts_with("ready in") {
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(());
        }
    }
    bail!("the lab ended:\n{}", said.await?)
}
