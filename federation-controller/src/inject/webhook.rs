//! The HTTPS server of the admission webhooks, which take an AdmissionReview:
//!
//! - `POST /inject/cluster/<cluster>/net/<network>` injects the sidecar into a pod. The path names the pod's cluster and
//!   network, because the review does not; the webhook configuration of each cluster contains that cluster's path. A pod with
//!   an invalid annotation is denied with the reason, which `kubectl` prints.
//! - `POST /validate/cluster/<cluster>` denies an invalid object of the mesh's configuration with everything that is wrong
//!   with it, and admits any other, with warnings of what has no effect (`validation.rs`), in that cluster or at all. Without
//!   a cluster, as in configurations of earlier versions, the object counts as one of the controller's own cluster.
//!
//! A request without a valid AdmissionReview is answered with a 4xx status and a text message.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::{Value, json};
use telemetry::metrics::{Family, Registry};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_stream::{Stream, StreamExt as _};

use super::review::{BadRequest, MAX_REVIEW, READ_DEADLINE, ReviewRequest, answer, parse};
use super::rules::{Decision, NamespaceLabel, decide};
use super::template::{HomeCluster, Injector};
use super::validation::{self, Place};
use crate::inventory::ProxyLayers;
use crate::objects::{Kind, Labels, fields};
use crate::ports::guarded::Guarded;
use crate::ports::shares::Shares;

/// Counts injection requests.
pub const REQUESTS: Family =
    Family { name: "sidecar_injection_requests_total", help: "Injection requests.", labels: &[] };
/// Counts injected pods.
pub const SUCCESS: Family = Family { name: "sidecar_injection_success_total", help: "Injected pods.", labels: &[] };
/// Counts pods without injection.
pub const SKIPPED: Family =
    Family { name: "sidecar_injection_skip_total", help: "Pods that the injection rules exclude.", labels: &[] };
/// Counts failed injection requests.
pub const FAILED: Family =
    Family { name: "sidecar_injection_failure_total", help: "Failed injection requests.", labels: &[] };

/// The size up to which a review is small, in bytes. Most have 5 to 20 KiB.
const SMALL_REVIEW: usize = 256 * 1024;
/// The numbers of small reviews that are read at a time: in all, and from one source.
const SMALL_SHARES: (usize, usize) = (32, 8);
/// The same for other reviews. A review of 3 MiB can take 50 MiB while it is decided.
const LARGE_SHARES: (usize, usize) = (2, 1);
/// The time for a request's head to arrive.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// The number of concurrent calls on a connection of HTTP/2.
const MAX_CALLS: u32 = 128;
/// The flow-control windows of a call and of a connection, in bytes.
const WINDOWS: (u32, u32) = (256 << 10, 512 << 10);
/// The interval at which connections of HTTP/2 are probed.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// The beginning of the paths of injection.
const INJECT: &str = "/inject";
/// The beginning of the paths of validation.
const VALIDATE: &str = "/validate";
/// The encoding of `/` in a value of the path.
const SLASH: &str = "--slash--";

/// Whether a cluster denies the controller to read a kind, as [`Inventory`](crate::inventory::Inventory) has it.
pub type Denied = dyn Fn(&str, Kind) -> bool + Send + Sync;

/// The settings of the proxy of a pod with these labels in a namespace, as [`Inventory`](crate::inventory::Inventory)
/// has them.
pub type Layers = dyn Fn(&str, &Labels) -> ProxyLayers + Send + Sync;

/// What the webhooks look up.
#[derive(Clone)]
pub struct Lookups {
    /// Whether a cluster denies the controller to read a kind.
    pub denied: Arc<Denied>,
    /// The settings of the proxy of a pod.
    pub layers: Arc<Layers>,
}

/// Serves reviews on `connections` until the stream ends. `own` is the default for paths without cluster or network.
pub async fn serve<S>(connections: S, injector: Injector, own: HomeCluster, lookups: Lookups, metrics: Registry)
where
    S: Stream<Item = std::io::Result<Guarded<TlsStream<TcpStream>>>>,
{
    let shares = |(all, each)| Shares::new(all, each);
    let (small, large) = (shares(SMALL_SHARES), shares(LARGE_SHARES));
    let webhook = Arc::new(Webhook { injector, own, lookups, metrics, small, large });
    tokio::pin!(connections);
    while let Some(connection) = connections.next().await {
        let Ok(connection) = connection else { continue };
        let webhook = Arc::clone(&webhook);
        let source = connection.get_ref().get_ref().0.peer_addr();
        let source = source.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let webhook = Arc::clone(&webhook);
                async move { Ok::<_, Infallible>(webhook.answer(source, request).await) }
            });
            let mut server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
            server
                .http2()
                .timer(TokioTimer::new())
                .max_concurrent_streams(MAX_CALLS)
                .initial_stream_window_size(WINDOWS.0)
                .initial_connection_window_size(WINDOWS.1)
                .keep_alive_interval(KEEPALIVE)
                .keep_alive_timeout(HEAD_DEADLINE);
            if let Err(error) = server.serve_connection(TokioIo::new(connection), service).await {
                tracing::debug!(%error, "webhook connection failed");
            }
        });
    }
}

struct Webhook {
    injector: Injector,
    own: HomeCluster,
    lookups: Lookups,
    metrics: Registry,
    small: Shares,
    large: Shares,
}

/// What a request asks for, by its path.
enum Purpose {
    /// To inject the sidecar into a pod of a cluster.
    Inject(HomeCluster),
    /// To deny an invalid object of a cluster, and to warn of one without effect.
    Validate(HomeCluster),
}

impl Webhook {
    async fn answer(&self, source: IpAddr, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let shared = self.metrics.shared();
        let injection = !request.uri().path().starts_with(VALIDATE);
        if injection {
            shared.counter(&REQUESTS, &[]).increment();
        }
        match self.review(source, request).await {
            Ok(answer) => reply(StatusCode::OK, "application/json", answer.to_string()),
            Err(error) => {
                if injection {
                    shared.counter(&FAILED, &[]).increment();
                }
                tracing::warn!("admission request refused: {error}");
                reply(error.code(), "text/plain; charset=utf-8", format!("{error}\n"))
            }
        }
    }

    async fn review(&self, source: IpAddr, request: Request<Incoming>) -> Result<Value, BadRequest> {
        let purpose = purpose(request.uri().path(), &self.own)?;
        if request.method() != Method::POST {
            return Err(BadRequest::Method);
        }
        // A body without a length counts as the largest.
        let length = request.body().size_hint().upper().and_then(|length| usize::try_from(length).ok());
        let (shares, limit) = match length {
            Some(length) if length <= SMALL_REVIEW => (&self.small, SMALL_REVIEW),
            Some(length) if length > MAX_REVIEW => return Err(BadRequest::TooLong),
            _ => (&self.large, MAX_REVIEW),
        };
        // Held until the review is decided, so that only a few bodies are in memory.
        let share = tokio::time::timeout(READ_DEADLINE, shares.take(source)).await.ok().flatten();
        let _share = share.ok_or(BadRequest::Busy)?;
        let body = Limited::new(request.into_body(), limit).collect();
        let body = match tokio::time::timeout(READ_DEADLINE, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(BadRequest::TooLong),
            Ok(Err(error)) => return Err(BadRequest::Read(error.to_string())),
            Err(_) => return Err(BadRequest::TooSlow),
        };
        let review = parse(&body)?;
        match purpose {
            Purpose::Inject(_) if !review.object["spec"].is_object() => Err(BadRequest::NoPod),
            Purpose::Inject(home) => Ok(self.inject(&review, &home)),
            Purpose::Validate(home) => {
                let place = Place { asking: &home.cluster, own: &self.own.cluster, denied: &*self.lookups.denied };
                Ok(answer(validation::respond(&review, place, &self.metrics)))
            }
        }
    }

    fn inject(&self, request: &ReviewRequest, home: &HomeCluster) -> Value {
        let pod = &request.object;
        let shared = self.metrics.shared();
        // The webhook's selectors have checked the namespace's label already.
        if let Decision::Skip(why) = decide(pod, &request.namespace, NamespaceLabel::Enabled) {
            shared.counter(&SKIPPED, &[]).increment();
            tracing::debug!(namespace = request.namespace, pod = request.name(), why, "skipped injection");
            return answer(json!({"uid": request.uid, "allowed": true}));
        }
        let labels = pod["metadata"]["labels"].clone();
        let labels = fields::labels(serde_json::from_value(labels).ok());
        let layers = (self.lookups.layers)(&request.namespace, &labels);
        match self.injector.patch(pod, home, &layers) {
            Ok(patch) => {
                shared.counter(&SUCCESS, &[]).increment();
                tracing::debug!(
                    namespace = request.namespace,
                    pod = request.name(),
                    cluster = home.cluster,
                    "injected the sidecar"
                );
                let operations = Value::Array(patch.operations).to_string();
                let mut response = json!({
                    "uid": request.uid, "allowed": true, "patchType": "JSONPatch",
                    "patch": base64::engine::general_purpose::STANDARD.encode(operations),
                });
                if !patch.warnings.is_empty() {
                    response["warnings"] = json!(patch.warnings);
                }
                answer(response)
            }
            Err(error) => {
                shared.counter(&FAILED, &[]).increment();
                tracing::warn!(namespace = request.namespace, pod = request.name(), "injection refused: {error}");
                let status = json!({"code": 422, "reason": "Invalid", "message": error.to_string()});
                answer(json!({"uid": request.uid, "allowed": false, "status": status}))
            }
        }
    }
}

fn purpose(path: &str, own: &HomeCluster) -> Result<Purpose, BadRequest> {
    let unknown = || BadRequest::Path(path.chars().take(120).collect());
    if let Some(rest) = path.strip_prefix(INJECT) {
        return home(rest, own).map(Purpose::Inject).ok_or_else(unknown);
    }
    let rest = path.strip_prefix(VALIDATE).ok_or_else(unknown)?;
    home(rest, own).map(Purpose::Validate).ok_or_else(unknown)
}

/// Parses `/cluster/<cluster>/net/<network>`. Absent parts default to the own cluster's.
fn home(path: &str, own: &HomeCluster) -> Option<HomeCluster> {
    let mut home = own.clone();
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    while let Some(key) = parts.next() {
        let value = parts.next()?.replace(SLASH, "/");
        match key {
            "cluster" => home.cluster = value,
            "net" => home.network = value,
            _ => return None,
        }
    }
    Some(home)
}

fn reply(code: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_names_cluster_and_network() {
        let own = HomeCluster { cluster: "west".into(), network: "net-west".into() };
        let of = |path: &str| match purpose(path, &own).ok()? {
            Purpose::Inject(home) => Some(("inject", home.cluster, home.network)),
            Purpose::Validate(home) => Some(("validate", home.cluster, home.network)),
        };
        let is = |what: &'static str, a: &str, b: &str| Some((what, a.to_owned(), b.to_owned()));
        assert_eq!(of("/inject"), is("inject", "west", "net-west"));
        assert_eq!(of("/inject/cluster/east/net/net-east"), is("inject", "east", "net-east"));
        assert_eq!(of("/inject/net/a--slash--b/cluster/east"), is("inject", "east", "a/b"));
        assert_eq!(of("/validate"), is("validate", "west", "net-west"));
        assert_eq!(of("/validate/cluster/east"), is("validate", "east", "net-west"));
        for bad in ["/", "/inject/cluster", "/inject/other/x", "/injectx/y", "/validate/cluster/", "/validatex/y"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
