//! Streams of pods and proxied HTTP: exec, attach, logs, port forwarding, and `…/proxy/`.
//!
//! Streams are served by the node agent, over its Unix socket ([`NodeClient`]). Clients use WebSockets with Kubernetes'
//! subprotocols (`v5.channel.k8s.io`, `v4.channel.k8s.io`, and SPDY tunnelled in a WebSocket for `kubectl
//! port-forward`), or SPDY. Proxied HTTP is sent directly, because the server is in the cluster's network.

mod attach;
mod client;
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

use crate::body::ResponseBody;
use crate::kinds::Subresource;
use crate::status::Status;
use options::StreamOptions;

pub(crate) use node::{MeasuredUsage, NodeClient, Usage};
pub(crate) use proxy::{ProxyTarget, proxy};

/// Serves `exec`, `attach`, `log` or `portforward` of `pod` for an authorized request. The request's upgrade, if it has
/// one, has not been taken.
pub(crate) async fn pod(
    node: &NodeClient,
    subresource: Subresource,
    pod: &Value,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Status> {
    let options = StreamOptions::parse(request.uri().query().unwrap_or(""))?;
    match subresource {
        Subresource::Exec => exec::serve(node, pod, &options, request).await,
        Subresource::Attach => attach::serve(node, pod, &options, request).await,
        Subresource::Log => logs::serve(node, pod, &options).await,
        Subresource::PortForward => forward::serve(node, pod, &options, request),
        other => Err(Status::bad_request(format!("pods/{} is not a stream", other.name()))),
    }
}
