//! `pods/exec`: the streams of a command, between the client and the node agent.
//!
//! The client's channels have the same numbers as in the agent's frames. Version 5 of the WebSocket's subprotocol adds a
//! message that closes a channel, which ends the command's input.

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::io::{ReadHalf, WriteHalf};

use super::client::{ClientChannels, ClientOutput};
use super::node::{self, CLOSE, NodeClient, NodeStream, RESIZE, STATUS, STDIN};
use super::options::StreamOptions;
use crate::body::ResponseBody;
use crate::status::Status;

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
    let (node, pod, command) = (node.clone(), pod.clone(), options.clone());
    // Errors are sent after the upgrade, because kubectl falls back to SPDY if the upgrade fails.
    ClientChannels::upgrade(request, options, move |client| async move {
        match node.exec(&pod, &container, &command).await {
            Ok(stream) => bridge(client, stream).await,
            Err(refusal) => client.refuse(&refusal).await,
        }
    })
}

/// Copies the streams until the command ends or the client disconnects.
async fn bridge(mut client: ClientChannels, stream: NodeStream) {
    let (mut from_node, mut to_node) = tokio::io::split(stream);
    let input = async {
        while let Some((channel, data)) = client.input.next().await {
            if forward(channel, &data, &mut to_node).await.is_err() {
                // The command no longer reads its input. Its output and status follow.
                std::future::pending::<()>().await;
            }
        }
    };
    let has_ended = tokio::select! {
        () = output(&mut from_node, &mut client.output) => true,
        // Closing the agent's stream ends the command.
        () = input => false,
    };
    if has_ended {
        client.close().await;
    }
}

/// Forwards what the client sent on a channel.
pub(super) async fn forward(channel: u8, data: &[u8], to_node: &mut WriteHalf<NodeStream>) -> std::io::Result<()> {
    match (channel, data) {
        (STDIN | RESIZE, data) if !data.is_empty() => node::write_frame(to_node, channel, data).await,
        (CLOSE, [STDIN]) => node::write_frame(to_node, CLOSE, &[STDIN]).await,
        _ => Ok(()),
    }
}

/// Forwards the command's output, and its status at the end.
async fn output(from_node: &mut ReadHalf<NodeStream>, to_client: &mut ClientOutput) {
    loop {
        let (channel, data) = match node::read_frame(from_node).await {
            Ok(Some(frame)) => frame,
            Ok(None) => (STATUS, failure("the node agent closed the stream before the command ended")),
            Err(error) => (STATUS, failure(error)),
        };
        if to_client.send(channel, &data).await.is_err() || channel == STATUS {
            return;
        }
    }
}

/// The status of a failed agent.
fn failure(why: impl std::fmt::Display) -> Bytes {
    Status::internal(why).to_value().to_string().into()
}
