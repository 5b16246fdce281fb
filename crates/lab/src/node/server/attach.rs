//! The standard input of running containers: frames on one connection, as those of commands.

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::AsyncRead;

use super::exec::{CLOSE, STDIN, read_frame};
use super::reply::{AgentBody, ErrorResponse, pod, read_body, upgraded};
use crate::node::exec::ContainerInput;
use crate::node::host::Host;

#[derive(Debug, Deserialize)]
struct AttachRequest {
    namespace: String,
    pod: String,
    container: String,
}

pub(super) async fn serve(host: &Host, mut request: Request<Incoming>) -> Result<Response<AgentBody>, ErrorResponse> {
    let upgrade = hyper::upgrade::on(&mut request);
    let wanted: AttachRequest = read_body(request).await?;
    let refused =
        |what: &str| ErrorResponse::bad(format!("container {:?} in pod {:?} {what}", wanted.container, wanted.pod));
    let pod = pod(host, &wanted.namespace, &wanted.pod)?;
    let live = pod.live(&wanted.container).ok_or_else(|| refused("does not run"))?;
    if live.input.is_none() {
        return Err(refused("has no standard input"));
    }
    tokio::spawn(async move {
        if let (Ok(connection), Some(input)) = (upgrade.await, &live.input) {
            feed(TokioIo::new(connection), input).await;
        }
    });
    Ok(upgraded())
}

/// Copies the client's input until it ends or the client disconnects.
async fn feed(mut reader: impl AsyncRead + Unpin, input: &ContainerInput) {
    while let Ok((channel, data)) = read_frame(&mut reader).await {
        match channel {
            STDIN if input.write(&data).await.is_err() => return,
            CLOSE if data == [STDIN] => break,
            _ => {}
        }
    }
    input.detached().await;
}
