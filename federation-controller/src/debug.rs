//! The monitoring server on port 15014: metrics, readiness and debug pages, which `isthmus status` reads.
//!
//! | path | content |
//! | --- | --- |
//! | `/metrics` | Prometheus text format |
//! | `/ready` | 200 if the own cluster is listed and the discovery port is open; otherwise 503 with the reason |
//! | `/debug/clusters` | a [`ClustersPage`] |
//! | `/debug/proxies` | a list of [`ProxyRow`]s |
//! | `/debug/services`, `/debug/services/<hostname>` | a list of hostnames, and a [`ServicePage`] |
//! | `/debug/service-table` | a [`ServicesPage`]: who exports and imports each service |
//! | `/debug/gateways` | a list of [`GatewayRow`]s |
//! | `/debug/exports` | an [`ExportsPage`] |
//!
//! All pages are read-only and contain no secrets. Metrics and readiness are open; the debug pages, which describe the whole
//! mesh, are for authorized clients (`access.rs`).
//!
//! The port has a bounded number of connections. When all places are taken, the source with the most loses its oldest, so
//! that the kubelet and Prometheus always find one.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tracing::warn;

mod access;
mod pages;
mod services;
#[cfg(test)]
mod tests;

pub use pages::{
    AddressRow, ClusterRow, ClustersPage, EndpointRow, GatewayRow, LeaseRow, PathRow, ProxyRow, RefusalRow,
    ServicePage, TrustRow,
};
pub use services::{ServiceInCluster, ServiceRow, ServicesPage};

pub use crate::service_entries_export::{ExportRow, ExportsPage};

use crate::ca::Authorities;
use crate::clusters::Clusters;
use crate::discovery::Shared;
use crate::ports::gate::{Gate, Place};
use crate::ports::shares::Shares;
use access::Denied;

/// The time for a request's head to arrive. An idle connection is closed after it.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// The age at which a connection is closed after its request.
const MAX_AGE: Duration = Duration::from_secs(300);
/// The time for the last response to be read.
const LAST_RESPONSE: Duration = Duration::from_secs(30);
/// The number of connections.
const MAX_CONNECTIONS: usize = 128;
/// The numbers of tokens that are reviewed at a time: in all, and from one source.
const REVIEWS: (usize, usize) = (8, 4);
/// The time for a review to have its turn.
const REVIEW_TURN: Duration = Duration::from_secs(5);

/// The monitoring server. Clones refer to the same state.
#[derive(Clone)]
pub struct Debug {
    shared: Arc<Shared>,
    /// The clusters and signing certificates, after [`Debug::attach`].
    parts: Arc<std::sync::OnceLock<(Clusters, Authorities)>>,
    serving: Arc<AtomicBool>,
    gate: Gate,
    reviews: Shares,
    /// Whether clients on the loopback may read the pages without a token.
    local: bool,
}

impl Debug {
    /// Creates a monitoring server for the shared state.
    pub fn new(shared: Arc<Shared>) -> Self {
        let gate = Gate::new("monitoring", MAX_CONNECTIONS, shared.state.metrics.registry());
        let reviews = Shares::new(REVIEWS.0, REVIEWS.1);
        Debug { shared, parts: Arc::default(), serving: Arc::default(), gate, reviews, local: true }
    }

    /// Adds links and signing certificates to the pages.
    pub fn attach(&self, clusters: Clusters, authorities: Authorities) {
        // The controller attaches them once, at its start.
        let _ = self.parts.set((clusters, authorities));
    }

    /// Sets whether the discovery port is open, for `/ready`.
    pub fn set_serving(&self, serving: bool) {
        self.serving.store(serving, Ordering::Relaxed);
    }

    /// Serves the listener until the future is dropped.
    pub async fn serve(self, listener: TcpListener) {
        loop {
            let (socket, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "cannot accept a connection on the monitoring port");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let place = self.gate.admit(address.ip());
            tokio::spawn(self.clone().connection(socket, address.ip(), place));
        }
    }

    /// Serves a connection until its client closes it, it loses its place, or it is too old.
    async fn connection(self, socket: TcpStream, client: IpAddr, place: Place) {
        let service = service_fn(move |request| {
            let pages = self.clone();
            async move { Ok::<_, Infallible>(pages.answer(client, &request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(socket), service);
        tokio::pin!(connection);
        // A connection that the client closes early is not an error.
        tokio::select! {
            _ = &mut connection => return,
            () = place.lost() => return,
            () = tokio::time::sleep(MAX_AGE) => connection.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            _ = tokio::time::timeout(LAST_RESPONSE, connection) => {}
            () = place.lost() => {}
        }
    }

    async fn answer(&self, client: IpAddr, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "the method is not allowed; use GET\n");
        }
        let path = request.uri().path();
        if path.starts_with("/debug/")
            && let Err(denied) = self.authorize(client, request, path).await
        {
            return text(denied.code(), format!("{denied}\n"));
        }
        let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
        match path {
            "/metrics" => {
                let mut answer = text(StatusCode::OK, self.shared.state.metrics.registry().render());
                let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                answer.headers_mut().insert(header::CONTENT_TYPE, kind);
                answer
            }
            "/ready" => self.readiness(),
            "/debug/clusters" => json(&pages::clusters(&self.shared, self.parts.get())),
            "/debug/proxies" => json(&pages::proxies(&self.shared)),
            "/debug/gateways" => json(&pages::gateways(&self.shared)),
            "/debug/service-table" => json(&services::table(&self.shared)),
            "/debug/services" => json(&pages::services(&self.shared)),
            "/debug/exports" => json(&pages::exports(&self.shared)),
            "/" | "/debug" => text(
                StatusCode::OK,
                "/metrics\n/ready\n/debug/clusters\n/debug/proxies\n/debug/services\n/debug/services/<hostname>\n/debug/service-table\n/debug/gateways\n/debug/exports\n",
            ),
            _ => match path.strip_prefix("/debug/services/").map(|hostname| pages::service(&self.shared, hostname)) {
                Some(Some(page)) => json(&page),
                Some(None) => text(
                    StatusCode::NOT_FOUND,
                    "no cluster has a service of this hostname; /debug/services lists all hostnames\n",
                ),
                None => text(StatusCode::NOT_FOUND, "the page does not exist; /debug lists all pages\n"),
            },
        }
    }

    async fn authorize(&self, client: IpAddr, request: &Request<Incoming>, path: &str) -> Result<(), Denied> {
        if self.local && access::is_local(client) {
            return Ok(());
        }
        let token = access::token(request.headers())?;
        let Some((clusters, _)) = self.parts.get() else {
            return Err(Denied::Unavailable("the controller starts".to_owned()));
        };
        let turn = tokio::time::timeout(REVIEW_TURN, self.reviews.take(client)).await.ok().flatten();
        let _turn = turn.ok_or_else(|| Denied::Unavailable("too many tokens are being reviewed".to_owned()))?;
        access::authorize(clusters.own_client(), clusters.own(), token, path).await
    }

    fn readiness(&self) -> Response<Full<Bytes>> {
        let reason = if !self.serving.load(Ordering::Relaxed) {
            "the discovery port is not open\n"
        } else if !self.shared.state.ready() {
            "the own cluster is not listed in full yet\n"
        } else {
            return text(StatusCode::OK, "ready\n");
        };
        text(StatusCode::SERVICE_UNAVAILABLE, reason)
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

fn json(page: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec_pretty(page) {
        Ok(body) => {
            let mut answer = text(StatusCode::OK, body);
            answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
            answer
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot encode the page as JSON: {error}\n")),
    }
}
