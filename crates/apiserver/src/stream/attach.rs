//! `pods/attach`: a running container's output, as of now.
//!
//! The node agent keeps a container's output in its log and gives it no input, so that attaching is following the log from its
//! end, and attaching to standard input is refused.

use futures_util::{SinkExt, StreamExt};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::exec::PROTOCOLS;
use super::node::{NodeClient, STATUS, STDOUT};
use super::options::Options;
use super::socket::{self, Socket, Upgrade, message};
use crate::body::Body;
use crate::status::Status;

pub(super) async fn serve(
    node: &NodeClient,
    pod: &Value,
    options: &Options,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let container = options.container(pod)?.to_owned();
    if options.stdin {
        return Err(Status::bad_request(format!(
            "container {container} has no standard input to attach to: run a command in it with exec instead"
        )));
    }
    let upgrade = Upgrade::negotiate(request, &PROTOCOLS)?;
    let follow = Options { follow: true, tail_lines: Some(0), ..Options::default() };
    let (node, pod) = (node.clone(), pod.clone());
    upgrade.accept(move |mut socket| async move {
        match node.logs(&pod, &container, &follow).await {
            Ok(output) => bridge(socket, output).await,
            Err(refusal) => socket::refuse(&mut socket, &refusal).await,
        }
    })
}

async fn bridge(socket: Socket, mut output: Incoming) {
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
