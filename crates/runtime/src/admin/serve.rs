//! The HTTP/1.1 listeners of the admin server, with a limit on connections and a timeout for requests.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use net::Listen;
use net::socket::Acceptor;
use tokio::sync::Semaphore;

use super::{Addresses, Admin, Query, Reply};

/// The maximum number of open connections per listener. Health and metrics are reachable from the network.
const MAX_CONNECTIONS: usize = 64;
/// The timeout for the head of a request, from the start of the connection or the previous response.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// The function of a listener.
#[derive(Clone, Copy)]
enum AdminPort {
    Admin,
    Health,
    Metrics,
    MergedMetrics,
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
    let options = Listen { backlog: 128, ..Listen::default() };
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
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let stream = match acceptor.next().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!(%error, "an admin listener failed");
                return;
            }
        };
        let admin = Arc::clone(&admin);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let admin = Arc::clone(&admin);
                async move { Ok::<_, Infallible>(respond(&admin, port, request).await) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "an admin connection failed");
            }
            drop(permit);
        });
    }
}

async fn respond(admin: &Admin, port: AdminPort, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let method = request.method().clone();
    if ![Method::GET, Method::HEAD, Method::POST].contains(&method) {
        let mut response = response(Reply::text("use GET or POST\n").with_status(405));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
        return response;
    }
    let query = Query { method, pairs: pairs(request.uri().query().unwrap_or_default()) };
    let reply = match (port, request.uri().path()) {
        (AdminPort::Admin, path) => admin.show(path, &query),
        (AdminPort::Health | AdminPort::MergedMetrics, "/healthz/ready") => admin.ready(),
        (AdminPort::Metrics, "/stats/prometheus" | "/metrics") => admin.metrics(),
        (AdminPort::MergedMetrics, "/stats/prometheus" | "/metrics") => admin.merged_metrics().await,
        (AdminPort::Health, _) => Reply::text("unknown page; see /healthz/ready\n").with_status(404),
        (AdminPort::Metrics | AdminPort::MergedMetrics, _) => {
            Reply::text("unknown page; see /stats/prometheus\n").with_status(404)
        }
    };
    response(reply)
}

fn response(reply: Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(reply.body));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
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

    #[test]
    fn queries_are_split_and_decoded() {
        let query = Query { method: Method::GET, pairs: pairs("level=info%2Ch2=warn&x&&y=a+b%zz%4") };
        assert_eq!(query.get("level"), Some("info,h2=warn"));
        assert_eq!(query.get("x"), Some(""));
        assert_eq!(query.get("y"), Some("a b%zz%4"));
        assert_eq!(query.get("z"), None);
    }
}
