//! One client's HTTP connection.

use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use runtime::drain::Watch;

use super::{Local, Reply};
use crate::io::Io;
use crate::upstream::Version;

/// As for upstream sessions: a response that its client does not read must not stop the others.
const STREAM_WINDOW: u32 = 1 << 20;
const SESSION_WINDOW: u32 = 4 << 20;
/// Streams that one client may have open. A sidecar's session carries up to a hundred; applications may want more.
const STREAMS: u32 = 1000;

/// Answers requests.
pub trait Handler: 'static {
    /// Answers one. Failures are answers, too.
    fn handle(self: Rc<Self>, request: Request<Incoming>) -> impl Future<Output = Response<Reply>>;
}

/// Serves a client's connection to its end. When the drain begins, requests under way are finished, the client is told to
/// go elsewhere (`Connection: close`, GOAWAY), and an idle connection is closed.
pub async fn serve<H: Handler>(io: Io, version: Version, handler: Rc<H>, drain: &Watch) -> Result<(), hyper::Error> {
    let service = service_fn(move |request| {
        let answered = handler.clone().handle(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let mut drain = drain.clone();
    let io = TokioIo::new(io);
    match version {
        Version::Http1 => {
            let connection = http1::Builder::new()
                .max_buf_size(crate::upstream::BUFFER)
                // An idle connection between proxies is kept by the client, which knows when it no longer needs it.
                .header_read_timeout(None)
                .serve_connection(io, service)
                .with_upgrades();
            tokio::pin!(connection);
            tokio::select! {
                result = &mut connection => return result,
                () = drain.begun() => connection.as_mut().graceful_shutdown(),
            }
            connection.await
        }
        Version::Http2 => {
            let connection = http2::Builder::new(Local)
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(SESSION_WINDOW)
                .max_concurrent_streams(STREAMS)
                .serve_connection(io, service);
            tokio::pin!(connection);
            tokio::select! {
                result = &mut connection => return result,
                () = drain.begun() => connection.as_mut().graceful_shutdown(),
            }
            connection.await
        }
    }
}
