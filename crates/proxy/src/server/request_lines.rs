//! Request targets as browsers and scripts write them: with raw quotes and angle brackets.
//!
//! They are not part of a URI (RFC 3986 §2), and hyper refuses them. Envoy, with the path normalization that Istio configures,
//! escapes them, and so does this stream before hyper reads a request line.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A downstream's byte stream, whose request lines are escaped.
#[derive(Debug)]
pub(super) struct RequestLines<S> {
    stream: S,
    /// Set when the next byte begins a request line.
    begins: Arc<AtomicBool>,
    /// Within a request line; whether its target has begun.
    within: Option<bool>,
    /// Data that did not fit into the reader's buffer.
    held: BytesMut,
}

/// Bytes at which reading a request line does something.
const STOPS: [bool; 256] = {
    let mut stops = [false; 256];
    let mut at = 0;
    while at < ESCAPED.len() {
        stops[ESCAPED[at] as usize] = true;
        at += 1;
    }
    stops[b'\n' as usize] = true;
    stops
};
const ESCAPED: [u8; 4] = *b"\"<>`";

impl<S> RequestLines<S> {
    /// Wraps a stream. `begins` is set by the reader whenever a request has been read in full. It is atomic because hyper
    /// requires streams that could be sent to another thread.
    pub(super) fn new(stream: S, begins: Arc<AtomicBool>) -> Self {
        begins.store(true, Relaxed);
        Self { stream, begins, within: None, held: BytesMut::new() }
    }

    /// Follows a request line through newly read data. Returns the data with its target escaped, if it must be.
    fn escape(&mut self, data: &[u8]) -> Option<BytesMut> {
        let mut target = match self.within {
            Some(target) => target,
            None if !self.begins.load(Relaxed) => return None,
            None => {
                self.begins.store(false, Relaxed);
                false
            }
        };
        let stop = data.iter().position(|byte| STOPS[usize::from(*byte)]);
        if stop.is_none_or(|stop| data[stop] == b'\n' && stop > 1) {
            // Almost always: nothing to escape, and the line ends within the data.
            self.within = if stop.is_some() { None } else { Some(target || data.contains(&b' ')) };
            return None;
        }
        let mut escaped = BytesMut::with_capacity(data.len() + 64);
        let mut line_began = false;
        for (at, byte) in data.iter().enumerate() {
            match byte {
                b'\n' if line_began || target => {
                    self.within = None;
                    escaped.extend_from_slice(&data[at..]);
                    return Some(escaped);
                }
                b'\n' | b'\r' => {}
                b' ' => target = true,
                _ => line_began = true,
            }
            if target && ESCAPED.contains(byte) {
                escaped.extend_from_slice(format!("%{byte:02X}").as_bytes());
            } else {
                escaped.extend_from_slice(&[*byte]);
            }
        }
        self.within = Some(target);
        Some(escaped)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for RequestLines<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.held.is_empty() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            let Some(escaped) = this.escape(&buf.filled()[before..]) else { return Poll::Ready(Ok(())) };
            buf.set_filled(before);
            this.held = escaped;
        }
        let length = this.held.len().min(buf.remaining());
        buf.put_slice(&this.held[..length]);
        this.held.advance(length);
        if this.held.is_empty() {
            this.held = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for RequestLines<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    /// Reads `pieces`, each of which arrives alone. A request line begins at the first of them and at those in `begins`.
    async fn read(pieces: &[&str], begins_at: &[usize]) -> String {
        let begins = Arc::<AtomicBool>::default();
        let mut lines = RequestLines::new(&[][..], begins.clone());
        let mut all = Vec::new();
        for (at, piece) in pieces.iter().enumerate() {
            lines.stream = piece.as_bytes();
            if begins_at.contains(&at) {
                begins.store(true, Relaxed);
            }
            // Small reads: what is escaped does not fit.
            let mut buffer = [0; 7];
            loop {
                let length = lines.read(&mut buffer).await.unwrap();
                if length == 0 {
                    break;
                }
                all.extend_from_slice(&buffer[..length]);
            }
        }
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn targets_are_escaped_and_nothing_else() {
        let rest = "host: a\r\nx: \"<>\r\n\r\n<body>\n";
        for (line, expected) in [
            ("GET /a HTTP/1.1\r\n", "GET /a HTTP/1.1\r\n"),
            ("GET /\"a\"?b=<c>`d HTTP/1.1\r\n", "GET /%22a%22?b=%3Cc%3E%60d HTTP/1.1\r\n"),
            ("\r\nGET /<a HTTP/1.1\n", "\r\nGET /%3Ca HTTP/1.1\n"),
            ("G<T /a HTTP/1.1\r\n", "G<T /a HTTP/1.1\r\n"),
        ] {
            assert_eq!(read(&[&format!("{line}{rest}")], &[]).await, format!("{expected}{rest}"));
            let pieces: Vec<String> = line.chars().map(String::from).collect();
            let mut pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            pieces.push(rest);
            assert_eq!(read(&pieces, &[]).await, format!("{expected}{rest}"), "in pieces");
        }
    }

    #[tokio::test]
    async fn only_the_beginning_of_a_request_is_escaped() {
        let pieces = ["POST / HTTP/1.1\r\n\r\n", "GET /<body> HTTP/1.1\r\n", "GET /<next> HTTP/1.1\r\n"];
        assert_eq!(read(&pieces, &[2]).await, [pieces[0], pieces[1], "GET /%3Cnext%3E HTTP/1.1\r\n"].concat());
    }
}
