//! One request at a time, of any of the protocols that the application answers.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use clap::ValueEnum;
use futures_util::{SinkExt, StreamExt};
use http::header::{CONTENT_TYPE, HOST, TE};
use http::{HeaderMap, Request, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::answer::Answer;
use super::grpc;

/// Bytes of the message that a WebSocket is to echo.
const WEBSOCKET_MESSAGE: usize = 100_000;

/// The most bytes that an echo is asked for.
const LARGEST_ECHO: usize = 64 << 20;

/// How to speak to an `http://` URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// HTTP/1.1, with connections kept.
    #[default]
    Http1,
    /// HTTP/2 without TLS, on one connection.
    Http2,
    /// gRPC: `isthmus.testapp.Echo/Unary`.
    Grpc,
}

/// What to call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    uri: Uri,
    host: String,
    port: u16,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Http,
    /// Sends a line, or as many bytes as the path says, ends its direction, and expects all of it back.
    Echo,
    /// Expects a line.
    Banner,
    /// Upgrades to a WebSocket, is greeted, and expects a message back.
    WebSocket,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("{text:?} is no URL: {error}"))?;
        let (kind, default) = match uri.scheme_str() {
            Some("http") => (Kind::Http, Some(80)),
            Some("tcp") => (Kind::Echo, None),
            Some("banner") => (Kind::Banner, None),
            Some("ws") => (Kind::WebSocket, Some(80)),
            _ => return Err(format!("{text:?} must begin with http://, ws://, tcp:// or banner://")),
        };
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(format!("{text:?} names no host"));
        }
        let port = uri.port_u16().or(default).ok_or_else(|| format!("{text:?} names no port"))?;
        Ok(Self { uri, host, port, kind })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

/// What a request came to.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// HTTP status; 200 for a TCP connection that did what it should.
    pub(super) status: u16,
    /// Of a gRPC answer.
    pub(super) grpc_status: Option<u16>,
    /// Who answered, as far as it is told.
    pub(super) answer: Answer,
}

/// A client of one target, with the connections that it keeps.
#[derive(Debug)]
pub(super) struct Client {
    target: Target,
    protocol: Protocol,
    idle: Mutex<Vec<http1::SendRequest<Full<Bytes>>>>,
    shared: tokio::sync::Mutex<Option<http2::SendRequest<Full<Bytes>>>>,
}

impl Client {
    pub(super) fn new(target: Target, protocol: Protocol) -> Self {
        Self { target, protocol, idle: Mutex::default(), shared: tokio::sync::Mutex::default() }
    }

    /// One request. The error says what went wrong, for people.
    pub(super) async fn call(&self) -> Result<Told, String> {
        match (self.target.kind, self.protocol) {
            (Kind::Http, Protocol::Http1) => self.http1().await,
            (Kind::Http, _) => self.http2().await,
            (Kind::Echo, _) => self.echo().await,
            (Kind::Banner, _) => self.banner().await,
            (Kind::WebSocket, _) => self.websocket().await,
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

    async fn http1(&self) -> Result<Told, String> {
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
        let request = Request::get(path).header(HOST, self.authority()).body(Full::default()).map_err(chain)?;
        let response = sender.send_request(request).await.map_err(chain)?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(chain)?.to_bytes();
        if !sender.is_closed() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        }
        Ok(Told { status, grpc_status: None, answer: serde_json::from_slice(&body).unwrap_or_default() })
    }

    async fn http2(&self) -> Result<Told, String> {
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
        let grpc = self.protocol == Protocol::Grpc;
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
        let mut told = Told { status: parts.status.as_u16(), ..Told::default() };
        if grpc {
            // A refusal may come without a body, and then its status is among the headers.
            told.grpc_status = status(&trailers).or_else(|| status(&parts.headers));
            let reply = <grpc::Reply as prost::Message>::decode(grpc::message(&body)).unwrap_or_default();
            told.answer = serde_json::from_str(&reply.answer).unwrap_or_default();
        } else {
            told.answer = serde_json::from_slice(&body).unwrap_or_default();
        }
        Ok(told)
    }

    async fn echo(&self) -> Result<Told, String> {
        let stream = self.connect().await?;
        let sent = match self.target.uri.path().trim_start_matches('/') {
            "" => b"hello\n".to_vec(),
            length => {
                let length = length.parse::<usize>().ok().filter(|length| *length <= LARGEST_ECHO);
                let length = length.ok_or_else(|| format!("tcp://host:port/BYTES takes up to {LARGEST_ECHO}"))?;
                (0..length).map(|at| at.wrapping_mul(31) as u8).collect()
            }
        };
        let (mut reads, mut writes) = stream.into_split();
        let sending = async {
            writes.write_all(&sent).await?;
            // The server hears that nothing more comes, and its own direction has to stay open for the rest.
            writes.shutdown().await
        };
        let mut received = Vec::with_capacity(sent.len());
        let (sent_all, ended) = tokio::join!(sending, reads.read_to_end(&mut received));
        sent_all.map_err(chain)?;
        ended.map_err(chain)?;
        match received == sent {
            true => Ok(Told { status: 200, ..Told::default() }),
            false => Err(format!("{} of {} bytes came back, or others", received.len(), sent.len())),
        }
    }

    async fn banner(&self) -> Result<Told, String> {
        let mut stream = BufReader::new(self.connect().await?);
        let answer = serde_json::from_str(&line(&mut stream).await?).map_err(chain)?;
        Ok(Told { status: 200, grpc_status: None, answer })
    }

    async fn websocket(&self) -> Result<Told, String> {
        let stream = self.connect().await?;
        let (mut socket, _) =
            tokio_tungstenite::client_async(self.target.uri.to_string(), stream).await.map_err(chain)?;
        let greeting = socket.next().await.ok_or("closed without a word")?.map_err(chain)?;
        let answer = serde_json::from_str(greeting.to_text().map_err(chain)?).map_err(chain)?;
        let sent = Message::binary(vec![7; WEBSOCKET_MESSAGE]);
        socket.send(sent.clone()).await.map_err(chain)?;
        let received = socket.next().await.ok_or("closed before the echo")?.map_err(chain)?;
        if received != sent {
            return Err(format!("{WEBSOCKET_MESSAGE} bytes came back as {}", received.len()));
        }
        socket.close(None).await.map_err(chain)?;
        while let Some(rest) = socket.next().await {
            rest.map_err(chain)?;
        }
        Ok(Told { status: 101, grpc_status: None, answer })
    }

    fn authority(&self) -> &str {
        self.target.uri.authority().map_or("", |authority| authority.as_str())
    }
}

async fn line(stream: &mut BufReader<TcpStream>) -> Result<String, String> {
    let mut line = String::new();
    match stream.read_line(&mut line).await.map_err(chain)? {
        0 => Err("closed without a word".to_owned()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

fn status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// An error and what is behind it, in one line.
fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
