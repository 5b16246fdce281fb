//! The test bed of policies.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use super::pods;
use super::tokens::Keys;
use crate::bed::settings::Settings;
use crate::bed::{Bed, Mesh};
use crate::client::{self, Order};
use crate::istio;
use crate::places::{CLIENTS, PLAIN, PodIdentity};

/// How long a policy may take to be in force.
const IN_FORCE: Duration = Duration::from_secs(60);
/// The time between two looks.
const LOOK: Duration = Duration::from_millis(25);
/// Envoy takes connections with new policies a moment after it shows them; and policies of one kind may overtake those of another.
const SETTLE: [Duration; 2] = [Duration::from_millis(150), Duration::from_millis(500)];
/// The port of the proxies' pages.
const PAGES: u16 = 15000;

/// A running test bed of policies.
pub struct PolicyBed {
    pub(super) bed: Bed,
    pub(super) keys: Keys,
    addresses: BTreeMap<String, IpAddr>,
    settings: Settings,
    generation: usize,
    istiod: Option<IpAddr>,
}

/// The settings of the mesh, beside those of all beds.
fn settings() -> Value {
    let http = json!({
        "service": "authorizer.shop.svc.cluster.local", "port": 8000, "timeout": "5s",
        "includeRequestHeadersInCheck": ["x-ext-authz", "x-ext-*"],
        "includeAdditionalHeadersInCheck": {"x-added": "by-the-mesh"},
        "headersToUpstreamOnAllow": ["x-authorized-*"], "headersToDownstreamOnDeny": ["x-denied"],
        "headersToDownstreamOnAllow": ["x-allowed"],
    });
    let mut prefixed = http.clone();
    (prefixed["pathPrefix"], prefixed["includeRequestBodyInCheck"]) =
        (json!("/prefix"), json!({"maxRequestBytes": 64, "allowPartialMessage": true}));
    let silent = |open: bool| {
        json!({
            "service": "authorizer.shop.svc.cluster.local", "port": 8001, "timeout": "0.5s", "failOpen": open, "statusOnError": "503",
        })
    };
    json!({
        "enableAutoMtls": true,
        "trustDomainAliases": ["old.example", "older.example"],
        "extensionProviders": [
            {"name": "by-http", "envoyExtAuthzHttp": http},
            {"name": "with-prefix", "envoyExtAuthzHttp": prefixed},
            {"name": "silent", "envoyExtAuthzHttp": silent(false)},
            {"name": "silent-open", "envoyExtAuthzHttp": silent(true)},
        ],
    })
}

impl PolicyBed {
    /// Starts the lab and its pods.
    ///
    /// # Errors
    /// Returns an error if they are not ready in time.
    pub async fn up(isthmus: &Path, mesh: &Mesh) -> Result<Self> {
        let bed = Bed::start(isthmus, mesh).await?;
        let directory = bed.directory().to_owned();
        bed.apply(pods::namespaces(mesh)).await?;
        bed.apply(pods::accounts()).await?;
        bed.apply(pods::services()).await?;
        let mut bed = Self {
            bed,
            keys: Keys::default(),
            addresses: BTreeMap::new(),
            settings: Settings::new(settings()),
            generation: 0,
            istiod: None,
        };
        let servers = crate::places::namespaces_of_servers();
        let servers =
            servers.iter().map(|namespace| (pods::server(&directory, namespace), PodIdentity::of_server(namespace)));
        let clients = CLIENTS.map(|client| (pods::client(&directory, client), PodIdentity::of_client(client)));
        let mut sidecars: Vec<(Value, PodIdentity)> = servers.chain(clients).collect();
        if let Mesh::Istio(programs) = mesh {
            let programs = programs.copied(&directory)?;
            let settings = bed.settings.for_istiod();
            let istiod = bed.bed.istiod(&programs, &settings, &[]).await?;
            bed.istiod = Some(istiod);
            bed.bed.apply(vec![reconnecting()]).await?;
            for (pod, identity) in &mut sidecars {
                *pod = programs.with_envoy(std::mem::take(pod), &directory, istiod, &identity.file());
            }
        } else {
            bed.set(None).await?;
        }
        let mut all: Vec<Value> = sidecars.into_iter().map(|(pod, _)| pod).collect();
        all.extend([pods::client(&directory, PLAIN), pods::authorizer(&directory)]);
        bed.bed.apply(all.clone()).await?;
        for pod in &all {
            let field = |name: &str| pod["metadata"][name].as_str().unwrap_or_default();
            let address = bed.bed.ready(field("namespace"), field("name")).await?;
            bed.addresses.insert(format!("{}/{}", field("namespace"), field("name")), address);
        }
        Ok(bed)
    }

    /// Stops the lab.
    pub async fn down(self) {
        self.bed.down().await;
    }

    /// The address of a pod, as NAMESPACE/NAME.
    ///
    /// # Errors
    /// Returns an error if there is none.
    pub fn address(&self, pod: &str) -> Result<IpAddr> {
        self.addresses.get(pod).copied().with_context(|| format!("no pod is called {pod}"))
    }

    /// Changes the settings of the mesh to those of a case.
    ///
    /// # Errors
    /// Returns an error if they cannot be written.
    pub(super) async fn set(&mut self, case: Option<&Value>) -> Result<()> {
        self.settings.set(&self.bed, case).await
    }

    /// Applies objects, and returns which are refused, and why. Istio's own admission is asked where it is under test.
    ///
    /// # Errors
    /// Returns an error if istiod does not answer.
    pub(super) async fn refused(&self, objects: Vec<(String, Value)>) -> Result<BTreeMap<String, String>> {
        self.bed.admitted(self.istiod, PLAIN, objects).await
    }

    /// Waits until what was applied before is in force in the sidecars of these servers, by their namespaces, and in those of clients.
    ///
    /// # Errors
    /// Returns an error if it takes too long.
    pub(super) async fn in_force(&mut self, servers: &[String]) -> Result<()> {
        self.generation += 1;
        let old = pods::mark(self.generation - 1);
        self.bed.apply(vec![pods::mark(self.generation)]).await?;
        self.bed.delete(&[old]).await?;
        let mark = pods::name_of_mark(self.generation);
        try_join_all(servers.iter().map(|server| self.shows(server, &mark))).await?;
        self.bed.in_force(self.generation, &CLIENTS).await?;
        tokio::time::sleep(SETTLE[usize::from(self.bed.is_istio())]).await;
        Ok(())
    }

    async fn shows(&self, server: &str, mark: &str) -> Result<()> {
        let begun = Instant::now();
        let page = if self.bed.is_istio() {
            "/config_dump?resource=dynamic_listeners&name_regex=virtualInbound"
        } else {
            "/authz"
        };
        loop {
            let text = self.page(server, page).await?;
            if text.contains(mark) && !text.contains("warming_state") {
                return Ok(());
            }
            if begun.elapsed() > IN_FORCE {
                bail!("policies are not in force in {server} after {IN_FORCE:?}: {text:.4000}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A page of the sidecar of a server.
    ///
    /// # Errors
    /// Returns an error if the sidecar does not answer.
    pub(super) async fn page(&self, server: &str, path: &str) -> Result<String> {
        let mut order = Order::get((Ipv4Addr::LOCALHOST, PAGES).into(), "localhost", "page");
        order.path = path.to_owned();
        let replies = client::order(&self.bed.client_socket(&format!("{server}/server")), &order).await?;
        let reply = replies.into_iter().next().context("no reply")?;
        if let Some(error) = reply.error {
            bail!("{server} {path}: {error}");
        }
        Ok(reply.body)
    }

    /// The lines of the access logs of the sidecars of servers.
    ///
    /// # Errors
    /// Returns an error if one cannot be read.
    pub(super) async fn logs(&self, servers: &[String]) -> Result<String> {
        if self.bed.is_istio() {
            return Ok(std::fs::read_to_string(istio::access_log(self.bed.directory()))?);
        }
        let logs = servers.iter().map(|server| self.bed.log(server, "server", "isthmus-proxy"));
        Ok(try_join_all(logs).await?.concat())
    }
}

/// Has clients' Envoys open a connection for each request: on open ones, Envoy keeps the policies with which they began.
fn reconnecting() -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": "reconnecting", "namespace": "istio-system"},
        "spec": {"host": "*.local", "trafficPolicy": {"connectionPool": {"http": {"maxRequestsPerConnection": 1}}}},
    })
}
