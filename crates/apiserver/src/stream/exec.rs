//! `pods/exec`: a command's streams, bridged between a WebSocket and the node agent.
//!
//! Each WebSocket message starts with a byte that names its channel, the same numbers as in the agent's frames. Version 5 of
//! the subprotocol adds a message that closes a channel, so that a command sees the end of its input.

use bytes::Bytes;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::io::{ReadHalf, WriteHalf};
use tokio_tungstenite::tungstenite::Message;

use super::node::{self, CLOSE, NodeClient, RESIZE, STATUS, STDIN, Stream};
use super::options::Options;
use super::socket::{self, Socket, Upgrade};
use crate::body::Body;
use crate::status::Status;

/// Subprotocols, best first.
pub(super) const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

pub(super) async fn serve(
    node: &NodeClient,
    pod: &Value,
    options: &Options,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    if options.command.is_empty() {
        return Err(Status::bad_request("you must specify at least 1 command for the container"));
    }
    if !options.stdin && !options.stdout && !options.stderr {
        return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    let container = options.container(pod)?.to_owned();
    let upgrade = Upgrade::negotiate(request, &PROTOCOLS)?;
    // The upgrade comes first: kubectl takes a refused one for a server without WebSockets, and asks again in another protocol.
    let (node, pod, options) = (node.clone(), pod.clone(), options.clone());
    upgrade.accept(move |mut socket| async move {
        match node.exec(&pod, &container, &options).await {
            Ok(stream) => bridge(socket, stream).await,
            Err(refusal) => socket::refuse(&mut socket, &refusal).await,
        }
    })
}

/// Carries the streams until the command has ended or the client has left.
async fn bridge(socket: Socket, stream: Stream) {
    let (mut to_client, mut from_client) = socket.split();
    let (mut from_node, mut to_node) = tokio::io::split(stream);
    let input = async {
        while let Some(Ok(message)) = from_client.next().await {
            let sent = match message {
                Message::Binary(data) => forward(&data, &mut to_node).await,
                Message::Close(_) => return,
                _ => Ok(()),
            };
            if sent.is_err() {
                // The command no longer reads; its output and status are still to come.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = output(&mut from_node, &mut to_client) => {
            socket::close(&mut to_client).await;
            // The client closes last, so that nothing it has not read yet is lost.
            let rest = async { while let Some(Ok(_)) = from_client.next().await {} };
            let _ = tokio::time::timeout(LINGER, rest).await;
        }
        // Dropping the agent's stream ends the command.
        () = input => {}
    }
}

/// How long a client may take to close its side.
const LINGER: std::time::Duration = std::time::Duration::from_secs(5);

/// Passes one message of the client on.
async fn forward(data: &[u8], to_node: &mut WriteHalf<Stream>) -> std::io::Result<()> {
    match data {
        [channel @ (STDIN | RESIZE), data @ ..] if !data.is_empty() => node::write_frame(to_node, *channel, data).await,
        [CLOSE, STDIN] => node::write_frame(to_node, CLOSE, &[STDIN]).await,
        _ => Ok(()),
    }
}

/// Passes the command's output on, and in the end its status.
async fn output(from_node: &mut ReadHalf<Stream>, to_client: &mut SplitSink<Socket, Message>) {
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

/// The status that says that the agent failed.
fn failure(why: impl std::fmt::Display) -> Bytes {
    Status::internal(why).to_value().to_string().into()
}
