//! Protocol detection from a connection's first bytes.

use std::io;
use std::time::Duration;

use crate::http::Version;
use crate::io::Io;
use crate::mesh::Protocol;

/// The detected protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    /// HTTP.
    Http(Version),
    /// Not HTTP, or nothing received in time.
    Opaque,
}

/// The preface of HTTP/2 (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The maximum length of a method.
const MAX_METHOD: usize = 20;
/// The number of bytes after which a request line counts as HTTP if its beginning does.
const SUFFICIENT: usize = 256;

/// Returns the protocol of a connection to a port for which no service declares one: opaque if the server sends first by
/// convention, else unknown.
pub fn undeclared(port: u16) -> Protocol {
    if wire::SERVER_FIRST_PORTS.contains(&port) { Protocol::Tcp } else { Protocol::Unknown }
}

/// Detects the protocol from the first bytes, which stay to be read. The connection is opaque if `within` passes or the stream
/// ends before the bytes are conclusive.
pub async fn protocol(io: &mut Io, within: Duration) -> io::Result<Detected> {
    let deadline = tokio::time::Instant::now() + within;
    loop {
        if let Some(detected) = classify(io.prefix()) {
            return Ok(detected);
        }
        let Ok(read) = tokio::time::timeout_at(deadline, io.read_ahead()).await else { return Ok(Detected::Opaque) };
        if read? == 0 {
            return Ok(Detected::Opaque);
        }
    }
}

/// Detects the version of a connection that carries HTTP.
pub async fn version(io: &mut Io) -> io::Result<Version> {
    while PREFACE.starts_with(io.prefix()) && io.prefix().len() < PREFACE.len() {
        if io.read_ahead().await? == 0 {
            break;
        }
    }
    Ok(if io.prefix().starts_with(PREFACE) { Version::Http2 } else { Version::Http1 })
}

/// Classifies first bytes; `None` if more are needed.
fn classify(bytes: &[u8]) -> Option<Detected> {
    if bytes.starts_with(PREFACE) {
        return Some(Detected::Http(Version::Http2));
    }
    if PREFACE.starts_with(bytes) {
        return None;
    }
    let Some(space) = bytes.iter().position(|byte| *byte == b' ') else {
        let may_be_method = bytes.len() <= MAX_METHOD && bytes.iter().all(u8::is_ascii_uppercase);
        return if may_be_method { None } else { Some(Detected::Opaque) };
    };
    if space == 0 || space > MAX_METHOD || !bytes[..space].iter().all(u8::is_ascii_uppercase) {
        return Some(Detected::Opaque);
    }
    // The content of a tunnel is opaque.
    if &bytes[..space] == b"CONNECT" {
        return Some(Detected::Opaque);
    }
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let line = bytes[..end].trim_ascii_end();
            let http = line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0");
            Some(if http { Detected::Http(Version::Http1) } else { Detected::Opaque })
        }
        None if bytes.len() >= SUFFICIENT && matches!(bytes.get(space + 1), Some(b'/' | b'h' | b'*')) => {
            Some(Detected::Http(Version::Http1))
        }
        None if bytes.len() >= SUFFICIENT => Some(Detected::Opaque),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classifies_first_bytes() {
        let http1 = Some(Detected::Http(Version::Http1));
        let opaque = Some(Detected::Opaque);
        let long = format!("GET /{} ", "x".repeat(300));
        let table: [(&[u8], Option<Detected>); 18] = [
            (b"", None),
            (b"G", None),
            (b"GET / HTTP/1.1", None),
            (b"GET / HTTP/1.1\r\n", http1),
            (b"GET / HTTP/1.0\n", http1),
            (b"OPTIONS * HTTP/1.1\r\n", http1),
            (b"GET /\r\n", opaque),
            (b"P", None),
            (b"PRI * HTTP/2.0\r\n", None),
            (PREFACE, Some(Detected::Http(Version::Http2))),
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
            assert_eq!(classify(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
