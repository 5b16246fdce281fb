//! One client's HTTP connection.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use runtime::drain::Watch;

use super::http2;
use super::incoming::Frames;
use super::pump::Pump;
use super::{BoxError, Incoming, Reply, date};
use crate::io::Io;
use crate::upstream::Version;

/// Streams that one client may have open. A sidecar's session carries up to a hundred; applications may want more.
const STREAMS: u32 = 1000;

/// From the drain's beginning, for a request to come on an idle HTTP/1.1 connection, whose response then says that it is
/// the last.
const LAST_REQUEST: Duration = Duration::from_millis(500);

/// Answers requests.
pub trait Handler: 'static {
    /// Answers one. Failures are answers, too.
    fn handle(self: Rc<Self>, request: Request<Incoming>) -> impl Future<Output = Response<Reply>>;
}

/// Serves a client's connection to its end. When the drain begins, requests under way are finished, the client is told to
/// go elsewhere (`Connection: close`, GOAWAY), and an idle connection is closed.
pub async fn serve<H: Handler>(io: Io, version: Version, handler: Rc<H>, drain: &Watch) -> Result<(), BoxError> {
    match version {
        Version::Http1 => Ok(serve_http1(io, handler, drain.clone()).await?),
        Version::Http2 => serve_http2(io, handler, drain.clone()).await,
    }
}

async fn serve_http1<H: Handler>(io: Io, handler: Rc<H>, mut drain: Watch) -> Result<(), hyper::Error> {
    let leaving = Rc::new(Cell::new(false));
    let told = leaving.clone();
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let answered = handler.clone().handle(request.map(Incoming::from));
        let leaving = told.clone();
        async move {
            let mut response = answered.await;
            if leaving.get() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .max_buf_size(crate::upstream::BUFFER)
        // An idle connection between proxies is kept by the client, which knows when it no longer needs it.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    tokio::pin!(connection);
    tokio::select! {
        result = &mut connection => return result,
        () = drain.begun() => leaving.set(true),
    }
    // What the client sends this moment is still answered; hyper's shutdown would close a connection that is idle, or new.
    tokio::select! {
        result = &mut connection => return result,
        () = tokio::time::sleep(LAST_REQUEST) => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// Over h2 itself and not over hyper's server: hyper has no way to set the budget for small frames, and leaves them in
/// h2's queue while the next hop gives no credit.
async fn serve_http2<H: Handler>(io: Io, handler: Rc<H>, mut drain: Watch) -> Result<(), BoxError> {
    let (paced, outbox) = http2::paced(io);
    let connection = h2::server::Builder::new()
        .initial_window_size(http2::STREAM_WINDOW)
        .initial_connection_window_size(http2::CONNECTION_WINDOW)
        .max_frame_size(http2::FRAME)
        .max_header_list_size(http2::HEAD)
        .max_concurrent_streams(STREAMS)
        .max_send_buffer_size(http2::SEND_BUFFER)
        .data_frame_budget(http2::DATA_FRAME_BUDGET)
        .handshake::<_, Bytes>(paced);
    let mut connection = pin!(connection);
    let mut connection = outbox.drive(|cx| connection.as_mut().poll(cx)).await??;
    let mut draining = false;
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = outbox.drive(|cx| connection.poll_accept(cx)) => accepted?,
            () = drain.begun(), if !draining => {
                // First that no more streams should come, then, a round trip later, which was the last that did.
                connection.graceful_shutdown();
                draining = true;
                continue;
            }
        };
        let Some(accepted) = accepted else { return Ok(()) };
        let (request, respond) = accepted?;
        tokio::task::spawn_local(answer(request, respond, handler.clone()));
    }
}

/// One stream: its request's answer, and that answer's body. All of it ends when the client resets the stream.
pub(super) async fn answer<H: Handler>(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    handler: Rc<H>,
) {
    let length = http2::content_length(request.headers());
    let answered = {
        let request = request.map(|stream| Incoming::Http2(Frames::new(stream, length, None)));
        let mut handled = pin!(handler.handle(request));
        poll_fn(|cx| match handled.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        })
        .await
    };
    let Some(response) = answered else { return };
    let (mut head, body) = response.into_parts();
    head.version = http::Version::HTTP_2;
    head.extensions.clear();
    date::tell(&mut head.headers);
    let ends = body.is_end_stream();
    if !ends {
        http2::announce_length(&mut head.headers, body.size_hint().exact());
    }
    match respond.send_response(Response::from_parts(head, ()), ends) {
        Ok(_) if ends => {}
        Ok(stream) => {
            if let Err(error) = Pump::new(body, stream, None).await {
                tracing::debug!(%error, "a response was not sent whole");
            }
        }
        Err(error) => {
            tracing::debug!(%error, "a response was not sent");
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    }
}

/// Returns the size of the task of one HTTP/2 stream with this handler, in bytes.
pub fn stream_size<H: Handler>() -> usize {
    fn returned<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }
    returned(answer::<H>)
}
