//! One downstream HTTP connection.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
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
use runtime::admission::{Admitted, Use};
use runtime::drain::Watch;

use super::heads::Heads;
use super::{ResponseBody, date};
use crate::http::{BUFFER, BoxError, Http2Body, Incoming, Pump, Version, expects_continue, http2};
use crate::io::Io;

/// The maximum number of concurrent streams. A sidecar's session carries up to a hundred; applications may open more.
const MAX_STREAMS: u32 = 1000;

/// How long an idle HTTP/1.1 connection stays open after the drain has begun, for a request whose response then announces
/// the end of the connection.
const LAST_REQUEST: Duration = Duration::from_millis(500);

/// Handles requests.
pub trait Handler: 'static {
    /// Returns the response to a request. Failures are responses as well.
    fn handle(self: Rc<Self>, request: Request<Incoming>) -> impl Future<Output = Response<ResponseBody>>;
}

/// Serves a connection until it ends. When the drain begins, requests in progress are finished, the downstream is asked to
/// use another connection (`Connection: close`, GOAWAY), and an idle connection is closed.
///
/// `admitted` learns when a head is complete and whether requests are in progress.
pub async fn serve<H: Handler>(
    io: Io,
    version: Version,
    handler: Rc<H>,
    admitted: Rc<Admitted>,
    drain: &Watch,
) -> Result<(), BoxError> {
    match version {
        Version::Http1 => Ok(serve_http1(io, handler, admitted, drain.clone()).await?),
        Version::Http2 => serve_http2(io, handler, admitted, drain.clone()).await,
    }
}

async fn serve_http1<H: Handler>(
    io: Io,
    handler: Rc<H>,
    admitted: Rc<Admitted>,
    mut drain: Watch,
) -> Result<(), hyper::Error> {
    let heads = Heads::new(admitted, io.is_tls());
    let draining = Rc::new(Cell::new(false));
    let (is_draining, completed) = (draining.clone(), heads.clone());
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let served = completed.complete(!request.body().is_end_stream());
        let handled = handler.clone().handle(request.map(Incoming::from));
        let draining = is_draining.clone();
        async move {
            let mut response = handled.await;
            response.body_mut().served = Some(served);
            if draining.get() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .max_buf_size(BUFFER)
        // The downstream closes an idle connection when it no longer needs it.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(heads.watch(io)), service)
        .with_upgrades();
    tokio::pin!(connection);
    tokio::select! {
        result = drive(connection.as_mut(), &heads) => return result,
        () = drain.begun() => draining.set(true),
    }
    // Requests that are in flight now are still handled; hyper's shutdown would close a connection that is idle or new.
    tokio::select! {
        result = drive(connection.as_mut(), &heads) => return result,
        () = tokio::time::sleep(LAST_REQUEST) => connection.as_mut().graceful_shutdown(),
    }
    drive(connection, &heads).await
}

/// Drives a connection, and reports to `heads` whenever it waits.
fn drive<C: Future>(mut connection: Pin<&mut C>, heads: &Heads) -> impl Future<Output = C::Output> {
    poll_fn(move |cx| {
        let polled = connection.as_mut().poll(cx);
        if polled.is_pending() {
            heads.waits();
        }
        polled
    })
}

/// Uses h2 directly instead of hyper's server: hyper cannot set the budget for small frames, and leaves them in h2's queue
/// while the next hop gives no flow-control credit.
async fn serve_http2<H: Handler>(
    io: Io,
    handler: Rc<H>,
    admitted: Rc<Admitted>,
    mut drain: Watch,
) -> Result<(), BoxError> {
    let window = http2::upload_connection_window(io.is_tls());
    let (paced, outbox) = http2::paced(io);
    let connection = h2::server::Builder::new()
        .initial_window_size(http2::UPLOAD_STREAM_WINDOW)
        .initial_connection_window_size(window)
        .max_frame_size(http2::FRAME)
        .max_header_list_size(http2::HEAD)
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buffer_size(http2::SEND_BUFFER)
        .data_frame_budget(http2::DATA_FRAME_BUDGET)
        .handshake::<_, Bytes>(paced);
    let mut connection = pin!(connection);
    let mut connection = outbox.drive(|cx| connection.as_mut().poll(cx)).await??;
    admitted.prove();
    let mut draining = false;
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = outbox.drive(|cx| connection.poll_accept(cx)) => accepted?,
            () = drain.begun(), if !draining => {
                // GOAWAY announces that no new streams are accepted; after a round trip, a second one names the last stream.
                connection.graceful_shutdown();
                draining = true;
                continue;
            }
        };
        let Some(accepted) = accepted else { return Ok(()) };
        let (request, respond) = accepted?;
        tokio::task::spawn_local(serve_stream(request, respond, handler.clone(), Use::of(admitted.clone())));
    }
}

/// Serves one stream: handles its request and sends the response. Ends early if the downstream resets the stream.
async fn serve_stream<H: Handler>(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    handler: Rc<H>,
    served: Use<Rc<Admitted>>,
) {
    let length = http2::content_length(request.headers());
    let mut wanted = expects_continue(request.headers()).then(Rc::<Cell<bool>>::default);
    let handled = {
        let owner = Some(served.holder().clone());
        let request = request.map(|stream| {
            let body = Http2Body::new(stream, length, None, owner);
            Incoming::Http2(match &wanted {
                Some(wanted) => body.noting_use(wanted.clone()),
                None => body,
            })
        });
        let mut handling = pin!(handler.handle(request));
        poll_fn(|cx| {
            if let Poll::Ready(response) = handling.as_mut().poll(cx) {
                return Poll::Ready(Some(response));
            }
            if wanted.take_if(|wanted| wanted.get()).is_some() {
                let mut interim = Response::new(());
                *interim.status_mut() = StatusCode::CONTINUE;
                // If the stream has failed, the response's sender finds out.
                let _ = respond.send_informational(interim);
            }
            respond.poll_reset(cx).map(|_| None)
        })
        .await
    };
    let Some(response) = handled else { return };
    let (mut head, body) = response.into_parts();
    head.version = http::Version::HTTP_2;
    head.extensions.clear();
    date::add(&mut head.headers);
    let ends = body.is_end_stream();
    if !ends {
        http2::announce_length(&mut head.headers, body.size_hint().exact());
    }
    match respond.send_response(Response::from_parts(head, ()), ends) {
        Ok(_) if ends => {}
        Ok(stream) => {
            if let Err(error) = Pump::new(body, stream, None).await {
                tracing::debug!(%error, "response body not sent in full");
            }
        }
        Err(error) => {
            tracing::debug!(%error, "response not sent");
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    }
}

/// Returns the size of the task of one HTTP/2 stream with this handler, in bytes.
pub fn stream_size<H: Handler>() -> usize {
    fn returned<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }
    returned(serve_stream::<H>)
}
