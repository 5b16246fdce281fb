//! HTTP/2 and gRPC.

use std::rc::Rc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Shared;
use crate::load::http2::{CONNECTION_WINDOW, FRAME_BUDGET, STREAM_WINDOW};
use crate::load::message::number_in;

/// The beginning of HTTP/2's connection preface (RFC 9113, section 3.4), enough to differ from any method.
pub(super) const PREFACE: &[u8] = b"PRI * ";

/// Serves one connection until it is closed.
pub(super) async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Rc<Shared>) -> Result<()> {
    let mut server = h2::server::Builder::new();
    server.initial_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    server.data_frame_budget(FRAME_BUDGET).max_concurrent_streams(1 << 16);
    let mut connection = server.handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        let shared = Rc::clone(&shared);
        tokio::task::spawn_local(async move {
            // Clients reset streams at any time.
            let _ = answer(request, respond, &shared).await;
        });
    }
    Ok(())
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, shared: &Shared) -> Result<()> {
    let (head, mut body) = request.into_parts();
    match head.uri.path() {
        // Both methods echo messages until the client ends its stream.
        "/bench.Echo/Unary" | "/bench.Echo/Stream" => {
            let response = Response::builder().header("content-type", "application/grpc").body(())?;
            let mut sender = respond.send_response(response, false)?;
            while let Some(data) = body.data().await {
                let data = data?;
                body.flow_control().release_capacity(data.len())?;
                sender.send_data(data, false)?;
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            Ok(sender.send_trailers(trailers)?)
        }
        path => {
            while let Some(data) = body.data().await {
                body.flow_control().release_capacity(data?.len())?;
            }
            let length = number_in(path.as_bytes());
            let response = Response::builder()
                .header("content-type", "application/octet-stream")
                .header("content-length", length)
                .body(())?;
            let mut sender = respond.send_response(response, length == 0)?;
            match shared.bytes.get(..length) {
                Some([]) => Ok(()),
                Some(_) => Ok(sender.send_data(shared.bytes.slice(..length), true)?),
                None => send_long(sender, &shared.bytes, length).await,
            }
        }
    }
}

/// Sends a body that is longer than `source`, within the peer's flow control.
async fn send_long(mut sender: SendStream<Bytes>, source: &Bytes, mut left: usize) -> Result<()> {
    while left > 0 {
        sender.reserve_capacity(left.min(source.len()));
        let capacity = std::future::poll_fn(|context| sender.poll_capacity(context)).await;
        let part = capacity.context("the stream ended")??.min(left).min(source.len());
        left -= part;
        sender.send_data(source.slice(..part), left == 0)?;
    }
    Ok(())
}
