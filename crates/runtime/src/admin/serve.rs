//! The HTTP/1.1 listeners of the admin server. Each has its own limits, so that neither traffic nor one kind of page can
//! starve another: health checks are answered whatever connects to the other ports.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use net::Listen;
use net::socket::Acceptor;
use telemetry::metrics::Scrape;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::application::ApplicationMetrics;
use super::{Addresses, Admin, Query, Reply};
use crate::admission::{Admission, Admitted, Limits};

/// The limits of a listener. Health and metrics are reachable from the network. An open connection is idle whatever its
/// client does, so the source with the most always loses its oldest one, and a probe or a scraper finds room.
const LIMITS: Limits =
    Limits { connections: 64, pending: 32, dialled: 0, buffered: 0, deadline: Duration::from_secs(5) };
/// The timeout for the head of a request after the previous response: longer than the intervals of most scrapers.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The timeout for reading a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// The number of connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// The function of a listener.
#[derive(Clone, Copy)]
enum AdminPort {
    Admin,
    Health,
    Metrics,
    MergedMetrics,
}

impl AdminPort {
    fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Health => "health",
            Self::Metrics => "metrics",
            Self::MergedMetrics => "merged_metrics",
        }
    }
}

pub(super) fn serve(admin: Arc<Admin>, addresses: Addresses) -> io::Result<[Option<SocketAddr>; 4]> {
    let wanted = [
        (AdminPort::Admin, addresses.admin),
        (AdminPort::Health, addresses.health),
        (AdminPort::Metrics, addresses.metrics),
        (AdminPort::MergedMetrics, addresses.merged_metrics),
    ];
    let mut bound = Vec::new();
    let mut local = [None; 4];
    for ((port, address), local) in wanted.into_iter().zip(&mut local) {
        if let Some(address) = address {
            let acceptor = Acceptor::new(listen(address)?)?;
            *local = Some(acceptor.local_addr()?);
            bound.push((port, acceptor));
        }
    }
    for (port, acceptor) in bound {
        tokio::spawn(accept(Arc::clone(&admin), port, acceptor));
    }
    Ok(local)
}

/// Opens a listener. The wildcard address accepts IPv4 and IPv6, or IPv4 only on a machine without IPv6.
fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let options = Listen { backlog: BACKLOG, ..Listen::default() };
    let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
    match net::listen(address, &options) {
        Err(error)
            if address.is_ipv6() && address.ip().is_unspecified() && error.kind() != io::ErrorKind::AddrInUse =>
        {
            let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
            net::listen(address, &options).map_err(named)
        }
        other => other.map_err(named),
    }
}

async fn accept(admin: Arc<Admin>, port: AdminPort, mut acceptor: Acceptor) {
    let admission = Admission::new(LIMITS);
    admission.observe(&admin.registry, port.name());
    tokio::spawn(admission.clone().enforce_deadline());
    loop {
        match acceptor.next().await {
            Ok((stream, peer)) => {
                let admin = Arc::clone(&admin);
                admission
                    .admit(peer.ip(), |admitted| tokio::spawn(converse(admin, port, stream, admitted)).abort_handle());
            }
            Err(error) => {
                tracing::error!(%error, "an admin listener failed");
                return;
            }
        }
    }
}

/// Serves the requests of a connection.
async fn converse(admin: Arc<Admin>, port: AdminPort, stream: TcpStream, admitted: Admitted) {
    let progress = Progress::default();
    let service = service_fn(|request| {
        admitted.prove();
        progress.begin();
        let (admin, progress) = (Arc::clone(&admin), progress.clone());
        async move {
            let body = |reply| AdminBody { reply, progress };
            Ok::<_, Infallible>(respond(&admin, port, request).await.map(body))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        served = served => {
            if let Err(error) = served {
                tracing::debug!(%error, "an admin connection failed");
            }
        }
        () = progress.overdue() => tracing::debug!("the client of an admin connection does not read the response"),
    }
}

/// When the response in progress began.
#[derive(Clone, Default)]
struct Progress(Arc<Mutex<Option<Instant>>>);

impl Progress {
    fn begin(&self) {
        *self.since() = Some(Instant::now());
    }

    /// Resolves when a response is in progress for too long.
    async fn overdue(&self) {
        loop {
            let since = *self.since();
            let left = since.map_or(RESPONSE_TIMEOUT, |since| RESPONSE_TIMEOUT.saturating_sub(since.elapsed()));
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of a response. The response is in progress until it is dropped.
struct AdminBody {
    reply: ReplyBody,
    progress: Progress,
}

enum ReplyBody {
    Whole(Option<Bytes>),
    Metrics { own: Scrape, application: Option<ApplicationMetrics> },
}

impl Drop for AdminBody {
    fn drop(&mut self) {
        *self.progress.since() = None;
    }
}

impl Body for AdminBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let more = match &mut self.get_mut().reply {
            ReplyBody::Whole(body) => body.take(),
            ReplyBody::Metrics { own, application } => match (own.next(), application) {
                (Some(piece), _) => Some(piece.into()),
                (None, Some(application)) => ready!(application.poll_more(cx)),
                (None, None) => None,
            },
        };
        Poll::Ready(more.map(|more| Ok(Frame::data(more))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.reply, ReplyBody::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.reply {
            ReplyBody::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
            ReplyBody::Metrics { .. } => SizeHint::default(),
        }
    }
}

async fn respond(admin: &Admin, port: AdminPort, request: Request<Incoming>) -> Response<ReplyBody> {
    let method = request.method().clone();
    if ![Method::GET, Method::HEAD, Method::POST].contains(&method) {
        let mut response = response(Reply::text("use GET or POST\n").with_status(405));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
        return response;
    }
    if let AdminPort::MergedMetrics = port
        && let Some(reply) = admin.probe(request.uri().path()).await
    {
        return response(reply);
    }
    let query = Query { method, pairs: pairs(request.uri().query().unwrap_or_default()) };
    response(match (port, request.uri().path()) {
        (AdminPort::Admin, "/stats" | "/stats/prometheus") => return metrics(admin, None),
        (AdminPort::Admin, path) => admin.show(path, &query).await,
        (AdminPort::Health | AdminPort::MergedMetrics, "/healthz/ready") => admin.ready(),
        (AdminPort::Metrics, "/stats/prometheus" | "/metrics") => return metrics(admin, None),
        (AdminPort::MergedMetrics, "/stats/prometheus" | "/metrics") => {
            return metrics(admin, admin.application_metrics().await);
        }
        (AdminPort::Health, _) => Reply::text("unknown page; see /healthz/ready\n").with_status(404),
        (AdminPort::Metrics | AdminPort::MergedMetrics, _) => {
            Reply::text("unknown page; see /stats/prometheus\n").with_status(404)
        }
    })
}

fn response(reply: Reply) -> Response<ReplyBody> {
    let body = Some(Bytes::from(reply.body)).filter(|body| !body.is_empty());
    let mut response = Response::new(ReplyBody::Whole(body));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    response
}

fn metrics(admin: &Admin, application: Option<ApplicationMetrics>) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::Metrics { own: admin.registry.scrape(), application });
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}

/// Parses query parameters (`a=b&c=d`) and decodes percent encoding.
fn pairs(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = (byte == b'%').then(|| tail.first_chunk::<2>()).flatten();
        match hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()) {
            Some(value) => {
                bytes.push(value);
                rest = &tail[2..];
            }
            None => {
                bytes.push(if byte == b'+' { b' ' } else { byte });
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_response_that_is_not_read_is_overdue_after_the_timeout() {
        let progress = Progress::default();
        progress.begin();
        drop(AdminBody { reply: ReplyBody::Whole(None), progress: progress.clone() });
        let begun = Instant::now();
        let _ =
            tokio::time::timeout(RESPONSE_TIMEOUT * 5, progress.overdue()).await.expect_err("nothing is in progress");
        progress.begin();
        progress.overdue().await;
        assert_eq!(begun.elapsed(), RESPONSE_TIMEOUT * 6);
    }

    #[test]
    fn queries_are_split_and_decoded() {
        let query = Query { method: Method::GET, pairs: pairs("level=info%2Ch2=warn&x&&y=a+b%zz%4") };
        assert_eq!(query.get("level"), Some("info,h2=warn"));
        assert_eq!(query.get("x"), Some(""));
        assert_eq!(query.get("y"), Some("a b%zz%4"));
        assert_eq!(query.get("z"), None);
    }
}
