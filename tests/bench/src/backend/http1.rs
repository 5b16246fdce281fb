//! HTTP/1.1.

use std::io::{IoSlice, Write as _};
use std::rc::Rc;

use anyhow::{Result, anyhow};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::Shared;
use crate::load::message::{Reader, Side};
use crate::load::read_with;

/// Up to this length a body is copied behind its head, which is cheaper than a second buffer in the call.
const COPIED: usize = 8 * 1024;

/// Serves one connection to its end.
pub(super) async fn serve(mut stream: TcpStream, shared: Rc<Shared>) -> Result<()> {
    let mut reader = Reader::new(Side::Server);
    let mut answer = Vec::new();
    loop {
        answer.clear();
        // Requests may come in one piece: all that are complete are answered at once.
        let read =
            read_with(&mut stream, &shared.scratch, |bytes| take(&mut reader, bytes, &shared.bytes, &mut answer));
        let next = read.await?.map_err(|malformed| anyhow!(malformed))?;
        if !answer.is_empty() {
            write(&mut stream, &answer, next.rest, &shared.bytes).await?;
        }
        if next.close {
            return Ok(());
        }
    }
}

/// What to do behind the answers that are ready.
struct Next {
    /// Write so much more of the last body.
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
        let head = reader.head();
        if next.rest > 0 {
            return Err("requests are pipelined behind one for a long body");
        }
        let length = head.number;
        let close = if head.close { "connection: close\r\n" } else { "" };
        write!(
            answer,
            "HTTP/1.1 200 OK\r\n{close}content-type: application/octet-stream\r\ncontent-length: {length}\r\n\r\n"
        )
        .map_err(|_| "writing to memory")?;
        match source.get(..length) {
            Some(body) if length <= COPIED => answer.extend_from_slice(body),
            _ => next.rest = length,
        }
        next.close |= head.close;
        reader.next();
    }
    Ok(next)
}

async fn write(stream: &mut TcpStream, answer: &[u8], rest: usize, source: &[u8]) -> Result<()> {
    let mut written = 0;
    let length = answer.len() + rest;
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
