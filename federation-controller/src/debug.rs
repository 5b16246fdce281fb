//! Port 15014: metrics, readiness, and what the controller knows, for people and for `isthmus status`.
//!
//! | path | what |
//! | --- | --- |
//! | `/metrics` | Prometheus text format |
//! | `/ready` | 200 when there is a view to serve and the discovery port is open, else 503 with what is missing |
//! | `/debug/clusters` | [`ClustersPage`] |
//! | `/debug/proxies` | [`ProxyRow`]s |
//! | `/debug/services`, `/debug/services/<hostname>` | names, and one [`ServicePage`] |
//! | `/debug/gateways` | gateways by network |
//!
//! All of it is read only and says nothing secret; it is reachable inside the cluster, as Istio's is.

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

/// How long a request's head may take to arrive; a connection that says nothing is closed after it.
const HEAD: std::time::Duration = std::time::Duration::from_secs(30);

/// What the pages are made of.
#[derive(Clone)]
pub struct Debug {
    shared: Arc<Shared>,
    /// Links and signing certificates, once there are any.
    parts: Arc<std::sync::OnceLock<(Clusters, Authorities)>>,
    serving: Arc<AtomicBool>,
}

impl Debug {
    /// Pages about this state.
    pub fn new(shared: Arc<Shared>) -> Self {
        Debug { shared, parts: Arc::default(), serving: Arc::default() }
    }

    /// From now on links and signing certificates are shown as well.
    pub fn attach(&self, clusters: Clusters, authorities: Authorities) {
        // Attached once, at the start.
        let _ = self.parts.set((clusters, authorities));
    }

    /// Says whether the discovery port is open.
    pub fn set_serving(&self, serving: bool) {
        self.serving.store(serving, Ordering::Relaxed);
    }

    /// Serves until the listener's task is dropped.
    pub async fn serve(self, listener: TcpListener) {
        loop {
            let socket = match listener.accept().await {
                Ok((socket, _)) => socket,
                Err(error) => {
                    warn!(%error, "cannot accept connections on the monitoring port");
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
                    .header_read_timeout(HEAD)
                    .serve_connection(TokioIo::new(socket), service);
                // Who hangs up halfway is of no interest.
                let _ = connection.await;
            });
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
        }
        let path = request.uri().path();
        let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
        match path {
            "/metrics" => {
                let mut answer = text(StatusCode::OK, self.shared.metrics.registry().render());
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
                Some(None) => {
                    text(StatusCode::NOT_FOUND, "no cluster has a service of this name; see /debug/services\n")
                }
                None => text(StatusCode::NOT_FOUND, "no such page; see /debug\n"),
            },
        }
    }

    fn readiness(&self) -> Response<Full<Bytes>> {
        let missing = if !self.serving.load(Ordering::Relaxed) {
            "the discovery port is not open\n"
        } else if !self.shared.ready() {
            "the own cluster has not been listed in full\n"
        } else {
            return text(StatusCode::OK, "ready\n");
        };
        text(StatusCode::SERVICE_UNAVAILABLE, missing)
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
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("the page cannot be written: {error}\n")),
    }
}
