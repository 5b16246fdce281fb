//! The failures of requests.

use std::fmt;
use std::io;
use std::time::Duration;

/// Why a request failed.
#[derive(Debug)]
pub enum Failure {
    /// The connection could not be opened.
    Connect(io::Error),
    /// The TLS handshake failed.
    Handshake(io::Error),
    /// The connection failed.
    Connection(io::Error),
    /// The connection was closed in the middle of an exchange.
    Closed,
    /// The response violates the protocol.
    Malformed(&'static str),
    /// The response has this status instead of 200.
    Status(usize),
    /// The body has another length than requested.
    Length {
        /// The requested length.
        wanted: u64,
        /// The length that arrived.
        arrived: u64,
    },
    /// The HTTP/2 stream or its connection failed.
    Http2(h2::Error),
    /// The response has this `grpc-status` instead of 0.
    Grpc(String),
    /// There was no response for this long.
    Silence(Duration),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "connecting: {error}"),
            Self::Handshake(error) => write!(f, "TLS handshake: {error}"),
            Self::Connection(error) => write!(f, "{error}"),
            Self::Closed => write!(f, "the connection was closed in the middle of an exchange"),
            Self::Malformed(what) => write!(f, "malformed response: {what}"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Length { wanted, arrived } => write!(f, "{arrived} bytes instead of {wanted}"),
            Self::Http2(error) => write!(f, "HTTP/2: {error}"),
            Self::Grpc(status) => write!(f, "grpc-status {status}"),
            Self::Silence(age) => write!(f, "no response for {} s", age.as_secs()),
        }
    }
}

impl std::error::Error for Failure {}

impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        Self::Http2(error)
    }
}
