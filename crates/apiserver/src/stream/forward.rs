//! `pods/portforward`: connections to a pod's ports.
//!
//! There are three protocols. kubectl tunnels SPDY in a WebSocket, where each connection has a data stream and an error
//! stream; older clients use the same SPDY after a plain upgrade; others (kube-rs) open a WebSocket for a fixed list of
//! ports and use channel numbers.

mod channels;
mod tunnel;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::io::ReaderStream;

use super::node::NodeClient;
use super::options::StreamOptions;
use super::socket::{self, WebSocketUpgrade, has_token};
use crate::body::ResponseBody;
use crate::status::Status;
use channels::QUEUE;
use tunnel::Tunnel;

/// SPDY in WebSocket messages.
const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";
/// Channels in WebSocket messages.
const CHANNELS: &str = "v4.channel.k8s.io";
/// SPDY after an upgrade.
const SPDY: &str = "SPDY/3.1";
/// Protocol of a plain SPDY connection, and the header that negotiates it.
const SPDY_PROTOCOL: &str = "portforward.k8s.io";
const SPDY_PROTOCOL_HEADER: &str = "x-stream-protocol-version";

pub(super) fn serve(
    node: &NodeClient,
    pod: &Value,
    options: &StreamOptions,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Status> {
    if pod["status"]["phase"] != "Running" {
        let phase = pod["status"]["phase"].as_str().unwrap_or("Unknown");
        return Err(Status::bad_request(format!(
            "unable to forward port because pod is not running. Current status={phase}"
        )));
    }
    if has_token(request.headers(), UPGRADE.as_str(), SPDY) {
        return spdy(node.clone(), pod.clone(), request);
    }
    let upgrade = WebSocketUpgrade::negotiate(request, &[TUNNELLED, CHANNELS])?;
    let (node, pod, ports) = (node.clone(), pod.clone(), options.ports.clone());
    if upgrade.protocol == CHANNELS {
        if ports.is_empty() {
            return Err(Status::bad_request("query parameter \"ports\" is required"));
        }
        return upgrade.accept(move |socket| channels::serve(node, pod, ports, socket));
    }
    upgrade.accept(move |socket| async move {
        let (mut to_client, from_client) = socket.split();
        let (frames, mut queued) = mpsc::channel::<Bytes>(QUEUE);
        let write = async {
            while let Some(frame) = queued.recv().await {
                if to_client.send(Message::Binary(frame)).await.is_err() {
                    return;
                }
            }
            socket::close(&mut to_client).await;
        };
        let pieces = from_client.filter_map(|message| {
            std::future::ready(match message {
                Ok(Message::Binary(piece)) => Some(piece),
                _ => None,
            })
        });
        let tunnel = Tunnel::new(node, pod, frames).run(Box::pin(pieces));
        tokio::join!(tunnel, write);
    })
}

/// SPDY without a WebSocket.
fn spdy(node: NodeClient, pod: Value, request: Request<Incoming>) -> Result<Response<ResponseBody>, Status> {
    if !has_token(request.headers(), SPDY_PROTOCOL_HEADER, SPDY_PROTOCOL) {
        return Err(Status::bad_request(format!("unable to negotiate protocol: server accepts [{SPDY_PROTOCOL}]")));
    }
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let (from_client, mut to_client) = tokio::io::split(TokioIo::new(upgraded));
        let (frames, mut queued) = mpsc::channel::<Bytes>(QUEUE);
        let write = async {
            use tokio::io::AsyncWriteExt as _;
            while let Some(frame) = queued.recv().await {
                if to_client.write_all(&frame).await.is_err() || to_client.flush().await.is_err() {
                    return;
                }
            }
            let _ = to_client.shutdown().await;
        };
        let pieces = ReaderStream::new(from_client).filter_map(|piece| std::future::ready(piece.ok()));
        let tunnel = Tunnel::new(node, pod, frames).run(Box::pin(pieces));
        tokio::join!(tunnel, write);
    });
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(SPDY));
    response.headers_mut().insert(SPDY_PROTOCOL_HEADER, HeaderValue::from_static(SPDY_PROTOCOL));
    Ok(response)
}
