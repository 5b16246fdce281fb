//! Request targets as browsers and scripts write them: with raw quotes and angle brackets.
//!
//! They are not part of a URI (RFC 3986 §2), and hyper refuses them. Envoy, with the path normalization that Istio configures,
//! escapes them, and so does this reader before hyper reads a request line.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

/// The reader of a downstream's bytes, which escapes request lines.
#[derive(Debug, Default)]
pub(super) struct RequestLines {
    /// Within a request line; whether its target has begun.
    within: Option<bool>,
    /// Data that did not fit into the reader's buffer.
    held: BytesMut,
}

/// The bytes that are escaped.
const ESCAPED: [u8; 4] = *b"\"<>`";

/// Returns the first byte at which reading a request line does something: the end of the line, or a byte that is escaped.
fn first_stop(data: &[u8]) -> Option<usize> {
    let end = memchr::memchr(b'\n', data);
    let line = &data[..end.unwrap_or(data.len())];
    let [quote, less, greater, backtick] = ESCAPED;
    let first = [memchr::memchr3(quote, less, greater, line), memchr::memchr(backtick, line)];
    first.into_iter().flatten().min().or(end)
}

impl RequestLines {
    /// Reads from `stream`. `begins` is called when data has arrived, and returns whether it begins with a request line.
    pub(super) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        begins: impl FnOnce() -> bool,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            let before = buf.filled().len();
            ready!(Pin::new(stream).poll_read(cx, buf))?;
            let data = &buf.filled()[before..];
            if data.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let begins = begins();
            let Some(escaped) = self.escape(data, begins) else { return Poll::Ready(Ok(())) };
            buf.set_filled(before);
            self.held = escaped;
        }
        let length = self.held.len().min(buf.remaining());
        buf.put_slice(&self.held[..length]);
        self.held.advance(length);
        if self.held.is_empty() {
            self.held = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Follows a request line through newly read data. Returns the data with its target escaped, if it must be.
    fn escape(&mut self, data: &[u8], begins: bool) -> Option<BytesMut> {
        let mut target = match self.within {
            Some(target) => target,
            None if begins => false,
            None => return None,
        };
        let stop = first_stop(data);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    /// Reads `pieces`, each of which arrives alone. A request line begins at the first of them and at those in `begins_at`.
    fn read(pieces: &[&str], begins_at: &[usize]) -> String {
        let mut lines = RequestLines::default();
        let (mut all, cx) = (Vec::new(), &mut Context::from_waker(Waker::noop()));
        for (at, piece) in pieces.iter().enumerate() {
            let (mut stream, mut first) = (piece.as_bytes(), at == 0 || begins_at.contains(&at));
            loop {
                // Small reads: what is escaped does not fit.
                let mut buffer = [0; 7];
                let mut buf = ReadBuf::new(&mut buffer);
                let read = lines.poll_read(&mut stream, || std::mem::take(&mut first), cx, &mut buf);
                assert!(matches!(read, Poll::Ready(Ok(()))));
                if buf.filled().is_empty() {
                    break;
                }
                all.extend_from_slice(buf.filled());
            }
        }
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn targets_are_escaped_and_nothing_else() {
        let rest = "host: a\r\nx: \"<>\r\n\r\n<body>\n";
        for (line, expected) in [
            ("GET /a HTTP/1.1\r\n", "GET /a HTTP/1.1\r\n"),
            ("GET /\"a\"?b=<c>`d HTTP/1.1\r\n", "GET /%22a%22?b=%3Cc%3E%60d HTTP/1.1\r\n"),
            ("\r\nGET /<a HTTP/1.1\n", "\r\nGET /%3Ca HTTP/1.1\n"),
            ("G<T /a HTTP/1.1\r\n", "G<T /a HTTP/1.1\r\n"),
        ] {
            assert_eq!(read(&[&format!("{line}{rest}")], &[]), format!("{expected}{rest}"));
            let pieces: Vec<String> = line.chars().map(String::from).collect();
            let mut pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            pieces.push(rest);
            assert_eq!(read(&pieces, &[]), format!("{expected}{rest}"), "in pieces");
        }
    }

    #[test]
    fn only_the_beginning_of_a_request_is_escaped() {
        let pieces = ["POST / HTTP/1.1\r\n\r\n", "GET /<body> HTTP/1.1\r\n", "GET /<next> HTTP/1.1\r\n"];
        assert_eq!(read(&pieces, &[2]), [pieces[0], pieces[1], "GET /%3Cnext%3E HTTP/1.1\r\n"].concat());
    }
}
