//! A cluster: an API server in a process of its own, and a client of it.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::process::Process;
use crate::rig::Rig;

/// The number of concurrent writes. More would only wait in the server.
const WRITERS: usize = 32;

/// Options of `part api-server`, a process with the API server of labs and nothing else.
#[derive(Clone, Debug, clap::Args)]
pub struct ServerOptions {
    /// Listen address
    #[arg(long)]
    listen: SocketAddr,
    /// File to write an administrator's kubeconfig to
    #[arg(long)]
    kubeconfig: PathBuf,
}

/// Runs an API server until the process is killed.
pub fn serve(options: &ServerOptions) -> Result<()> {
    let listener = TcpListener::bind(options.listen)?;
    let (settings, kubeconfig) = apiserver::Options::for_tests(vec![listener])?;
    let temporary = options.kubeconfig.with_extension("new");
    std::fs::write(&temporary, kubeconfig)?;
    std::fs::rename(&temporary, &options.kubeconfig)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        apiserver::Server::new(settings)?.run(CancellationToken::new()).await;
        Ok(())
    })
}

/// A running API server.
#[derive(Debug)]
pub struct Cluster {
    /// The file with an administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    client: ApiClient,
    _process: Process,
}

/// A client of a cluster's REST API.
#[derive(Clone)]
pub struct ApiClient(Arc<kube::Client>);

impl std::fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiClient")
    }
}

impl Cluster {
    /// Starts a cluster's API server.
    pub async fn start(rig: &Rig, name: &str, address: SocketAddr) -> Result<Self> {
        let kubeconfig = rig.directory().join(format!("{name}.kubeconfig"));
        if kubeconfig.exists() {
            // Of an earlier cluster of that name.
            std::fs::remove_file(&kubeconfig)?;
        }
        let log = rig.log(&format!("apiserver-{name}"));
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["part", "api-server", "--listen", &address.to_string(), "--kubeconfig"]).arg(&kubeconfig);
        let mut process = Process::start(&format!("API server of {name}"), command, &log)?;
        process.listens_at(address, &log)?;
        while !kubeconfig.exists() {
            process.ensure_running(&log)?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let client = ApiClient::of(&kubeconfig).await.context("connecting to the API server")?;
        Ok(Self { kubeconfig, client, _process: process })
    }

    /// A client of the cluster.
    pub fn client(&self) -> &ApiClient {
        &self.client
    }
}

impl ApiClient {
    async fn of(kubeconfig: &Path) -> Result<Self> {
        let parsed = Kubeconfig::read_from(kubeconfig)?;
        let config = kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await?;
        Ok(Self(Arc::new(kube::Client::try_from(config)?)))
    }

    /// Sends one request and waits for the response.
    pub async fn send(&self, method: Method, path: &str, content: &str, body: &Value) -> Result<()> {
        self.answer(method, path, content, serde_json::to_vec(body)?).await.map(drop)
    }

    /// Sends one request, with a body unless that is null, and returns the response's body.
    pub async fn request(&self, method: Method, path: &str, body: &Value) -> Result<String> {
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        self.answer(method, path, "application/json", body).await
    }

    async fn answer(&self, method: Method, path: &str, content: &str, body: Vec<u8>) -> Result<String> {
        let request = Request::builder().method(&method).uri(path).header("content-type", content).body(body)?;
        self.0.request_text(request).await.with_context(|| format!("{method} {path}"))
    }

    /// Creates one object.
    pub async fn create(&self, (path, object): (String, Value)) -> Result<()> {
        self.send(Method::POST, &path, "application/json", &object).await
    }

    /// Creates many objects concurrently, in no order.
    pub async fn create_all(&self, objects: impl Iterator<Item = (String, Value)>) -> Result<()> {
        futures_util::stream::iter(objects.map(|object| self.create(object)))
            .buffer_unordered(WRITERS)
            .try_for_each(|()| std::future::ready(Ok(())))
            .await
    }

    /// Creates many objects concurrently, and returns their UIDs in order.
    pub async fn create_owners(&self, objects: impl Iterator<Item = (String, Value)>) -> Result<Vec<String>> {
        let make = |(path, object): (String, Value)| async move {
            let made: Value = serde_json::from_str(&self.request(Method::POST, &path, &object).await?)?;
            Ok::<_, anyhow::Error>(made["metadata"]["uid"].as_str().context("a uid")?.to_owned())
        };
        futures_util::stream::iter(objects.map(make)).buffered(WRITERS).try_collect().await
    }

    /// Replaces many objects concurrently, in no order.
    pub async fn replace_all(&self, objects: impl Iterator<Item = (String, Value)>) -> Result<()> {
        let put = |(path, object): (String, Value)| async move {
            self.send(Method::PUT, &path, "application/json", &object).await
        };
        futures_util::stream::iter(objects.map(put))
            .buffer_unordered(WRITERS)
            .try_for_each(|()| std::future::ready(Ok(())))
            .await
    }

    /// Sets the readiness of a slice's first endpoint.
    pub async fn set_ready(&self, slice: &str, ready: bool) -> Result<()> {
        let patch = json!([{"op": "replace", "path": "/endpoints/0/conditions/ready", "value": ready}]);
        self.send(Method::PATCH, slice, "application/json-patch+json", &patch).await
    }
}
