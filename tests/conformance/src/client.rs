//! The client in pods: it obeys orders that come over a Unix socket, one on each connection.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::case::Protocol;

mod order;
mod raw;
mod tls;

pub use order::Order;

/// The longest time of one request.
const PATIENCE: Duration = Duration::from_secs(20);

/// The header that names the case and the request. Gateways replace `x-request-id`.
pub(crate) const ID: &str = "x-case";

/// What came of a request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reply {
    /// The status; 0 without a response.
    pub status: u16,
    /// Why there was none.
    pub error: Option<String>,
    /// The headers and trailers.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
    /// What came of the TLS handshake.
    #[serde(default)]
    pub handshake: Option<String>,
    /// The time until the response's headers.
    pub milliseconds: u64,
}

/// The path of a client's socket.
pub fn socket(directory: &Path, client: &str) -> PathBuf {
    directory.join(format!("{}.sock", client.replace('/', ".")))
}

/// Obeys orders until the process ends.
///
/// # Errors
/// Returns an error if the socket cannot be bound.
pub async fn run(path: &Path) -> Result<()> {
    // Of a container before a restart.
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).with_context(|| path.display().to_string())?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let replies = obey(&serde_json::from_str(&line)?).await;
            stream.write_all(format!("{}\n", serde_json::to_string(&replies)?).as_bytes()).await?;
            anyhow::Ok(())
        });
    }
}

/// Has a client obey an order.
///
/// # Errors
/// Returns an error if the client does not answer.
pub async fn order(path: &Path, order: &Order) -> Result<Vec<Reply>> {
    let mut stream = BufReader::new(UnixStream::connect(path).await.with_context(|| path.display().to_string())?);
    stream.write_all(format!("{}\n", serde_json::to_string(order)?).as_bytes()).await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    serde_json::from_str(&line).context("the answer of a client")
}

async fn obey(order: &Order) -> Vec<Reply> {
    if order.concurrent {
        return join_all((0..order.times).map(|n| async move { one(order, n, &mut Session::default()).await })).await;
    }
    let mut session = Session::default();
    let mut replies = Vec::new();
    for n in 0..order.times {
        replies.push(one(order, n, &mut session).await);
        if order.reconnect {
            session.sender = None;
        }
    }
    replies
}

/// What is kept from one repetition to the next.
#[derive(Default)]
struct Session {
    sender: Option<Sender>,
    handshake: Option<String>,
    cookies: BTreeMap<String, String>,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

async fn one(order: &Order, n: u32, session: &mut Session) -> Reply {
    let begun = Instant::now();
    let exchange = async {
        match order.protocol {
            Protocol::Tcp | Protocol::Tls => {
                let opened = tls::open(order).await?;
                let reply = line(opened.stream, order, n).await?;
                Ok(Reply { handshake: opened.handshake, ..reply })
            }
            _ if order.raw => {
                let opened = tls::open(order).await?;
                let reply = raw::exchange(opened.stream, order, n).await?;
                Ok(Reply { handshake: opened.handshake, ..reply })
            }
            _ => http(order, n, session).await,
        }
    };
    let mut reply = match tokio::time::timeout(PATIENCE, exchange).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => Reply { error: Some(format!("{error:#}")), ..Reply::default() },
        Err(_) => Reply { error: Some(format!("no response within {PATIENCE:?}")), ..Reply::default() },
    };
    if reply.status == 0 {
        session.sender = None;
    }
    if reply.milliseconds == 0 {
        reply.milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    }
    reply
}

/// Sends the request's number with its script, and expects the name of a server.
async fn line(stream: impl AsyncRead + AsyncWrite + Unpin, order: &Order, n: u32) -> Result<Reply> {
    let mut stream = BufReader::new(stream);
    let script = order.headers.get("x-script").map(String::as_str).unwrap_or_default();
    stream.write_all(format!("{}.{n} {script}\n", order.id).as_bytes()).await?;
    stream.flush().await?;
    let mut name = String::new();
    stream.read_line(&mut name).await?;
    anyhow::ensure!(!name.is_empty(), "closed without an answer");
    let headers = BTreeMap::from([("x-version".to_owned(), name.trim().to_owned())]);
    Ok(Reply { status: 200, headers, ..Reply::default() })
}

async fn http(order: &Order, n: u32, session: &mut Session) -> Result<Reply> {
    let begun = Instant::now();
    let response = send(order, n, session).await?;
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
    let (parts, body) = response.into_parts();
    for cookie in parts.headers.get_all("set-cookie") {
        let pair = cookie.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
        if let Some((name, value)) = pair.split_once('=') {
            session.cookies.insert(name.to_owned(), value.to_owned());
        }
    }
    let mut headers = joined(&parts.headers);
    let collected = body.collect().await.context("the body")?;
    headers.extend(joined(&collected.trailers().cloned().unwrap_or_default()));
    let body = String::from_utf8_lossy(&collected.to_bytes()).into_owned();
    let handshake = session.handshake.clone();
    Ok(Reply { status: parts.status.as_u16(), error: None, headers, body, handshake, milliseconds })
}

async fn send(order: &Order, n: u32, session: &mut Session) -> Result<Response<Incoming>> {
    let http1 = order.protocol == Protocol::Http1;
    let mut headers = HeaderMap::new();
    for (name, value) in order.headers.iter().chain(&order.repeated) {
        headers.append(http::HeaderName::try_from(name)?, value.replace("{n}", &n.to_string()).try_into()?);
    }
    for name in ["x-request-id", ID] {
        headers.insert(name, format!("{}.{n}", order.id).try_into()?);
    }
    if order.cookies && !session.cookies.is_empty() {
        let pairs: Vec<String> = session.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        headers.insert("cookie", pairs.join("; ").try_into()?);
    }
    let mut request = Request::builder().method(order.method.as_str());
    let mut body = order.body.clone().into_bytes();
    if http1 {
        request = request.uri(&order.path);
        headers.insert("host", order.host.as_str().try_into()?);
    } else {
        let scheme = if order.tls.is_some() { "https" } else { "http" };
        request = request.uri(format!("{scheme}://{}{}", order.host, order.path));
    }
    if order.protocol == Protocol::Grpc {
        request = request.method("POST");
        headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
        headers.insert("te", http::HeaderValue::from_static("trailers"));
        body = vec![0; 5];
    }
    let mut request = request.body(Full::new(Bytes::from(body)))?;
    request.headers_mut().extend(headers);
    let ready = match &mut session.sender {
        Some(Sender::Http1(sender)) => sender.ready().await.is_ok(),
        Some(Sender::Http2(sender)) => sender.ready().await.is_ok(),
        None => false,
    };
    if !ready {
        let opened = tls::open(order).await?;
        session.handshake = opened.handshake;
        let io = TokioIo::new(opened.stream);
        session.sender = Some(if http1 {
            let (sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            Sender::Http1(sender)
        } else {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Sender::Http2(sender)
        });
    }
    match session.sender.as_mut().context("no connection")? {
        Sender::Http1(sender) => Ok(sender.send_request(request).await?),
        Sender::Http2(sender) => Ok(sender.send_request(request).await?),
    }
}

/// Headers by name; repeated ones are joined.
pub(crate) fn joined(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut all = BTreeMap::<String, String>::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        all.entry(name.to_string())
            .and_modify(|before| *before = format!("{before}, {value}"))
            .or_insert_with(|| value.into_owned());
    }
    all
}
