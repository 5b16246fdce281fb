//! A cluster: an API server in a process of its own, and the rig's own way to it.

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

/// Writes under way at once. More than this only wait in the server.
const WRITERS: usize = 32;

/// The rig's own API server process: the library that labs run, with nothing else in the process.
#[derive(Clone, Debug, clap::Args)]
pub struct ServerOptions {
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
    /// Where it puts an administrator's kubeconfig.
    #[arg(long)]
    kubeconfig: PathBuf,
}

/// Runs an API server until it is killed.
pub fn serve(options: &ServerOptions) -> Result<()> {
    let listener = TcpListener::bind(options.listen)?;
    let (settings, kubeconfig) = apiserver::Options::for_tests(vec![listener])?;
    let beside = options.kubeconfig.with_extension("new");
    std::fs::write(&beside, kubeconfig)?;
    std::fs::rename(&beside, &options.kubeconfig)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        apiserver::Server::new(settings)?.run(CancellationToken::new()).await;
        Ok(())
    })
}

/// A running API server.
#[derive(Debug)]
pub struct Cluster {
    /// An administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    client: Client,
    _process: Process,
}

/// The REST API of a cluster.
#[derive(Clone)]
pub struct Client(Arc<kube::Client>);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Cluster {
    /// Starts one.
    pub async fn start(rig: &Rig, name: &str, address: SocketAddr) -> Result<Self> {
        let kubeconfig = rig.directory().join(format!("{name}.kubeconfig"));
        let log = rig.log(&format!("apiserver-{name}"));
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["part", "api-server", "--listen", &address.to_string(), "--kubeconfig"]).arg(&kubeconfig);
        let mut process = Process::start(&format!("API server of {name}"), command, &log)?;
        process.listens_at(address, &log)?;
        while !kubeconfig.exists() {
            process.lives(&log)?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let client = Client::of(&kubeconfig).await.context("connecting to the API server")?;
        Ok(Self { kubeconfig, client, _process: process })
    }

    /// Its API.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

impl Client {
    async fn of(kubeconfig: &Path) -> Result<Self> {
        let parsed = Kubeconfig::read_from(kubeconfig)?;
        let config = kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await?;
        Ok(Self(Arc::new(kube::Client::try_from(config)?)))
    }

    /// Sends one request and waits for its answer.
    pub async fn send(&self, method: Method, path: &str, content: &str, body: &Value) -> Result<()> {
        self.answer(method, path, content, serde_json::to_vec(body)?).await.map(drop)
    }

    /// Sends one request, with a body unless that is null, and returns what is answered.
    pub async fn ask(&self, method: Method, path: &str, body: &Value) -> Result<String> {
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

    /// Creates many objects, some at a time, in no order.
    pub async fn create_all(&self, objects: impl Iterator<Item = (String, Value)>) -> Result<()> {
        futures_util::stream::iter(objects.map(|object| self.create(object)))
            .buffer_unordered(WRITERS)
            .try_for_each(|()| std::future::ready(Ok(())))
            .await
    }

    /// Creates many objects, some at a time, and returns their uids in order.
    pub async fn create_owners(&self, objects: impl Iterator<Item = (String, Value)>) -> Result<Vec<String>> {
        let make = |(path, object): (String, Value)| async move {
            let made: Value = serde_json::from_str(&self.ask(Method::POST, &path, &object).await?)?;
            Ok::<_, anyhow::Error>(made["metadata"]["uid"].as_str().context("a uid")?.to_owned())
        };
        futures_util::stream::iter(objects.map(make)).buffered(WRITERS).try_collect().await
    }

    /// Replaces many objects, some at a time, in no order.
    pub async fn replace_all(&self, objects: impl Iterator<Item = (String, Value)>) -> Result<()> {
        let put = |(path, object): (String, Value)| async move {
            self.send(Method::PUT, &path, "application/json", &object).await
        };
        futures_util::stream::iter(objects.map(put))
            .buffer_unordered(WRITERS)
            .try_for_each(|()| std::future::ready(Ok(())))
            .await
    }

    /// Says of the first endpoint of a slice whether it is ready.
    pub async fn set_ready(&self, slice: &str, ready: bool) -> Result<()> {
        let patch = json!([{"op": "replace", "path": "/endpoints/0/conditions/ready", "value": ready}]);
        self.send(Method::PATCH, slice, "application/json-patch+json", &patch).await
    }
}
