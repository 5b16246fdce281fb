//! HTTP/1.1: sends prepared bytes, and parses only the heads of responses.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::Failure;
use super::message::{Reader, Reads};
use super::socket::{self, Scratch, WORTH_DISCARDING};

/// A caller over HTTP/1.1: a connection with one request at a time.
#[derive(Debug)]
pub struct Http1Caller {
    target: SocketAddr,
    request: Rc<[u8]>,
    body: u64,
    keep: bool,
    scratch: Scratch,
    reader: Reader,
    stream: Option<TcpStream>,
}

/// The bytes of a request for a body of this length.
pub fn request(authority: &str, body: usize, keep: bool) -> Rc<[u8]> {
    let close = if keep { "" } else { "connection: close\r\n" };
    format!(
        "GET /bytes/{body} HTTP/1.1\r\nhost: {authority}\r\nuser-agent: isthmus-bench\r\naccept: */*\r\n{close}\r\n"
    )
    .into_bytes()
    .into()
}

impl super::drive::Caller for Http1Caller {
    /// Sends one request. A connection on which a request failed is not used again.
    async fn exchange(&mut self) -> Result<u64, Failure> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => socket::connect(self.target).await?,
        };
        stream.write_all(&self.request).await.map_err(Failure::Connection)?;
        self.reader.next();
        while !self.reader.is_done() {
            self.read(&mut stream).await?;
        }
        let (head, arrived) = (self.reader.head(), self.reader.body());
        if head.number != 200 {
            return Err(Failure::Status(head.number));
        }
        if arrived != self.body {
            return Err(Failure::Length { wanted: self.body, arrived });
        }
        if self.keep && !head.close {
            self.stream = Some(stream);
        }
        Ok(arrived)
    }
}

impl Http1Caller {
    /// A caller that requests `body` bytes with `request`, on one connection or on a new one each time.
    pub fn new(target: SocketAddr, request: &Rc<[u8]>, body: usize, keep: bool, scratch: &Scratch) -> Self {
        Self {
            target,
            request: Rc::clone(request),
            body: body as u64,
            keep,
            scratch: Rc::clone(scratch),
            reader: Reader::new(Reads::Responses),
            stream: None,
        }
    }

    async fn read(&mut self, stream: &mut TcpStream) -> Result<(), Failure> {
        let missing = self.reader.missing();
        if missing >= WORTH_DISCARDING {
            let dropped = socket::discard(stream, &self.scratch, missing).await.map_err(Failure::Connection)?;
            self.reader.skip(dropped);
            return if dropped == 0 { Err(Failure::Closed) } else { Ok(()) };
        }
        let reader = &mut self.reader;
        let read = socket::read_with(stream, &self.scratch, |bytes| {
            let taken = reader.feed(bytes).map_err(Failure::Malformed)?;
            match bytes.len() {
                0 if !reader.end() => Err(Failure::Closed),
                length if taken < length => Err(Failure::Malformed("more than one response to a request")),
                _ => Ok(()),
            }
        });
        read.await.map_err(|error: io::Error| Failure::Connection(error))?
    }
}
