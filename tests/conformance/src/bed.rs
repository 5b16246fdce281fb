//! The test bed: a lab of one cluster, with servers without sidecars, and clients whose sidecars are under test.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, LogParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;

use crate::istio::Programs;
use crate::ledger::Ledger;
use crate::{certificates, client, istio, server};
use launcher::Launcher;

mod admission;
mod launcher;
mod objects;
pub(crate) mod pods;
pub(crate) mod settings;

/// The clients, as NAMESPACE/NAME.
pub const CLIENTS: [&str; 2] = ["shop/frontend", "bank/teller"];
/// How long pods may take to become ready.
const READY: Duration = Duration::from_secs(120);
/// How long a configuration may take to be in force.
const IN_FORCE: Duration = Duration::from_secs(60);

/// What the clients' sidecars are.
#[derive(Clone, Debug)]
pub enum Mesh {
    /// Those of Isthmus, injected by its controller.
    Isthmus,
    /// Envoys under istiod.
    Istio(Programs),
}

/// A running test bed.
pub struct Bed {
    directory: tempfile::TempDir,
    launcher: Launcher,
    kubeconfig: Kubeconfig,
    client: Client,
    ledger: Ledger,
    is_istio: bool,
    addresses: std::sync::Mutex<BTreeMap<String, IpAddr>>,
}

impl Bed {
    /// Starts the lab and the pods of routing cases.
    ///
    /// # Errors
    /// Returns an error if they are not ready in time.
    pub async fn up(isthmus: &Path, mesh: &Mesh) -> Result<Self> {
        let bed = Self::start(isthmus, mesh).await?;
        bed.apply(pods::namespaces(mesh)).await?;
        bed.apply(pods::accounts()).await?;
        bed.apply(pods::servers(bed.directory.path())).await?;
        let clients = CLIENTS.map(|client| pods::client(bed.directory.path(), client));
        if let Mesh::Istio(programs) = mesh {
            let programs = programs.copied(bed.directory.path())?;
            bed.apply(pods::plaintext()).await?;
            let istiod = bed.istiod(&programs, istio::ROUTING, &[]).await?;
            let with_envoy = |pod| programs.with_envoy(pod, bed.directory.path(), istiod, "client");
            bed.apply(clients.map(with_envoy).into()).await?;
        } else {
            bed.apply(clients.into()).await?;
        }
        for pod in pods::SERVERS.iter().map(|server| (server.namespace, server.pod)).chain(CLIENTS.map(split)) {
            bed.ready(pod.0, pod.1).await?;
        }
        Ok(bed)
    }

    /// Starts the lab of most beds, without pods.
    pub(crate) async fn start(isthmus: &Path, mesh: &Mesh) -> Result<Self> {
        Self::of(isthmus, mesh, include_str!("topology.yaml")).await
    }

    /// Starts a lab of a topology. What is applied is applied to its cluster west.
    pub(crate) async fn of(isthmus: &Path, mesh: &Mesh, topology: &str) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("isthmus-conformance-").tempdir()?;
        open_to_all(directory.path())?;
        let path = |name: &str| directory.path().join(name);
        // Copies, because the programs may be built anew meanwhile.
        std::fs::copy(isthmus, path("isthmus"))
            .with_context(|| format!("{}: build it, or give --isthmus PATH", isthmus.display()))?;
        std::fs::copy(own_program(isthmus)?, path("isthmus-conformance"))?;
        std::fs::write(path("conformance.yaml"), topology)?;
        certificates::write(directory.path())?;
        for entry in std::fs::read_dir(directory.path())? {
            open_to_all(&entry?.path())?;
        }
        let ledger = Ledger::serve(&server::ledger_socket(directory.path()))?;
        let launcher = Launcher::up(directory.path(), &path("conformance.yaml")).await?;
        let kubeconfig = launcher.output(&["lab", "kubeconfig", "west"]).await?;
        let kubeconfig = Kubeconfig::read_from(kubeconfig.trim())?;
        let config = Config::from_custom_kubeconfig(kubeconfig.clone(), &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        let is_istio = matches!(mesh, Mesh::Istio(_));
        Ok(Self { directory, launcher, kubeconfig, client, ledger, is_istio, addresses: Default::default() })
    }

    /// Starts istiod with further variables of its environment, and returns its address.
    pub(crate) async fn istiod(
        &self,
        programs: &Programs,
        settings: &str,
        environment: &[(&str, &str)],
    ) -> Result<IpAddr> {
        self.without_admission().await?;
        let istiod = programs.istiod(self.directory.path(), self.kubeconfig.clone(), settings, environment)?;
        self.apply(vec![istiod]).await?;
        self.ready("istio-system", "istiod").await
    }

    /// Stops the lab.
    pub async fn down(self) {
        self.launcher.down().await;
    }

    /// Whether the proxies are Istio's.
    pub fn is_istio(&self) -> bool {
        self.is_istio
    }

    /// Runs `isthmus ARGUMENTS`, and returns whether it succeeds, and its output.
    pub(crate) async fn isthmus(&self, arguments: &[&str]) -> Result<(bool, String)> {
        self.launcher.run(arguments).await
    }

    /// A client of the API server of west.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Writes a file of [`Bed::directory`], which pods can read.
    pub(crate) fn write(&self, name: &str, content: &str) -> Result<()> {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content)?;
        open_to_all(&path)
    }

    /// The directory that pods see as well.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The requests that arrived at servers.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The socket of a client.
    pub fn client_socket(&self, client: &str) -> PathBuf {
        client::socket(self.directory.path(), client)
    }

    /// The address of a Service, as `NAME.NAMESPACE`.
    ///
    /// # Errors
    /// Returns an error if it has not been applied.
    pub fn address(&self, service: &str) -> Result<IpAddr> {
        let addresses = self.addresses.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        addresses.get(service).copied().with_context(|| format!("no Service is called {service}"))
    }

    /// Removes the webhooks that refuse objects: they are Isthmus's, not Istio's.
    async fn without_admission(&self) -> Result<()> {
        let all: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        all.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
        Ok(())
    }

    /// Waits until a pod is ready, and returns its address.
    pub(crate) async fn ready(&self, namespace: &str, name: &str) -> Result<IpAddr> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let begun = Instant::now();
        loop {
            let status = pods.get(name).await?.status.unwrap_or_default();
            let is_ready = |condition: &k8s_openapi::api::core::v1::PodCondition| {
                condition.type_ == "Ready" && condition.status == "True"
            };
            if status.conditions.iter().flatten().any(is_ready) {
                return status.pod_ip.and_then(|ip| ip.parse().ok()).context("a ready pod without an address");
            }
            if begun.elapsed() > READY {
                let state = serde_json::to_string(&json!([status.container_statuses, status.init_container_statuses]))?;
                let mut logs = String::new();
                for container in status.container_statuses.iter().flatten() {
                    logs += &self.log(namespace, name, &container.name).await.unwrap_or_default();
                }
                bail!("pod {namespace}/{name} is not ready after {READY:?}: {state}\n{logs}");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The log of a container.
    pub(crate) async fn log(&self, namespace: &str, pod: &str, container: &str) -> Result<String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let parameters = LogParams { container: Some(container.to_owned()), ..LogParams::default() };
        Ok(pods.logs(pod, &parameters).await?)
    }

    /// The log of a client's proxy.
    ///
    /// # Errors
    /// Returns an error if it cannot be read.
    pub async fn proxy_log(&self, client: &str) -> Result<String> {
        let (namespace, name) = split(client);
        match self.is_istio {
            true => Ok(std::fs::read_to_string(istio::access_log(self.directory.path()))?),
            false => self.log(namespace, name, "isthmus-proxy").await,
        }
    }

    /// Waits until what was applied before is in force in the proxies of clients: a route that is applied last is.
    ///
    /// # Errors
    /// Returns an error if it takes too long.
    pub async fn in_force(&self, generation: usize, clients: &[&str]) -> Result<()> {
        let mark = format!("generation {generation}");
        self.apply(pods::sentinel(&mark)).await?;
        let address = (self.address("sentinel.shop")?, 80).into();
        let order = client::Order::get(address, "sentinel.shop.svc.cluster.local", "sentinel");
        for client in clients {
            let begun = Instant::now();
            loop {
                let replies = client::order(&self.client_socket(client), &order).await?;
                if replies.iter().any(|reply| reply.body == mark) {
                    break;
                }
                if begun.elapsed() > IN_FORCE {
                    let (namespace, name) = split(client);
                    let container = if self.is_istio { "envoy" } else { "isthmus-proxy" };
                    let log = self.log(namespace, name, container).await.unwrap_or_default();
                    let last: Vec<&str> = log.lines().rev().take(20).collect();
                    bail!("the configuration is not in force for {client} after {IN_FORCE:?}: {replies:?}\n{last:#?}");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }
}

pub(crate) fn split(client: &str) -> (&str, &str) {
    client.split_once('/').unwrap_or(("default", client))
}

/// This program: beside `isthmus` if tests run, which are programs of their own.
fn own_program(isthmus: &Path) -> Result<PathBuf> {
    let current = std::env::current_exe()?;
    if current.file_name().is_some_and(|name| name == "isthmus-conformance") {
        return Ok(current);
    }
    Ok(isthmus.with_file_name("isthmus-conformance"))
}

/// Lets the users of containers read a file or a directory.
fn open_to_all(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?)
}
