//! The test beds of cells.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use super::pods::{self, Cells};
use crate::bed::settings::Settings;
use crate::bed::{Bed, Mesh, pods as routing};
use crate::case::TestBed;
use crate::client::{self, Order};
use crate::istio;
use crate::places::{PLAIN, PodIdentity, TELLER, cells};
use crate::policies::tokens::Keys;

/// How long a configuration may take to be in force.
const IN_FORCE: Duration = Duration::from_secs(60);
/// The time between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// After a mark is in force: Envoy takes listeners, routes and certificates after clusters, and closes listeners a second later.
const SETTLE: Duration = Duration::from_millis(1500);
/// The port of the proxies' pages.
const PAGES: u16 = 15000;

/// A running test bed.
pub struct CellBed {
    pub(super) bed: Bed,
    pub(super) keys: Keys,
    cells: Cells,
    addresses: BTreeMap<String, IpAddr>,
    settings: Settings,
    generation: usize,
    istiod: Option<IpAddr>,
}

impl CellBed {
    /// Starts the lab and its pods.
    ///
    /// # Errors
    /// Returns an error if they are not ready in time.
    pub async fn up(of: TestBed, isthmus: &Path, mesh: &Mesh) -> Result<Self> {
        let kind = if of == TestBed::Gateways { Cells::Gateways } else { Cells::Sidecars };
        let bed = Bed::start(isthmus, mesh).await?;
        let directory = bed.directory().to_owned();
        bed.apply(pods::namespaces(mesh)).await?;
        bed.apply(pods::accounts()).await?;
        let settings = Settings::new(json!({"enableAutoMtls": false, "outboundTrafficPolicy": {"mode": "ALLOW_ANY"}}));
        let mut bed = Self {
            bed,
            keys: Keys::default(),
            cells: kind,
            addresses: BTreeMap::new(),
            settings,
            generation: 0,
            istiod: None,
        };
        let mut proxies = vec![(pods::client(&directory, TELLER), PodIdentity::of_client(TELLER))];
        for cell in cells() {
            let of_cell = |name| (pods::of_cell(&directory, &cell, name, mesh), PodIdentity::of_pod(&cell, name));
            proxies.extend(kind.proxies().iter().map(|name| of_cell(*name)));
        }
        if let Mesh::Istio(programs) = mesh {
            let programs = programs.copied(&directory)?;
            bed.bed.apply(routing::plaintext()).await?;
            let settings = bed.settings.for_istiod();
            let istiod = bed.bed.istiod(&programs, &settings, &istio::TRUSTING).await?;
            bed.istiod = Some(istiod);
            for (pod, identity) in &mut proxies {
                let is_gateway = pod["metadata"]["name"] == "gateway";
                let (taken, identity) = (std::mem::take(pod), identity.file());
                *pod = match is_gateway {
                    true => programs.with_gateway(taken, &directory, istiod, &identity),
                    false => programs.with_envoy(taken, &directory, istiod, &identity),
                };
            }
        } else {
            bed.set(None).await?;
        }
        bed.bed.apply(pods::services(kind)).await?;
        // A gateway of Isthmus is ready when it has listeners: those of a mark.
        bed.bed.apply(pods::marks(0, bed.bed.is_istio())).await?;
        let mut all: Vec<Value> = proxies.into_iter().map(|(pod, _)| pod).collect();
        all.push(pods::client(&directory, PLAIN));
        all.extend(pods::servers(&directory));
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

    /// The addresses of pods, as NAMESPACE/NAME.
    pub(super) fn addresses(&self) -> &BTreeMap<String, IpAddr> {
        &self.addresses
    }

    /// Changes the settings of the mesh to those of a case.
    pub(super) async fn set(&mut self, case: Option<&Value>) -> Result<()> {
        self.settings.set(&self.bed, case).await
    }

    /// Applies objects, and returns which are refused, and why.
    pub(super) async fn refused(&self, objects: Vec<(String, Value)>) -> Result<BTreeMap<String, String>> {
        self.bed.admitted(self.istiod, PLAIN, objects).await
    }

    /// Waits until what was applied before is in force in the proxies of cells, and in that of the client outside.
    pub(super) async fn in_force(&mut self, cells: &[String]) -> Result<()> {
        self.generation += 1;
        let is_istio = self.bed.is_istio();
        self.bed.apply(pods::marks(self.generation, is_istio)).await?;
        self.bed.delete(&pods::marks(self.generation - 1, is_istio)).await?;
        let mark = pods::name_of_mark(self.generation);
        let in_cells =
            cells.iter().flat_map(|cell| self.cells.proxies().iter().map(move |name| format!("{cell}/{name}")));
        let all: Vec<String> = in_cells.chain([TELLER.to_owned()]).collect();
        try_join_all(all.iter().map(|pod| self.shows(pod, &mark))).await?;
        tokio::time::sleep(SETTLE).await;
        Ok(())
    }

    async fn shows(&self, pod: &str, mark: &str) -> Result<()> {
        let begun = Instant::now();
        let page = match self.bed.is_istio() {
            true => format!("/config_dump?resource=dynamic_active_clusters&name_regex={mark}"),
            false if pod.ends_with("/gateway") => "/listeners".to_owned(),
            false => "/authz".to_owned(),
        };
        loop {
            let mut order = Order::get((Ipv4Addr::LOCALHOST, PAGES).into(), "localhost", "page");
            order.path = page.clone();
            let replies = client::order(&self.bed.client_socket(pod), &order).await?;
            let reply = replies.into_iter().next().context("no reply")?;
            if reply.body.contains(mark) {
                return Ok(());
            }
            if begun.elapsed() > IN_FORCE {
                bail!("{mark} is not in force in {pod} after {IN_FORCE:?}: {:.4000} {:?}", reply.body, reply.error);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The lines of the access logs of the proxies of cells, and of that of the client outside.
    pub(super) async fn logs(&self, cells: &[String]) -> Result<String> {
        if self.bed.is_istio() {
            return Ok(std::fs::read_to_string(istio::access_log(self.bed.directory()))?);
        }
        let (pod, container) = match self.cells {
            Cells::Sidecars => ("client", "isthmus-proxy"),
            Cells::Gateways => ("gateway", "istio-proxy"),
        };
        let logs = cells.iter().map(|cell| self.bed.log(cell, pod, container));
        Ok(try_join_all(logs).await?.concat())
    }
}
