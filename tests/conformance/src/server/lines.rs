//! Lines: `ID SCRIPT`, answered with the server's name; also in tunnels.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::future::ready;
use futures_util::stream::{StreamExt as _, once, pending};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};

use super::script::Step;
use super::{Body, Reached, Server, TUNNELS, bind};
use crate::ledger::{Seen, report};

/// Answers line by line.
pub(super) async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    reached: Reached,
    server: &Server,
) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let answer = one(&std::mem::take(&mut line), &reached, server).await?;
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await?;
    }
    Ok(())
}

async fn one(line: &str, reached: &Reached, server: &Server) -> Result<String> {
    let (id, script) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
    let version = server.name.clone();
    let (tls, port) = (reached.how.clone(), reached.port);
    let seen = Seen { id: id.to_owned(), version, method: "line".to_owned(), tls, port, ..Seen::default() };
    let attempt = report(&server.ledger, &seen).await?;
    tokio::time::sleep(Step::of(script, attempt, &server.name)?.delay).await;
    Ok(format!("{}\n", server.name))
}

/// Answers lines in tunnels by CONNECT, and the first line of tunnels by POST.
pub(super) async fn listen_for_tunnels(port: u16, server: Arc<Server>) -> Result<()> {
    let listener = bind(port).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let server = Arc::clone(&server);
        let service = service_fn(move |request| open(request, Arc::clone(&server)));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades());
    }
}

async fn open(mut request: Request<Incoming>, server: Arc<Server>) -> Result<Response<Body>> {
    let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or("none");
    let reached = Reached { how: format!("{} {}, host {host}", request.method(), request.uri()), port: TUNNELS };
    if request.method() == Method::CONNECT {
        tokio::spawn(async move {
            let stream = hyper::upgrade::on(&mut request).await?;
            answer(TokioIo::new(stream), reached, &server).await
        });
        return Ok(Response::new(Full::default().boxed()));
    }
    let frame = request.body_mut().frame().await.context("no body")??;
    let line = frame.into_data().map_err(|_| anyhow::anyhow!("no data"))?;
    let answer = one(&String::from_utf8_lossy(&line), &reached, &server).await?;
    // A tunnel stays open after a line.
    let frames = once(ready(Ok(Frame::data(Bytes::from(answer))))).chain(pending());
    Ok(Response::new(BodyExt::boxed(StreamBody::new(frames))))
}
