//! `pods/attach`: the output of a running container, and its standard input if it has one.
//!
//! The node agent writes a container's output to its log. Attaching therefore follows the log: from its end, or from its
//! beginning if the input is for one client, which then receives what the container answers at once.

use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::client::ClientChannels;
use super::exec;
use super::node::{NodeClient, NodeStream, STATUS, STDOUT};
use super::options::StreamOptions;
use crate::body::ResponseBody;
use crate::status::Status;

pub(super) async fn serve(
    node: &NodeClient,
    pod: &Value,
    options: &StreamOptions,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Status> {
    let container = options.container(pod)?.to_owned();
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let spec = containers.into_iter().find(|item| item["name"] == container).unwrap_or(&Value::Null);
    if options.stdin && spec["stdin"] != true {
        return Err(Status::bad_request(format!(
            "container {container} has no standard input to attach to: run a command in it with exec instead"
        )));
    }
    let only_client = options.stdin && spec["stdinOnce"] == true;
    let tail_lines = if only_client { None } else { Some(0) };
    let follow = StreamOptions { follow: true, tail_lines, ..StreamOptions::default() };
    let (node, pod, stdin) = (node.clone(), pod.clone(), options.stdin);
    ClientChannels::upgrade(request, options, move |client| async move {
        let opened = async {
            let output = node.logs(&pod, &container, &follow).await?;
            let input = if stdin { Some(node.attach(&pod, &container).await?) } else { None };
            Ok((output, input))
        };
        match opened.await {
            Ok((output, input)) => bridge(client, output, input).await,
            Err(refusal) => client.refuse(&refusal).await,
        }
    })
}

async fn bridge(mut client: ClientChannels, mut output: Incoming, input: Option<NodeStream>) {
    let (_from_node, mut to_node) = input.map(tokio::io::split).unzip();
    let copy = async {
        while let Some(Ok(frame)) = output.frame().await {
            if let Ok(data) = frame.into_data()
                && client.output.send(STDOUT, &data).await.is_err()
            {
                return;
            }
        }
        let success = json!({"metadata": {}, "status": "Success"}).to_string();
        let _ = client.output.send(STATUS, success.as_bytes()).await;
    };
    let left = async {
        while let Some((channel, data)) = client.input.next().await {
            if let Some(to_node) = &mut to_node {
                // An error means that the container reads no more; its output follows.
                let _ = exec::forward(channel, &data, to_node).await;
            }
        }
    };
    let has_ended = tokio::select! {
        () = copy => true,
        () = left => false,
    };
    if has_ended {
        client.close().await;
    }
}
