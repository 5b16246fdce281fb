//! Reading a TLS ClientHello without ending the TLS: a gateway forwards the very bytes that it read.
//!
//! [`parse`] is a pure function over what has arrived so far; [`read`] feeds it from a socket within bounds. The hello may
//! be split over segments and over records, as one with a post-quantum key share is. It is read, never peeked at:
//! readiness stays set while a peeked hello is incomplete, so waiting for the rest would spin.
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

pub use parse::{Malformed, Names, Progress, parse};

/// Bounds on reading a hello.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes on the wire, record headers included.
    pub max_bytes: usize,
    /// From the start of reading to the hello's last byte.
    pub deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 16 * 1024, deadline: Duration::from_secs(5) }
    }
}

/// A whole ClientHello.
#[derive(Debug)]
pub struct Hello {
    /// The server name, in lower case and without a trailing dot.
    pub server_name: Option<String>,
    /// The protocols offered, in the client's order.
    pub alpn: Vec<Vec<u8>>,
    /// All that was read, to be forwarded: the hello, and what the client may have sent after it.
    pub bytes: BytesMut,
}

/// Why there is no hello.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The peer closed before the first byte, as health checks do.
    #[error("closed before sending anything")]
    Empty,
    /// The peer closed in the middle.
    #[error("closed after {0} bytes of an unfinished ClientHello")]
    Closed(usize),
    /// The deadline passed.
    #[error("no complete ClientHello within the deadline, only {0} bytes")]
    Slow(usize),
    /// It came in more pieces than any client makes of one.
    #[error("a ClientHello in more than {MAX_PIECES} pieces")]
    Pieces,
    /// The bound on bytes was reached.
    #[error("a ClientHello larger than {0} bytes")]
    TooLarge(usize),
    /// These bytes cannot become a ClientHello.
    #[error("not a ClientHello: {0}")]
    Malformed(#[from] Malformed),
    /// The socket failed.
    #[error("reading a ClientHello: {0}")]
    Io(#[from] io::Error),
}

impl HelloError {
    /// A short, fixed word for metrics.
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

/// How often what has arrived is looked at. Each look begins at the first byte, so thousands of records of one byte each,
/// sent one by one, would cost the square of their number.
const MAX_PIECES: usize = 256;

/// Reads until the hello is whole.
pub async fn read(stream: &mut TcpStream, limits: Limits) -> Result<Hello, HelloError> {
    let mut bytes = BytesMut::new();
    match tokio::time::timeout(limits.deadline, fill(stream, &mut bytes, limits.max_bytes)).await {
        Ok(Ok(names)) => Ok(Hello { server_name: names.server_name, alpn: names.alpn, bytes }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(HelloError::Slow(bytes.len())),
    }
}

/// Reads and parses. No buffer is taken before the first bytes are there: an idle connection costs none.
async fn fill(stream: &mut TcpStream, bytes: &mut BytesMut, max_bytes: usize) -> Result<Names, HelloError> {
    /// Fits the hello of a post-quantum client (about 1,500 to 1,900 bytes) without growing.
    const FIRST_BUFFER: usize = 2048;
    let (mut needed, mut looks) = (0, 0);
    loop {
        stream.readable().await?;
        let room = max_bytes - bytes.len();
        bytes.reserve(FIRST_BUFFER.max(needed.min(max_bytes)).saturating_sub(bytes.len()).clamp(1, room));
        // This read, unlike `try_read_buf`, notes that a buffer which was not filled has emptied the socket, so that whoever
        // reads next does not ask the kernel in vain.
        match stream.read_buf(&mut (&mut *bytes).limit(room)).await? {
            0 if bytes.is_empty() => return Err(HelloError::Empty),
            0 => return Err(HelloError::Closed(bytes.len())),
            _ => {}
        }
        if bytes.len() < needed {
            continue;
        }
        looks += 1;
        if looks > MAX_PIECES {
            return Err(HelloError::Pieces);
        }
        match parse(bytes)? {
            Progress::Done(names) => return Ok(names),
            Progress::Needs(total) if total > max_bytes || bytes.len() >= max_bytes => {
                return Err(HelloError::TooLarge(max_bytes));
            }
            Progress::Needs(total) => needed = total,
        }
    }
}
