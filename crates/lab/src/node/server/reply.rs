//! Requests and responses of the node agent's socket.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::node::exec::PodHandle;
use crate::node::host::Host;

pub(super) type AgentBody = BoxBody<Bytes, Infallible>;

/// Largest request body, in bytes.
const LARGEST: usize = 1 << 20;

/// An error response.
#[derive(Debug)]
pub(super) struct ErrorResponse {
    code: StatusCode,
    reason: &'static str,
    message: String,
}

impl ErrorResponse {
    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self { code: StatusCode::NOT_FOUND, reason: "NotFound", message: message.into() }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self { code: StatusCode::BAD_REQUEST, reason: "BadRequest", message: message.into() }
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self { code: StatusCode::INTERNAL_SERVER_ERROR, reason: "InternalError", message: message.into() }
    }

    pub(super) fn into_response(self) -> Response<AgentBody> {
        let status = json!({
            "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code.as_u16(),
        });
        let mut response = Response::new(full(status.to_string()));
        *response.status_mut() = self.code;
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
        response
    }
}

pub(super) fn full(text: impl Into<Bytes>) -> AgentBody {
    Full::new(text.into()).boxed()
}

/// Reads the body of a request that will be upgraded.
pub(super) async fn read_body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, ErrorResponse> {
    let body = Limited::new(request.into_body(), LARGEST).collect().await;
    let body = body.map_err(|error| ErrorResponse::bad(format!("cannot read the request: {error}")))?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| ErrorResponse::bad(format!("cannot read the request: {error}")))
}

/// Returns the response that turns the connection into a raw stream.
pub(super) fn upgraded() -> Response<AgentBody> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert("connection", http::HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert("upgrade", http::HeaderValue::from_static("isthmus-stream"));
    response
}

pub(super) fn pod(host: &Host, namespace: &str, name: &str) -> Result<Arc<PodHandle>, ErrorResponse> {
    host.pods
        .get(namespace, name)
        .ok_or_else(|| ErrorResponse::not_found(format!("pod \"{namespace}/{name}\" does not run here")))
}
