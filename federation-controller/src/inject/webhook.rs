//! The HTTPS server that API servers call: `POST /inject/cluster/<cluster>/net/<network>` with an AdmissionReview.
//!
//! The path says where the pod is, because the review does not; it comes from the webhook configuration of that cluster.
//! A request that is no AdmissionReview gets a 4xx with a plain message. A pod whose annotations are broken is denied with
//! the reason, which `kubectl` shows to whoever made it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde::Deserialize;
use serde_json::{Value, json};
use telemetry::metrics::{Family, Registry};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_stream::{Stream, StreamExt as _};

use super::rules::{Decision, NamespaceSays, decide};
use super::template::{Injector, Place};

/// Reviews received.
pub const REQUESTS: Family =
    Family { name: "sidecar_injection_requests_total", help: "Injection requests.", labels: &[] };
/// Pods that got a sidecar.
pub const SUCCESS: Family =
    Family { name: "sidecar_injection_success_total", help: "Pods that got a sidecar.", labels: &[] };
/// Pods that get none.
pub const SKIPPED: Family =
    Family { name: "sidecar_injection_skip_total", help: "Pods that get no sidecar.", labels: &[] };
/// Requests that failed.
pub const FAILED: Family =
    Family { name: "sidecar_injection_failure_total", help: "Injection requests that failed.", labels: &[] };

/// API servers send at most 3 MiB (their limit on a request's object).
const MAX_REVIEW: usize = 3 * 1024 * 1024;
/// API servers give a webhook at most 30 s; whoever takes longer to send is none.
const READ_DEADLINE: Duration = Duration::from_secs(10);
/// `/` in a path's value is written so.
const SLASH: &str = "--slash--";

/// Serves injection on these connections until there are no more.
pub async fn serve<S>(connections: S, injector: Injector, own: Place, metrics: Registry)
where
    S: Stream<Item = std::io::Result<TlsStream<TcpStream>>>,
{
    let webhook = Arc::new(Webhook { injector, own, metrics });
    tokio::pin!(connections);
    while let Some(connection) = connections.next().await {
        let Ok(connection) = connection else { continue };
        let webhook = Arc::clone(&webhook);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let webhook = Arc::clone(&webhook);
                async move { Ok::<_, Infallible>(webhook.answer(request).await) }
            });
            let mut server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            server.http1().timer(TokioTimer::new()).header_read_timeout(READ_DEADLINE);
            if let Err(error) = server.serve_connection(TokioIo::new(connection), service).await {
                tracing::debug!(%error, "a webhook connection ended");
            }
        });
    }
}

struct Webhook {
    injector: Injector,
    own: Place,
    metrics: Registry,
}

#[derive(Deserialize)]
struct Review {
    #[serde(rename = "apiVersion", default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<ReviewRequest>,
}

#[derive(Deserialize)]
struct ReviewRequest {
    uid: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    object: Value,
}

/// A request that is none.
#[derive(Debug, thiserror::Error)]
enum BadRequest {
    #[error("there is nothing at {0:?}; use /inject/cluster/<cluster>/net/<network>")]
    Path(String),
    #[error("use POST")]
    Method,
    #[error("the review has more than {MAX_REVIEW} bytes")]
    TooLong,
    #[error("the review did not arrive in time")]
    TooSlow,
    #[error("the review could not be read: {0}")]
    Read(String),
    #[error("this is no AdmissionReview of admission.k8s.io/v1: {0}")]
    NoReview(String),
}

impl BadRequest {
    fn code(&self) -> StatusCode {
        match self {
            BadRequest::Path(_) => StatusCode::NOT_FOUND,
            BadRequest::Method => StatusCode::METHOD_NOT_ALLOWED,
            BadRequest::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            BadRequest::TooSlow => StatusCode::REQUEST_TIMEOUT,
            BadRequest::Read(_) | BadRequest::NoReview(_) => StatusCode::BAD_REQUEST,
        }
    }
}

impl Webhook {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let shared = self.metrics.shared();
        shared.counter(&REQUESTS, &[]).increment();
        match self.review(request).await {
            Ok(answer) => reply(StatusCode::OK, "application/json", answer.to_string()),
            Err(error) => {
                shared.counter(&FAILED, &[]).increment();
                tracing::warn!("injection request refused: {error}");
                reply(error.code(), "text/plain; charset=utf-8", format!("{error}\n"))
            }
        }
    }

    async fn review(&self, request: Request<Incoming>) -> Result<Value, BadRequest> {
        let place = place(request.uri().path(), &self.own)?;
        if request.method() != Method::POST {
            return Err(BadRequest::Method);
        }
        let body = Limited::new(request.into_body(), MAX_REVIEW).collect();
        let body = match tokio::time::timeout(READ_DEADLINE, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(BadRequest::TooLong),
            Ok(Err(error)) => return Err(BadRequest::Read(error.to_string())),
            Err(_) => return Err(BadRequest::TooSlow),
        };
        let review = parse(&body)?;
        Ok(self.decide(&review, &place))
    }

    fn decide(&self, request: &ReviewRequest, place: &Place) -> Value {
        let pod = &request.object;
        let shared = self.metrics.shared();
        let name = || {
            let metadata = &pod["metadata"];
            metadata["name"].as_str().or(metadata["generateName"].as_str()).unwrap_or_default().to_owned()
        };
        // The webhook's selectors have asked the namespace already.
        if let Decision::Skip(why) = decide(pod, &request.namespace, NamespaceSays::Yes) {
            shared.counter(&SKIPPED, &[]).increment();
            tracing::debug!(namespace = request.namespace, pod = name(), why, "not injected");
            return answer(json!({"uid": request.uid, "allowed": true}));
        }
        match self.injector.patch(pod, place) {
            Ok(patch) => {
                shared.counter(&SUCCESS, &[]).increment();
                tracing::debug!(namespace = request.namespace, pod = name(), cluster = place.cluster, "injected");
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
                tracing::warn!(namespace = request.namespace, pod = name(), "not injected: {error}");
                let status = json!({"code": 422, "reason": "Invalid", "message": error.to_string()});
                answer(json!({"uid": request.uid, "allowed": false, "status": status}))
            }
        }
    }
}

fn parse(body: &[u8]) -> Result<ReviewRequest, BadRequest> {
    let review: Review = serde_json::from_slice(body).map_err(|e| BadRequest::NoReview(e.to_string()))?;
    if review.kind != "AdmissionReview" || review.api_version != "admission.k8s.io/v1" {
        return Err(BadRequest::NoReview(format!("it is {:?} of {:?}", review.kind, review.api_version)));
    }
    let request = review.request.ok_or_else(|| BadRequest::NoReview("it has no request".to_owned()))?;
    if request.uid.is_empty() {
        return Err(BadRequest::NoReview("its request has no uid".to_owned()));
    }
    if !request.object["spec"].is_object() {
        return Err(BadRequest::NoReview("its object is no pod".to_owned()));
    }
    Ok(request)
}

/// Reads `/inject/cluster/<cluster>/net/<network>`; what is left out is as in the own cluster.
fn place(path: &str, own: &Place) -> Result<Place, BadRequest> {
    let unknown = || BadRequest::Path(path.chars().take(120).collect());
    let rest = path.strip_prefix("/inject").ok_or_else(unknown)?;
    let mut place = own.clone();
    let mut parts = rest.split('/').filter(|part| !part.is_empty());
    while let Some(key) = parts.next() {
        let value = parts.next().ok_or_else(unknown)?.replace(SLASH, "/");
        match key {
            "cluster" => place.cluster = value,
            "net" => place.network = value,
            _ => return Err(unknown()),
        }
    }
    Ok(place)
}

fn answer(response: Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
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
    fn the_path_says_where_a_pod_is() {
        let own = Place { cluster: "west".into(), network: "net-west".into() };
        let of = |path: &str| place(path, &own).map(|p| (p.cluster, p.network)).ok();
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(of("/inject"), pair("west", "net-west"));
        assert_eq!(of("/inject/cluster/east/net/net-east"), pair("east", "net-east"));
        assert_eq!(of("/inject/net/a--slash--b/cluster/east"), pair("east", "a/b"));
        for bad in ["/", "/validate", "/inject/cluster", "/inject/other/x", "/injectx/y"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_review_is_refused() {
        for bad in [
            "",
            "nonsense",
            "[]",
            "{}",
            r#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{"uid":"1","object":{"spec":{}}}}"#,
            r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#,
            r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"","object":{"spec":{}}}}"#,
            r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","object":null}}"#,
            r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"object":{"spec":{}}}}"#,
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
