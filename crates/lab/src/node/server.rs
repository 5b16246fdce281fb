//! The node agent's socket: commands in containers, logs and port forwarding for the API server, HTTP/1.1 on a Unix
//! socket.
//!
//! `POST /exec`, `POST /attach` and `POST /portforward` become raw streams by an upgrade, `GET /logs` returns text, `GET /usage`
//! returns what the containers use. An error is a Kubernetes `Status` with the matching HTTP code. `POST /nodes/{node}/kill` and `…/revive` inject faults.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::host::Host;
use super::logs::{self, LogQuery};
use super::nodes::NodeFault;

mod attach;
mod exec;
mod forward;
mod reply;

use reply::{AgentBody, ErrorResponse, full, pod};

/// Serves until the socket fails.
pub(super) async fn serve(host: Arc<Host>) -> io::Result<()> {
    let path = &host.settings.socket;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(host.clone(), stream))),
            Err(error) => {
                // The process is out of file descriptors until something ends.
                tracing::warn!(%error, "the node agent's socket cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(host: Arc<Host>, stream: UnixStream) {
    let service = service_fn(move |request| {
        let host = host.clone();
        async move { Ok::<_, Infallible>(answer(&host, request).await.unwrap_or_else(ErrorResponse::into_response)) }
    });
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.with_upgrades().await {
        tracing::debug!(%error, "a connection to the node agent ended with an error");
    }
}

async fn answer(host: &Host, request: Request<Incoming>) -> Result<Response<AgentBody>, ErrorResponse> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/healthz") => Ok(Response::new(full("ok"))),
        (&Method::GET, "/logs") => log(host, request.uri().query().unwrap_or_default()).await,
        (&Method::GET, "/usage") => Ok(usage(host)),
        (&Method::POST, "/attach") => attach::serve(host, request).await,
        (&Method::POST, "/exec") => exec::serve(host, request).await,
        (&Method::POST, "/portforward") => forward::serve(host, request).await,
        (&Method::POST, path) if path.starts_with("/nodes/") => node(host, path),
        (method, path) => Err(ErrorResponse::not_found(format!("the node agent does not serve {method} {path}"))),
    }
}

fn usage(host: &Host) -> Response<AgentBody> {
    let usage = serde_json::to_vec(&*host.usage.get()).unwrap_or_default();
    let mut response = Response::new(full(usage));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

/// Serves `/nodes/{node}/kill` and `/nodes/{node}/revive`.
fn node(host: &Host, path: &str) -> Result<Response<AgentBody>, ErrorResponse> {
    let (name, action) = path.trim_start_matches("/nodes/").split_once('/').unwrap_or_default();
    let fault = [NodeFault::Kill, NodeFault::Revive].into_iter().find(|fault| fault.name() == action);
    let fault = fault.ok_or_else(|| {
        ErrorResponse::not_found(format!("unknown fault {action:?} of a node; faults are kill and revive"))
    })?;
    if host.nodes.inject(name, fault) {
        Ok(Response::new(full("ok")))
    } else {
        Err(ErrorResponse::not_found(format!("there is no node {name:?}")))
    }
}

async fn log(host: &Host, query: &str) -> Result<Response<AgentBody>, ErrorResponse> {
    let query: HashMap<String, String> = parameters(query);
    let text = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    let number = |name: &str| match query.get(name).map(|value| value.parse::<u64>()) {
        None => Ok(None),
        Some(Ok(number)) => Ok(Some(number)),
        Some(Err(_)) => Err(ErrorResponse::bad(format!("{name} is not a number: {:?}", text(name)))),
    };
    let (pod, container) = (pod(host, text("namespace"), text("pod"))?, text("container"));
    let Some((run, progress)) = pod.run(container) else {
        let message = format!("container {container:?} in pod {:?} is waiting to start", text("pod"));
        return Err(ErrorResponse::bad(message));
    };
    let previous = text("previous") == "true";
    let run = match (previous, run.checked_sub(1)) {
        (false, _) => run,
        (true, Some(before)) => before,
        (true, None) => {
            let message = format!("previous terminated container {container:?} in pod {:?} not found", text("pod"));
            return Err(ErrorResponse::bad(message));
        }
    };
    let log_query = LogQuery {
        follow: text("follow") == "true",
        tail: number("tailLines")?.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX)),
        timestamps: text("timestamps") == "true",
        since: number("sinceSeconds")?.map(Duration::from_secs),
        limit: number("limitBytes")?,
    };
    let file = logs::path(&pod.directory, container, run);
    let (sender, pieces) = mpsc::channel(16);
    let progress = (!previous).then_some(progress);
    tokio::spawn(async move {
        if let Err(error) = logs::stream(file, log_query, progress, sender).await {
            tracing::debug!(%error, "a log cannot be read");
        }
    });
    let body = StreamBody::new(ReceiverStream::new(pieces).map(|piece| Ok::<_, Infallible>(Frame::data(piece))));
    let mut response = Response::new(BodyExt::boxed(body));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// Returns the decoded parameters of a query.
fn parameters(query: &str) -> HashMap<String, String> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let hex = |rest: &std::str::Bytes<'_>| {
            let mut digits = rest.clone();
            let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
            Some((digit(digits.next())? * 16 + digit(digits.next())?) as u8)
        };
        match (byte, (byte == b'%').then(|| hex(&bytes)).flatten()) {
            (_, Some(value)) => {
                out.push(value);
                bytes.next();
                bytes.next();
            }
            (b'+', None) => out.push(b' '),
            (byte, None) => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = parameters("pod=web-1&container=a%2Fb+c&x=%zz&flag");
        assert_eq!(
            (query["pod"].as_str(), query["container"].as_str(), query["x"].as_str()),
            ("web-1", "a/b c", "%zz")
        );
        assert_eq!(query.len(), 3);
    }
}
