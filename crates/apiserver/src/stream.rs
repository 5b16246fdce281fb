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

use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::Value;

use crate::body::Body;
use crate::kinds::Subresource;
use crate::status::Status;
use options::Options;

pub(crate) use node::NodeClient;
pub(crate) use proxy::{ProxyTarget, proxy};

/// Serves `exec`, `attach`, `log` or `portforward` of `pod`, which the caller has read and authorised. The request still has
/// its upgrade, if it asks for one.
pub(crate) async fn pod(
    node: &NodeClient,
    subresource: Subresource,
    pod: &Value,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let options = Options::parse(request.uri().query().unwrap_or(""))?;
    match subresource {
        Subresource::Exec => exec::serve(node, pod, &options, request).await,
        Subresource::Attach => attach::serve(node, pod, &options, request).await,
        Subresource::Log => logs::serve(node, pod, &options).await,
        Subresource::PortForward => forward::serve(node, pod, &options, request),
        other => Err(Status::bad_request(format!("pods/{} is not a stream", other.name()))),
    }
}
