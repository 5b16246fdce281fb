//! `pods/exec`: the streams of a command, between a WebSocket and the node agent.
//!
//! The first byte of a WebSocket message is its channel, with the same numbers as in the agent's frames. Version 5 of
//! the subprotocol adds a message that closes a channel, which ends the command's input.

use bytes::Bytes;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::io::{ReadHalf, WriteHalf};
use tokio_tungstenite::tungstenite::Message;

use super::node::{self, CLOSE, NodeClient, NodeStream, RESIZE, STATUS, STDIN};
use super::options::StreamOptions;
use super::socket::{self, ClientSocket, WebSocketUpgrade};
use crate::body::ResponseBody;
use crate::status::Status;

/// Subprotocols by preference.
pub(super) const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

pub(super) async fn serve(
    node: &NodeClient,
    pod: &Value,
    options: &StreamOptions,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Status> {
    if options.command.is_empty() {
        return Err(Status::bad_request("you must specify at least 1 command for the container"));
    }
    if !options.stdin && !options.stdout && !options.stderr {
        return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    let container = options.container(pod)?.to_owned();
    let upgrade = WebSocketUpgrade::negotiate(request, &PROTOCOLS)?;
    // Errors are sent after the upgrade, because kubectl falls back to SPDY if the upgrade fails.
    let (node, pod, options) = (node.clone(), pod.clone(), options.clone());
    upgrade.accept(move |mut socket| async move {
        match node.exec(&pod, &container, &options).await {
            Ok(stream) => bridge(socket, stream).await,
            Err(refusal) => socket::refuse(&mut socket, &refusal).await,
        }
    })
}

/// Copies the streams until the command ends or the client disconnects.
async fn bridge(socket: ClientSocket, stream: NodeStream) {
    let (mut to_client, mut from_client) = socket.split();
    let (mut from_node, mut to_node) = tokio::io::split(stream);
    let input = async {
        while let Some(Ok(message)) = from_client.next().await {
            if matches!(message, Message::Close(_)) {
                return;
            }
            if forward(&message, &mut to_node).await.is_err() {
                // The command no longer reads its input. Its output and status follow.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = output(&mut from_node, &mut to_client) => {
            socket::close(&mut to_client).await;
            // The client closes last, so that it can read all data.
            let rest = async { while let Some(Ok(_)) = from_client.next().await {} };
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, rest).await;
        }
        // Closing the agent's stream ends the command.
        () = input => {}
    }
}

/// How long a client may take to close its side.
const CLOSE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// Forwards a message of the client. Like Kubernetes, the server makes no difference between binary messages and text.
pub(super) async fn forward(message: &Message, to_node: &mut WriteHalf<NodeStream>) -> std::io::Result<()> {
    let data: &[u8] = match message {
        Message::Binary(data) => data,
        Message::Text(text) => text.as_bytes(),
        _ => return Ok(()),
    };
    match data {
        [channel @ (STDIN | RESIZE), data @ ..] if !data.is_empty() => node::write_frame(to_node, *channel, data).await,
        [CLOSE, STDIN] => node::write_frame(to_node, CLOSE, &[STDIN]).await,
        _ => Ok(()),
    }
}

/// Forwards the command's output, and its status at the end.
async fn output(from_node: &mut ReadHalf<NodeStream>, to_client: &mut SplitSink<ClientSocket, Message>) {
    loop {
        let (channel, data) = match node::read_frame(from_node).await {
            Ok(Some(frame)) => frame,
            Ok(None) => (STATUS, failure("the node agent closed the stream before the command ended")),
            Err(error) => (STATUS, failure(error)),
        };
        if to_client.send(socket::message(channel, &data)).await.is_err() || channel == STATUS {
            return;
        }
    }
}

/// The status of a failed agent.
fn failure(why: impl std::fmt::Display) -> Bytes {
    Status::internal(why).to_value().to_string().into()
}
