//! What a connection speaks, from its first bytes.

use std::io;
use std::time::Duration;

use crate::io::Io;
use crate::upstream::Version;

/// What the first bytes show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP.
    Http(Version),
    /// Something else, or nothing in time.
    Opaque,
}

/// The preface of HTTP/2 (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A method that is longer is none that we know.
const LONGEST_METHOD: usize = 20;
/// A request line that is longer is taken for HTTP once its beginning looks like it.
const ENOUGH: usize = 256;

/// Waits for the first bytes and says what they are, without using them up. `within` bounds the wait for all that is
/// needed to tell; after it, or at the stream's end, it is opaque.
pub async fn spoken(io: &mut Io, within: Option<Duration>) -> io::Result<Spoken> {
    let deadline = within.map(|within| tokio::time::Instant::now() + within);
    loop {
        if let Some(spoken) = judge(io.prefix()) {
            return Ok(spoken);
        }
        let read = match deadline {
            None => io.read_ahead().await?,
            Some(deadline) => match tokio::time::timeout_at(deadline, io.read_ahead()).await {
                Ok(read) => read?,
                Err(_) => return Ok(Spoken::Opaque),
            },
        };
        if read == 0 {
            return Ok(Spoken::Opaque);
        }
    }
}

/// Waits for the first bytes of what is known to be HTTP, and says which.
pub async fn version(io: &mut Io) -> io::Result<Version> {
    while PREFACE.starts_with(io.prefix()) && io.prefix().len() < PREFACE.len() {
        if io.read_ahead().await? == 0 {
            break;
        }
    }
    Ok(if io.prefix().starts_with(PREFACE) { Version::Http2 } else { Version::Http1 })
}

/// What these bytes are; `None` as long as more are needed.
fn judge(bytes: &[u8]) -> Option<Spoken> {
    if bytes.starts_with(PREFACE) {
        return Some(Spoken::Http(Version::Http2));
    }
    if PREFACE.starts_with(bytes) {
        return None;
    }
    let Some(space) = bytes.iter().position(|byte| *byte == b' ') else {
        let may_be_method = bytes.len() <= LONGEST_METHOD && bytes.iter().all(u8::is_ascii_uppercase);
        return if may_be_method { None } else { Some(Spoken::Opaque) };
    };
    if space == 0 || space > LONGEST_METHOD || !bytes[..space].iter().all(u8::is_ascii_uppercase) {
        return Some(Spoken::Opaque);
    }
    // What a tunnel carries is the application's own affair.
    if &bytes[..space] == b"CONNECT" {
        return Some(Spoken::Opaque);
    }
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let line = bytes[..end].trim_ascii_end();
            let http = line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0");
            Some(if http { Spoken::Http(Version::Http1) } else { Spoken::Opaque })
        }
        None if bytes.len() >= ENOUGH && matches!(bytes.get(space + 1), Some(b'/' | b'h' | b'*')) => {
            Some(Spoken::Http(Version::Http1))
        }
        None if bytes.len() >= ENOUGH => Some(Spoken::Opaque),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judges_first_bytes() {
        let http1 = Some(Spoken::Http(Version::Http1));
        let opaque = Some(Spoken::Opaque);
        let long = format!("GET /{} ", "x".repeat(300));
        let table: [(&[u8], Option<Spoken>); 18] = [
            (b"", None),
            (b"G", None),
            (b"GET / HTTP/1.1", None),
            (b"GET / HTTP/1.1\r\n", http1),
            (b"GET / HTTP/1.0\n", http1),
            (b"OPTIONS * HTTP/1.1\r\n", http1),
            (b"GET /\r\n", opaque),
            (b"P", None),
            (b"PRI * HTTP/2.0\r\n", None),
            (PREFACE, Some(Spoken::Http(Version::Http2))),
            (b"PRI * HTTP/2.0\r\n\r\nXX", opaque),
            (b"POST", None),
            (b"hello", opaque),
            (b"\x16\x03\x01", opaque),
            (b" GET", opaque),
            (b"CONNECT a:1 HTTP/1.1\r\n", opaque),
            (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", opaque),
            (long.as_bytes(), http1),
        ];
        for (bytes, expected) in table {
            assert_eq!(judge(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
