//! The client: one request at a time, with each protocol that the application serves.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use clap::ValueEnum;
use futures_util::{SinkExt, StreamExt};
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, TE};
use http::{HeaderMap, Request, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::answer::AppAnswer;
use super::grpc;

/// Length of the message that a WebSocket echoes, in bytes.
const WEBSOCKET_MESSAGE: usize = 100_000;

/// Most bytes that an echo may have.
const LARGEST_ECHO: usize = 64 << 20;

/// A header of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallHeader(HeaderName, HeaderValue);

/// Parses `name: value`.
pub(super) fn header(text: &str) -> Result<CallHeader, String> {
    let invalid = || format!("{text:?} is not a header, such as 'x-user: ada'");
    let (name, value) = text.split_once(':').ok_or_else(invalid)?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| invalid())?;
    let value = HeaderValue::from_str(value.trim()).map_err(|_| invalid())?;
    Ok(CallHeader(name, value))
}

/// Protocol of an `http://` URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CallProtocol {
    /// HTTP/1.1, with reused connections.
    #[default]
    Http1,
    /// HTTP/2 without TLS, on one connection.
    Http2,
    /// gRPC: `isthmus.testapp.Echo/Unary`.
    Grpc,
}

/// The target of calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallTarget {
    uri: Uri,
    host: String,
    port: u16,
    kind: TargetKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TargetKind {
    Http,
    /// Sends a line, or the number of bytes in the path, closes its direction, and expects the same bytes back.
    Echo,
    /// Expects a line.
    Banner,
    /// Upgrades to a WebSocket, expects a greeting, and an echo of a message.
    WebSocket,
}

impl FromStr for CallTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("{text:?} is not a URL: {error}"))?;
        let (kind, default) = match uri.scheme_str() {
            Some("http") => (TargetKind::Http, Some(80)),
            Some("tcp") => (TargetKind::Echo, None),
            Some("banner") => (TargetKind::Banner, None),
            Some("ws") => (TargetKind::WebSocket, Some(80)),
            _ => return Err(format!("{text:?} does not begin with http://, ws://, tcp:// or banner://")),
        };
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(format!("{text:?} has no host"));
        }
        let port = uri.port_u16().or(default).ok_or_else(|| format!("{text:?} has no port"))?;
        Ok(Self { uri, host, port, kind })
    }
}

impl fmt::Display for CallTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

/// The result of a request.
#[derive(Debug, Default)]
pub(super) struct CallResult {
    /// HTTP status; 200 for a successful TCP connection.
    pub(super) status: u16,
    /// gRPC status.
    pub(super) grpc_status: Option<u16>,
    /// The response, as far as it could be parsed.
    pub(super) answer: AppAnswer,
}

/// A client of one target, with its reused connections.
#[derive(Debug)]
pub(super) struct CallClient {
    target: CallTarget,
    protocol: CallProtocol,
    headers: Vec<CallHeader>,
    idle: Mutex<Vec<http1::SendRequest<Full<Bytes>>>>,
    shared: tokio::sync::Mutex<Option<http2::SendRequest<Full<Bytes>>>>,
}

impl CallClient {
    pub(super) fn new(target: CallTarget, protocol: CallProtocol, headers: Vec<CallHeader>) -> Self {
        Self { target, protocol, headers, idle: Mutex::default(), shared: tokio::sync::Mutex::default() }
    }

    /// Sends one request. The error describes what went wrong.
    pub(super) async fn call(&self) -> Result<CallResult, String> {
        match (self.target.kind, self.protocol) {
            (TargetKind::Http, CallProtocol::Http1) => self.http1().await,
            (TargetKind::Http, _) => self.http2().await,
            (TargetKind::Echo, _) => self.echo().await,
            (TargetKind::Banner, _) => self.banner().await,
            (TargetKind::WebSocket, _) => self.websocket().await,
        }
    }

    async fn connect(&self) -> Result<TcpStream, String> {
        let at = || format!("{}:{}", self.target.host, self.target.port);
        let stream = TcpStream::connect((self.target.host.as_str(), self.target.port))
            .await
            .map_err(|error| format!("connecting to {}: {error}", at()))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(stream)
    }

    async fn http1(&self) -> Result<CallResult, String> {
        let mut kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(sender) = &mut kept
            && sender.ready().await.is_err()
        {
            kept = None;
        }
        let mut sender = match kept {
            Some(kept) => kept,
            None => {
                let io = TokioIo::new(self.connect().await?);
                let (sender, connection) = http1::handshake(io).await.map_err(chain)?;
                tokio::spawn(connection);
                sender
            }
        };
        let path = self.target.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::get(path).header(HOST, self.authority()).body(Full::default()).map_err(chain)?;
        for CallHeader(name, value) in &self.headers {
            request.headers_mut().append(name, value.clone());
        }
        let response = sender.send_request(request).await.map_err(chain)?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(chain)?.to_bytes();
        if !sender.is_closed() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        }
        Ok(CallResult { status, grpc_status: None, answer: serde_json::from_slice(&body).unwrap_or_default() })
    }

    async fn http2(&self) -> Result<CallResult, String> {
        let mut sender = {
            let mut shared = self.shared.lock().await;
            match shared.as_ref().filter(|sender| !sender.is_closed()) {
                Some(sender) => sender.clone(),
                None => {
                    let io = TokioIo::new(self.connect().await?);
                    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(chain)?;
                    tokio::spawn(connection);
                    shared.insert(sender).clone()
                }
            }
        };
        let grpc = self.protocol == CallProtocol::Grpc;
        let path = match self.target.uri.path_and_query() {
            _ if grpc => "/isthmus.testapp.Echo/Unary",
            Some(path) => path.as_str(),
            None => "/",
        };
        let request = Request::builder()
            .version(Version::HTTP_2)
            .method(if grpc { "POST" } else { "GET" })
            .uri(format!("http://{}{path}", self.authority()));
        let request = if grpc {
            request
                .header(CONTENT_TYPE, "application/grpc")
                .header(TE, "trailers")
                .body(Full::new(grpc::framed(b"hello")))
        } else {
            request.body(Full::default())
        };
        let response = sender.send_request(request.map_err(chain)?).await.map_err(chain)?;
        let (parts, body) = response.into_parts();
        let collected = body.collect().await.map_err(chain)?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let body = collected.to_bytes();
        let mut result = CallResult { status: parts.status.as_u16(), ..CallResult::default() };
        if grpc {
            // A response without a body has the status in its headers.
            result.grpc_status = status(&trailers).or_else(|| status(&parts.headers));
            let reply = <grpc::EchoReply as prost::Message>::decode(grpc::message(&body)).unwrap_or_default();
            result.answer = serde_json::from_str(&reply.answer).unwrap_or_default();
        } else {
            result.answer = serde_json::from_slice(&body).unwrap_or_default();
        }
        Ok(result)
    }

    async fn echo(&self) -> Result<CallResult, String> {
        let stream = self.connect().await?;
        let sent = match self.target.uri.path().trim_start_matches('/') {
            "" => b"hello\n".to_vec(),
            length => {
                let length = length.parse::<usize>().ok().filter(|length| *length <= LARGEST_ECHO);
                let length = length
                    .ok_or_else(|| format!("the path of tcp://HOST:PORT/BYTES is not a number up to {LARGEST_ECHO}"))?;
                (0..length).map(|at| at.wrapping_mul(31) as u8).collect()
            }
        };
        let (mut reads, mut writes) = stream.into_split();
        let sending = async {
            writes.write_all(&sent).await?;
            // The server sees the end of the stream, and its own direction stays open for the rest.
            writes.shutdown().await
        };
        let mut received = Vec::with_capacity(sent.len());
        let (sent_all, ended) = tokio::join!(sending, reads.read_to_end(&mut received));
        sent_all.map_err(chain)?;
        ended.map_err(chain)?;
        match received == sent {
            true => Ok(CallResult { status: 200, ..CallResult::default() }),
            false => Err(format!("the echo differs: {} of {} bytes", received.len(), sent.len())),
        }
    }

    async fn banner(&self) -> Result<CallResult, String> {
        let mut stream = BufReader::new(self.connect().await?);
        let answer = serde_json::from_str(&line(&mut stream).await?).map_err(chain)?;
        Ok(CallResult { status: 200, grpc_status: None, answer })
    }

    async fn websocket(&self) -> Result<CallResult, String> {
        let stream = self.connect().await?;
        let (mut socket, _) =
            tokio_tungstenite::client_async(self.target.uri.to_string(), stream).await.map_err(chain)?;
        let greeting = socket.next().await.ok_or("closed without a message")?.map_err(chain)?;
        let answer = serde_json::from_str(greeting.to_text().map_err(chain)?).map_err(chain)?;
        let sent = Message::binary(vec![7; WEBSOCKET_MESSAGE]);
        socket.send(sent.clone()).await.map_err(chain)?;
        let received = socket.next().await.ok_or("closed before the echo")?.map_err(chain)?;
        if received != sent {
            return Err(format!("the echo of {WEBSOCKET_MESSAGE} bytes has {}", received.len()));
        }
        socket.close(None).await.map_err(chain)?;
        while let Some(rest) = socket.next().await {
            rest.map_err(chain)?;
        }
        Ok(CallResult { status: 101, grpc_status: None, answer })
    }

    fn authority(&self) -> &str {
        self.target.uri.authority().map_or("", |authority| authority.as_str())
    }
}

async fn line(stream: &mut BufReader<TcpStream>) -> Result<String, String> {
    let mut line = String::new();
    match stream.read_line(&mut line).await.map_err(chain)? {
        0 => Err("closed without a message".to_owned()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

fn status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// Formats an error and its causes in one line.
fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
