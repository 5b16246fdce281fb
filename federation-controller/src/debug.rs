//! The monitoring server on port 15014: metrics, readiness and debug pages, which `isthmus status` reads.
//!
//! | path | content |
//! | --- | --- |
//! | `/metrics` | Prometheus text format |
//! | `/ready` | 200 if the own cluster is listed and the discovery port is open; otherwise 503 with the reason |
//! | `/debug/clusters` | a [`ClustersPage`] |
//! | `/debug/proxies` | a list of [`ProxyRow`]s |
//! | `/debug/services`, `/debug/services/<hostname>` | a list of hostnames, and a [`ServicePage`] |
//! | `/debug/gateways` | a list of [`GatewayRow`]s |
//!
//! All pages are read-only and contain no secrets. They are reachable inside the cluster, as in Istio.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::TcpListener;
use tracing::warn;

mod pages;
#[cfg(test)]
mod tests;

pub use pages::{AddressRow, ClusterRow, ClustersPage, EndpointRow, GatewayRow, ProxyRow, ServicePage, TrustRow};

use crate::ca::Authorities;
use crate::clusters::Clusters;
use crate::discovery::Shared;

/// The time for a request's head to arrive. An idle connection is closed after it.
const HEADER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// The monitoring server. Clones refer to the same state.
#[derive(Clone)]
pub struct Debug {
    shared: Arc<Shared>,
    /// The clusters and signing certificates, after [`Debug::attach`].
    parts: Arc<std::sync::OnceLock<(Clusters, Authorities)>>,
    serving: Arc<AtomicBool>,
}

impl Debug {
    /// Creates a monitoring server for the shared state.
    pub fn new(shared: Arc<Shared>) -> Self {
        Debug { shared, parts: Arc::default(), serving: Arc::default() }
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
            let socket = match listener.accept().await {
                Ok((socket, _)) => socket,
                Err(error) => {
                    warn!(%error, "cannot accept a connection on the monitoring port");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            };
            let pages = self.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = pages.answer(&request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .serve_connection(TokioIo::new(socket), service);
                // A connection that the client closes early is not an error.
                let _ = connection.await;
            });
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "the method is not allowed; use GET\n");
        }
        let path = request.uri().path();
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
            "/debug/services" => json(&pages::services(&self.shared)),
            "/" | "/debug" => text(
                StatusCode::OK,
                "/metrics\n/ready\n/debug/clusters\n/debug/proxies\n/debug/services\n/debug/services/<hostname>\n/debug/gateways\n",
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
