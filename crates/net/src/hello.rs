//! Reading a TLS ClientHello without terminating TLS: a gateway forwards the bytes that it has read.
//!
//! [`parse`] is a pure function over the bytes that have arrived; [`read`] reads from a socket within limits. A
//! ClientHello may be split over segments and records, as those with a post-quantum key share are. It is read, not
//! peeked: a socket with a peeked, incomplete ClientHello remains readable, so waiting for the rest would spin.
//!
//! Sources: RFC 8446 §4.1.2 and §5.1, RFC 6066 §3 (server_name), RFC 7301 (ALPN).

use std::io;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

mod parse;
#[cfg(test)]
mod tests;

pub use parse::{HelloNames, HelloProgress, Malformed, parse};

/// The limits for reading a ClientHello.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The maximum size in bytes, including record headers.
    pub max_bytes: usize,
    /// The maximum time until the last byte of the ClientHello.
    pub deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 16 * 1024, deadline: Duration::from_secs(5) }
    }
}

/// A ClientHello.
#[derive(Debug)]
pub struct Hello {
    /// The server name, in lower case and without a trailing dot.
    pub server_name: Option<String>,
    /// The offered application protocols, in the client's order.
    pub alpn: Vec<Vec<u8>>,
    /// The bytes read, to be forwarded: the ClientHello and any bytes that followed it.
    pub bytes: BytesMut,
}

/// Why a ClientHello could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The peer closed the connection without sending a byte, as health checks do.
    #[error("the connection was closed before the first byte")]
    Empty,
    /// The peer closed the connection within the ClientHello.
    #[error("the connection was closed after {0} bytes of an incomplete ClientHello")]
    Closed(usize),
    /// The ClientHello was incomplete at the deadline.
    #[error("the ClientHello was incomplete at the deadline, after {0} bytes")]
    Slow(usize),
    /// The ClientHello arrived in more parts than a client sends.
    #[error("the ClientHello arrived in more than {MAX_PARTS} parts")]
    Pieces,
    /// The ClientHello exceeds the size limit.
    #[error("the ClientHello exceeds {0} bytes")]
    TooLarge(usize),
    /// The bytes are not a ClientHello.
    #[error("not a ClientHello: {0}")]
    Malformed(#[from] Malformed),
    /// The connection failed.
    #[error("cannot read the ClientHello: {0}")]
    Io(#[from] io::Error),
}

impl HelloError {
    /// Returns the reason as a metric label value.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Closed(_) => "hello_unfinished",
            Self::Slow(_) => "hello_slow",
            Self::Pieces => "hello_pieces",
            Self::TooLarge(_) => "hello_too_large",
            Self::Malformed(Malformed::NotTls) => "not_tls",
            Self::Malformed(Malformed::ServerName) => "server_name_invalid",
            Self::Malformed(_) => "hello_malformed",
            Self::Io(_) => "hello_reset",
        }
    }
}

/// The maximum number of parsing attempts. Each attempt starts at the first byte, so that thousands of one-byte
/// records, sent one by one, would cost time quadratic in their number.
const MAX_PARTS: usize = 256;

/// Reads a ClientHello.
///
/// # Errors
/// Returns an error if the bytes are not a ClientHello, a limit is exceeded, or the connection fails.
pub async fn read(stream: &mut TcpStream, limits: Limits) -> Result<Hello, HelloError> {
    let mut bytes = BytesMut::new();
    match tokio::time::timeout(limits.deadline, fill(stream, &mut bytes, limits.max_bytes)).await {
        Ok(Ok(names)) => Ok(Hello { server_name: names.server_name, alpn: names.alpn, bytes }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(HelloError::Slow(bytes.len())),
    }
}

/// Reads and parses. The buffer is allocated when the first bytes have arrived, so that idle connections have none.
async fn fill(stream: &mut TcpStream, bytes: &mut BytesMut, max_bytes: usize) -> Result<HelloNames, HelloError> {
    /// Fits the ClientHello of a post-quantum client (about 1,500 to 1,900 bytes).
    const FIRST_BUFFER: usize = 2048;
    let (mut needed, mut attempts) = (0, 0);
    loop {
        stream.readable().await?;
        let room = max_bytes - bytes.len();
        bytes.reserve(FIRST_BUFFER.max(needed.min(max_bytes)).saturating_sub(bytes.len()).clamp(1, room));
        // Unlike `try_read_buf`, this read clears the readiness if the buffer is not filled, which saves the next
        // reader a system call that would return nothing.
        match stream.read_buf(&mut (&mut *bytes).limit(room)).await? {
            0 if bytes.is_empty() => return Err(HelloError::Empty),
            0 => return Err(HelloError::Closed(bytes.len())),
            _ => {}
        }
        if bytes.len() < needed {
            continue;
        }
        attempts += 1;
        if attempts > MAX_PARTS {
            return Err(HelloError::Pieces);
        }
        match parse(bytes)? {
            HelloProgress::Done(names) => return Ok(names),
            HelloProgress::Needs(total) if total > max_bytes || bytes.len() >= max_bytes => {
                return Err(HelloError::TooLarge(max_bytes));
            }
            HelloProgress::Needs(total) => needed = total,
        }
    }
}
