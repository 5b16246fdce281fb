//! What kubectl reaches through the API server rather than in it: a container's streams and logs, a pod's ports, and HTTP
//! behind `…/proxy/`.

use std::path::PathBuf;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use serde_json::Value;

use crate::kinds::{Kind, Subresource};

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

/// Client of the node agent that runs a cluster's pods, over its Unix socket.
#[derive(Clone, Debug)]
pub struct NodeClient {
    socket: PathBuf,
}

impl NodeClient {
    /// A client of the agent that listens on `socket`. Nothing is opened until a request needs it.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
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
    let _ = (&node.socket, subresource, pod, request);
    Err(Refusal { code: StatusCode::NOT_IMPLEMENTED, reason: "NotImplemented", message: "not served".into() })
}

/// What `…/{name}/proxy` addresses: `[scheme:]name[:port]` in the URL's name segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyTarget {
    /// Whether the peer speaks TLS.
    pub https: bool,
    /// Name of the object.
    pub name: String,
    /// Port, by number or name.
    pub port: Option<String>,
}

impl ProxyTarget {
    /// Reads the URL segment.
    pub fn parse(segment: &str) -> Option<Self> {
        Some(Self { https: false, name: segment.to_owned(), port: None })
    }
}

/// Serves `…/proxy/{path}` of a pod, service or node, which the caller has read and authorised. `path` starts with a slash;
/// the query is taken from the request.
pub async fn proxy(
    kind: &Kind,
    object: &Value,
    target: &ProxyTarget,
    path: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let _ = (kind, object, target, path, request);
    Err(Refusal { code: StatusCode::NOT_IMPLEMENTED, reason: "NotImplemented", message: "not served".into() })
}
