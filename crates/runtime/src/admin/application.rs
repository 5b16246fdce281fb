//! Metrics of the application in the same pod, which are merged with the proxy's.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{Empty, Limited};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio_util::task::AbortOnDropHandle;

/// The timeout until the response begins, including the connection; Prometheus' default for a scrape is ten seconds.
const TIMEOUT: Duration = Duration::from_secs(8);
/// The size limit of the application's metrics; the rest is left out.
const MAX_BYTES: usize = 16 << 20;

/// The metrics endpoint of the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    address: SocketAddr,
    path: String,
    mark: Option<u32>,
}

/// The pod's `prometheus.io/*` annotations, which the injector passes to the proxy.
#[derive(Deserialize)]
struct Annotations {
    #[serde(default)]
    scrape: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    port: String,
}

impl Application {
    /// Reads `ISTIO_PROMETHEUS_ANNOTATIONS` (`{"scrape":"true","path":"/metrics","port":"9080"}`).
    pub fn from_environment(mark: Option<u32>) -> Option<Self> {
        Self::from_annotations(&std::env::var("ISTIO_PROMETHEUS_ANNOTATIONS").ok()?, mark)
    }

    /// Reads the annotations; returns `None` if they do not enable scraping.
    pub fn from_annotations(json: &str, mark: Option<u32>) -> Option<Self> {
        let annotations: Annotations = serde_json::from_str(json)
            .inspect_err(|error| tracing::warn!(%error, "ISTIO_PROMETHEUS_ANNOTATIONS is not valid JSON; the metrics of the application are not merged"))
            .ok()?;
        if annotations.scrape != "true" {
            return None;
        }
        let port = if annotations.port.is_empty() { 80 } else { annotations.port.parse().ok()? };
        let path = match annotations.path.as_str() {
            "" => "/metrics".to_owned(),
            path if path.starts_with('/') => path.to_owned(),
            path => format!("/{path}"),
        };
        Some(Self { address: (Ipv4Addr::LOCALHOST, port).into(), path, mark })
    }

    /// Requests the metrics, and returns the body of the response.
    pub(super) async fn metrics(&self) -> io::Result<ApplicationMetrics> {
        match tokio::time::timeout(TIMEOUT, self.request()).await {
            Ok(body) => body,
            Err(_) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, format!("no response from {} in time", self.address)))
            }
        }
    }

    async fn request(&self) -> io::Result<ApplicationMetrics> {
        let options = net::Connect { mark: self.mark, timeout: TIMEOUT, ..net::Connect::default() };
        let stream = match net::connect(self.address, &options).await {
            // The application may listen at IPv6 addresses alone.
            Err(_) => net::connect((Ipv6Addr::LOCALHOST, self.address.port()).into(), &options).await?,
            Ok(stream) => stream,
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let request = Request::get(&self.path)
            .header("host", self.address.to_string())
            .header("accept", "text/plain; version=0.0.4")
            .body(Empty::<Bytes>::new())
            .map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        if !response.status().is_success() {
            return Err(io::Error::other(format!("{} responded with status {}", self.address, response.status())));
        }
        Ok(ApplicationMetrics { body: Limited::new(response.into_body(), MAX_BYTES), _connection: connection })
    }
}

/// The metrics of the application, as they arrive.
#[derive(Debug)]
pub(super) struct ApplicationMetrics {
    body: Limited<Incoming>,
    _connection: AbortOnDropHandle<hyper::Result<()>>,
}

impl ApplicationMetrics {
    /// Polls for more of the text; `None` at its end, or if the rest does not arrive.
    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(data));
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "the application's metrics are incomplete");
                    return Poll::Ready(None);
                }
            }
        }
    }
}
