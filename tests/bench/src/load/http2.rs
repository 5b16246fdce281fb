//! HTTP/2 without TLS and without an upgrade (prior knowledge), and gRPC on it (its framing is five bytes before each
//! message: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

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

/// Flow control never stops what is measured on this side: a stream's window holds the longest body twice, a connection's
/// those of all its streams.
pub const STREAM_WINDOW: u32 = 2 << 20;
/// See [`STREAM_WINDOW`].
pub const CONNECTION_WINDOW: u32 = 32 << 20;
/// h2 ends a connection whose peer sends many small frames unread; here small messages are what is wanted.
pub const FRAME_BUDGET: usize = 1 << 30;
/// Before a message of gRPC: whether it is compressed, and its length.
pub const PREFIX: usize = 5;

/// A connection that several lanes share, opened when first needed and again when it has ended.
#[derive(Debug)]
pub struct Session {
    target: SocketAddr,
    sender: Mutex<Option<SendRequest<Bytes>>>,
}

impl Session {
    /// To this address.
    pub fn new(target: SocketAddr) -> Rc<Self> {
        Rc::new(Self { target, sender: Mutex::new(None) })
    }

    /// Sends a request, on a new connection if the old one takes no more.
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
        // Whoever waits on it is told as well.
        let _ = connection.await;
    });
    Ok(sender)
}

/// What a lane does with its stream.
#[derive(Debug)]
enum Work {
    /// `GET` of so many bytes.
    Get(u64),
    /// A call for each message.
    Unary(Bytes),
    /// All messages on one call, which is open once the first has been answered.
    Stream(Bytes, Option<(SendStream<Bytes>, RecvStream)>),
}

/// One stream after another, or one for all.
#[derive(Debug)]
pub struct Lane {
    session: Rc<Session>,
    request: Request<()>,
    work: Work,
}

impl Lane {
    /// `GET /bytes/N`.
    pub fn get(session: &Rc<Session>, authority: &str, body: usize) -> Result<Self> {
        let request = request(Method::GET, authority, &format!("/bytes/{body}")).header("accept", "*/*").body(())?;
        Ok(Self { session: Rc::clone(session), request, work: Work::Get(body as u64) })
    }

    /// gRPC, one call for each message.
    pub fn unary(session: &Rc<Session>, authority: &str, message: usize) -> Result<Self> {
        let work = Work::Unary(framed(message));
        Ok(Self { session: Rc::clone(session), request: call(authority, "/bench.Echo/Unary")?, work })
    }

    /// gRPC, one call with streams both ways for all messages.
    pub fn stream(session: &Rc<Session>, authority: &str, message: usize) -> Result<Self> {
        let work = Work::Stream(framed(message), None);
        Ok(Self { session: Rc::clone(session), request: call(authority, "/bench.Echo/Stream")?, work })
    }
}

impl drive::Lane for Lane {
    async fn exchange(&mut self) -> Result<u64, Failure> {
        match &mut self.work {
            Work::Get(length) => {
                let (response, _) = self.session.request(self.request.clone(), true).await?;
                let mut body = accept(response).await?;
                let mut arrived = 0;
                while let Some(data) = body.data().await {
                    arrived += release(&mut body, &data?)?;
                }
                of_length(*length, arrived)
            }
            Work::Unary(message) => {
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
            Work::Stream(message, call) => {
                let (sender, mut body) = match call.take() {
                    Some((mut sender, body)) => {
                        sender.send_data(message.clone(), false)?;
                        (sender, body)
                    }
                    None => {
                        let (response, mut sender) = self.session.request(self.request.clone(), false).await?;
                        // With the first message, because a server may answer no sooner.
                        sender.send_data(message.clone(), false)?;
                        (sender, accept(response).await?)
                    }
                };
                let mut arrived = 0;
                while arrived < message.len() as u64 {
                    let data = body.data().await.ok_or(Failure::Closed)??;
                    arrived += release(&mut body, &data)?;
                }
                // Dropping the call, as any failure does, resets its stream.
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

/// The body of a response that says success.
async fn accept(response: ResponseFuture) -> Result<RecvStream, Failure> {
    let response = response.await?;
    if response.status() != 200 {
        return Err(Failure::Status(response.status().as_u16().into()));
    }
    // A call that fails at once has its status here.
    match response.headers().get("grpc-status") {
        Some(status) if status != "0" => Err(Failure::Grpc(status.to_str().unwrap_or("unreadable").to_owned())),
        _ => Ok(response.into_body()),
    }
}

fn release(body: &mut RecvStream, data: &Bytes) -> Result<u64, Failure> {
    body.flow_control().release_capacity(data.len())?;
    Ok(data.len() as u64)
}

/// The bytes of a message that came back.
fn echoed(message: &Bytes, arrived: u64) -> Result<u64, Failure> {
    of_length(message.len() as u64, arrived).map(|length| length - PREFIX as u64)
}

fn of_length(wanted: u64, arrived: u64) -> Result<u64, Failure> {
    if arrived == wanted { Ok(arrived) } else { Err(Failure::Length { wanted, arrived }) }
}
