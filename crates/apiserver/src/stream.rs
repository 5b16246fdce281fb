//! What clients reach through the API server rather than in it: a container's streams and logs, a pod's ports, and HTTP
//! behind `…/proxy/`.
//!
//! Streams come from the node agent, over its Unix socket ([`NodeClient`]); towards clients they are WebSockets in the
//! subprotocols of Kubernetes (`v5.channel.k8s.io`, `v4.channel.k8s.io`, and SPDY tunnelled in a WebSocket for `kubectl
//! port-forward`). Proxied HTTP is dialled directly: the server runs in the cluster's network.

mod attach;
mod exec;
mod forward;
mod logs;
mod node;
mod options;
mod proxy;
mod socket;
mod spdy;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::kinds::Subresource;
use options::Options;

pub use node::NodeClient;
pub use proxy::{ProxyTarget, proxy};

/// Body of a streamed response.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Why a request was not served, to be sent as a `Status`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// HTTP status.
    pub code: StatusCode,
    /// `reason` of the Status.
    pub reason: &'static str,
    /// `message` of the Status.
    pub message: String,
}

impl Refusal {
    fn bad_request(message: impl Into<String>) -> Self {
        Self { code: StatusCode::BAD_REQUEST, reason: "BadRequest", message: message.into() }
    }

    fn unavailable(message: impl Into<String>) -> Self {
        Self { code: StatusCode::SERVICE_UNAVAILABLE, reason: "ServiceUnavailable", message: message.into() }
    }

    fn internal(message: impl std::fmt::Display) -> Self {
        let message = format!("Internal error occurred: {message}");
        Self { code: StatusCode::INTERNAL_SERVER_ERROR, reason: "InternalError", message }
    }

    /// The `Status` with which a stream ends that was refused after it had been accepted.
    fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "reason": self.reason, "code": self.code.as_u16(), "message": self.message,
        })
    }
}

/// Serves `exec`, `attach`, `log` or `portforward` of `pod`, which the caller has read and authorised. The request still has
/// its upgrade, if it asks for one.
pub async fn pod(
    node: &NodeClient,
    subresource: Subresource,
    pod: &Value,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let options = Options::parse(request.uri().query().unwrap_or(""))?;
    match subresource {
        Subresource::Exec => exec::serve(node, pod, &options, request).await,
        Subresource::Attach => attach::serve(node, pod, &options, request).await,
        Subresource::Log => logs::serve(node, pod, &options).await,
        Subresource::PortForward => forward::serve(node, pod, &options, request),
        other => Err(Refusal::bad_request(format!("pods/{} is not a stream", other.name()))),
    }
}
