//! HTTP/1.1, and detection of HTTP/2 on the same port.

use std::io::{Cursor, IoSlice, Write as _};
use std::rc::Rc;

use anyhow::{Result, anyhow};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, join};
use tokio::net::TcpStream;

use super::{Shared, http2};
use crate::load::message::{Reader, Reads};
use crate::load::read_with;

/// Bodies up to this length are copied behind their head, which is cheaper than a second buffer in the system call.
const COPIED: usize = 8 * 1024;

/// Serves one connection until it is closed.
pub(super) async fn serve(mut stream: TcpStream, shared: Rc<Shared>) -> Result<()> {
    let mut reader = Reader::new(Reads::Requests);
    let mut answer = Vec::new();
    let mut preface = Vec::new();
    loop {
        // One read may return several requests: all complete ones are answered at once.
        let read = read_with(&mut stream, &shared.scratch, |bytes| {
            if bytes.starts_with(http2::PREFACE) {
                preface = bytes.to_vec();
                return Ok(Next { rest: 0, close: false });
            }
            take(&mut reader, bytes, &shared.bytes, &mut answer)
        });
        let next = read.await?.map_err(|malformed| anyhow!(malformed))?;
        if !preface.is_empty() {
            let (read, write) = stream.into_split();
            let stream = join(Cursor::new(preface).chain(read), write);
            return Box::pin(http2::serve(stream, shared)).await;
        }
        if !answer.is_empty() {
            write(&mut stream, &answer, next.rest, &shared.bytes).await?;
            answer.clear();
        }
        if next.close {
            return Ok(());
        }
    }
}

/// What follows the prepared responses.
struct Next {
    /// The number of bytes of the last body that are still to be written.
    rest: usize,
    close: bool,
}

fn take(reader: &mut Reader, bytes: &[u8], source: &[u8], answer: &mut Vec<u8>) -> Result<Next, &'static str> {
    let mut next = Next { rest: 0, close: bytes.is_empty() };
    let mut at = 0;
    while at < bytes.len() {
        at += reader.feed(&bytes[at..])?;
        if !reader.is_done() {
            continue;
        }
        if next.rest > 0 {
            return Err("a request is pipelined behind one for a long body");
        }
        let head = reader.head();
        let length = head.number;
        let close = if head.close { "connection: close\r\n" } else { "" };
        let lines = "content-type: application/octet-stream\r\ncontent-length";
        write!(answer, "HTTP/1.1 200 OK\r\n{close}{lines}: {length}\r\n\r\n").map_err(|_| "out of memory")?;
        match source.get(..length) {
            Some(body) if length <= COPIED => answer.extend_from_slice(body),
            _ => next.rest = length,
        }
        next.close |= head.close;
        reader.next();
    }
    Ok(next)
}

/// Writes `answer`, then `rest` bytes of `source`, which is repeated as needed.
async fn write(stream: &mut TcpStream, answer: &[u8], rest: usize, source: &[u8]) -> Result<()> {
    let length = answer.len() + rest;
    let mut written = 0;
    while written < length {
        let head = answer.get(written..).unwrap_or_default();
        let body = &source[..(length - written.max(answer.len())).min(source.len())];
        written += match body.len() {
            0 => stream.write(head).await?,
            _ if head.is_empty() => stream.write(body).await?,
            _ => stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]).await?,
        };
    }
    Ok(())
}
