//! `pods/attach`: the output of a running container.
//!
//! The node agent writes a container's output to its log and gives the container no standard input. Attaching therefore
//! follows the log from its end, and attaching to standard input is an error.

use futures_util::{SinkExt, StreamExt};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::exec::PROTOCOLS;
use super::node::{NodeClient, STATUS, STDOUT};
use super::options::StreamOptions;
use super::socket::{self, ClientSocket, WebSocketUpgrade, message};
use crate::body::ResponseBody;
use crate::status::Status;

pub(super) async fn serve(
    node: &NodeClient,
    pod: &Value,
    options: &StreamOptions,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Status> {
    let container = options.container(pod)?.to_owned();
    if options.stdin {
        return Err(Status::bad_request(format!(
            "container {container} has no standard input to attach to: run a command in it with exec instead"
        )));
    }
    let upgrade = WebSocketUpgrade::negotiate(request, &PROTOCOLS)?;
    let follow = StreamOptions { follow: true, tail_lines: Some(0), ..StreamOptions::default() };
    let (node, pod) = (node.clone(), pod.clone());
    upgrade.accept(move |mut socket| async move {
        match node.logs(&pod, &container, &follow).await {
            Ok(output) => bridge(socket, output).await,
            Err(refusal) => socket::refuse(&mut socket, &refusal).await,
        }
    })
}

async fn bridge(socket: ClientSocket, mut output: Incoming) {
    let (mut to_client, mut from_client) = socket.split();
    let copy = async {
        while let Some(Ok(frame)) = output.frame().await {
            if let Ok(data) = frame.into_data()
                && to_client.send(message(STDOUT, &data)).await.is_err()
            {
                return;
            }
        }
        let success = json!({"metadata": {}, "status": "Success"}).to_string();
        let _ = to_client.send(message(STATUS, success.as_bytes())).await;
        socket::close(&mut to_client).await;
    };
    let left = async { while let Some(Ok(_)) = from_client.next().await {} };
    tokio::select! {
        () = copy => {}
        () = left => {}
    }
}
