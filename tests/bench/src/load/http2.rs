//! HTTP/2 without TLS, with prior knowledge, and gRPC over it (five bytes precede each message:
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::Result;
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Method, Request};
use tokio::sync::Mutex;

use super::drive;
use super::{Failure, socket};

/// The flow-control window of a stream. Flow control of the generator never limits the measured system: a stream's window holds
/// the longest body twice, and a connection's window those of all its streams.
pub const STREAM_WINDOW: u32 = 2 << 20;
/// The flow-control window of a connection; see [`STREAM_WINDOW`].
pub const CONNECTION_WINDOW: u32 = 32 << 20;
/// The limit on small DATA frames. h2 closes a connection whose peer sends many of them unread, but here they are the load.
pub const FRAME_BUDGET: usize = 1 << 30;
/// The length of the prefix of a gRPC message: a compression flag and the message's length.
pub const PREFIX: usize = 5;

/// A connection that several callers share. It is opened on first use, and again after it was closed.
#[derive(Debug)]
pub struct Session {
    target: SocketAddr,
    sender: Mutex<Option<SendRequest<Bytes>>>,
}

impl Session {
    /// A session to this address, without a connection.
    pub fn new(target: SocketAddr) -> Rc<Self> {
        Rc::new(Self { target, sender: Mutex::new(None) })
    }

    /// Sends a request, on a new connection if the old one accepts no more.
    async fn request(&self, request: Request<()>, end: bool) -> Result<(ResponseFuture, SendStream<Bytes>), Failure> {
        let mut slot = self.sender.lock().await;
        if let Some(sender) = slot.take()
            && let Ok(sender) = sender.ready().await
        {
            *slot = Some(sender);
        }
        if slot.is_none() {
            *slot = Some(connect(self.target).await?.ready().await?);
        }
        let sender = slot.as_mut().expect("a session that is ready");
        Ok(sender.send_request(request, end)?)
    }
}

async fn connect(target: SocketAddr) -> Result<SendRequest<Bytes>, Failure> {
    let stream = socket::connect(target).await?;
    let mut client = h2::client::Builder::new();
    client.initial_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    client.data_frame_budget(FRAME_BUDGET).enable_push(false);
    let (sender, connection) = client.handshake(stream).await?;
    tokio::task::spawn_local(async move {
        // Requests on the connection return its error.
        let _ = connection.await;
    });
    Ok(sender)
}

/// The exchanges of a caller.
#[derive(Debug)]
enum StreamWork {
    /// A `GET` of this many bytes for each exchange.
    Get(u64),
    /// A gRPC call for each message.
    Unary(Bytes),
    /// All messages on one gRPC call, which is open once the first message was echoed.
    Stream(Bytes, Option<(SendStream<Bytes>, RecvStream)>),
}

/// A caller over HTTP/2: a stream for each exchange, or one for all.
#[derive(Debug)]
pub struct Http2Caller {
    session: Rc<Session>,
    request: Request<()>,
    work: StreamWork,
}

impl Http2Caller {
    /// A caller that sends `GET /bytes/N`.
    pub fn get(session: &Rc<Session>, authority: &str, body: usize) -> Result<Self> {
        let request = request(Method::GET, authority, &format!("/bytes/{body}")).header("accept", "*/*").body(())?;
        Ok(Self { session: Rc::clone(session), request, work: StreamWork::Get(body as u64) })
    }

    /// A caller that makes a gRPC call for each message.
    pub fn unary(session: &Rc<Session>, authority: &str, message: usize) -> Result<Self> {
        let work = StreamWork::Unary(framed(message));
        Ok(Self { session: Rc::clone(session), request: call(authority, "/bench.Echo/Unary")?, work })
    }

    /// A caller that sends all messages on one bidirectional gRPC call.
    pub fn stream(session: &Rc<Session>, authority: &str, message: usize) -> Result<Self> {
        let work = StreamWork::Stream(framed(message), None);
        Ok(Self { session: Rc::clone(session), request: call(authority, "/bench.Echo/Stream")?, work })
    }
}

impl drive::Caller for Http2Caller {
    async fn exchange(&mut self) -> Result<u64, Failure> {
        match &mut self.work {
            StreamWork::Get(length) => {
                let (response, _) = self.session.request(self.request.clone(), true).await?;
                let mut body = accept(response).await?;
                let mut arrived = 0;
                while let Some(data) = body.data().await {
                    arrived += release(&mut body, &data?)?;
                }
                of_length(*length, arrived)
            }
            StreamWork::Unary(message) => {
                let (response, mut sender) = self.session.request(self.request.clone(), false).await?;
                sender.send_data(message.clone(), true)?;
                let mut body = accept(response).await?;
                let mut arrived = 0;
                while let Some(data) = body.data().await {
                    arrived += release(&mut body, &data?)?;
                }
                let trailers = body.trailers().await?;
                match trailers.as_ref().and_then(|trailers| trailers.get("grpc-status")) {
                    Some(status) if status == "0" => echoed(message, arrived),
                    Some(status) => Err(Failure::Grpc(status.to_str().unwrap_or("unreadable").to_owned())),
                    None => Err(Failure::Grpc("missing".to_owned())),
                }
            }
            StreamWork::Stream(message, call) => {
                let (sender, mut body) = match call.take() {
                    Some((mut sender, body)) => {
                        sender.send_data(message.clone(), false)?;
                        (sender, body)
                    }
                    None => {
                        let (response, mut sender) = self.session.request(self.request.clone(), false).await?;
                        // The first message comes before the response, for which a server may wait.
                        sender.send_data(message.clone(), false)?;
                        (sender, accept(response).await?)
                    }
                };
                let mut arrived = 0;
                while arrived < message.len() as u64 {
                    let data = body.data().await.ok_or(Failure::Closed)??;
                    arrived += release(&mut body, &data)?;
                }
                // Any failure drops the call, which resets its stream.
                *call = Some((sender, body));
                echoed(message, arrived)
            }
        }
    }
}

fn request(method: Method, authority: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(format!("http://{authority}{path}")).header("user-agent", "isthmus-bench")
}

fn call(authority: &str, path: &str) -> Result<Request<()>> {
    let call =
        request(Method::POST, authority, path).header("content-type", "application/grpc").header("te", "trailers");
    Ok(call.body(())?)
}

fn framed(length: usize) -> Bytes {
    let mut message = Vec::with_capacity(PREFIX + length);
    message.push(0);
    message.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    message.resize(PREFIX + length, b'x');
    message.into()
}

/// Waits for a response, checks its status, and returns its body.
async fn accept(response: ResponseFuture) -> Result<RecvStream, Failure> {
    let response = response.await?;
    if response.status() != 200 {
        return Err(Failure::Status(response.status().as_u16().into()));
    }
    // A call that fails at once has its status in the head.
    match response.headers().get("grpc-status") {
        Some(status) if status != "0" => Err(Failure::Grpc(status.to_str().unwrap_or("unreadable").to_owned())),
        _ => Ok(response.into_body()),
    }
}

fn release(body: &mut RecvStream, data: &Bytes) -> Result<u64, Failure> {
    body.flow_control().release_capacity(data.len())?;
    Ok(data.len() as u64)
}

/// Returns the length of an echoed message without its prefix.
fn echoed(message: &Bytes, arrived: u64) -> Result<u64, Failure> {
    of_length(message.len() as u64, arrived).map(|length| length - PREFIX as u64)
}

fn of_length(wanted: u64, arrived: u64) -> Result<u64, Failure> {
    if arrived == wanted { Ok(arrived) } else { Err(Failure::Length { wanted, arrived }) }
}
