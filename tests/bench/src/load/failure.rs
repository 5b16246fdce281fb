//! Why a request failed.

use std::fmt;
use std::io;
use std::time::Duration;

/// Why a request failed.
#[derive(Debug)]
pub enum Failure {
    /// No connection.
    Connect(io::Error),
    /// No TLS session on it.
    Handshake(io::Error),
    /// It broke.
    Connection(io::Error),
    /// It ended in the middle.
    Closed,
    /// What arrived is not what the protocol says.
    Malformed(&'static str),
    /// Not the status of success.
    Status(usize),
    /// A body of another length than was asked for.
    Length {
        /// What was asked for.
        wanted: u64,
        /// What arrived.
        arrived: u64,
    },
    /// An error of HTTP/2: of the stream or of its connection.
    Http2(h2::Error),
    /// Not the `grpc-status` of success.
    Grpc(String),
    /// Nothing came back at all.
    Silence(Duration),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "connecting: {error}"),
            Self::Handshake(error) => write!(f, "TLS handshake: {error}"),
            Self::Connection(error) => write!(f, "{error}"),
            Self::Closed => write!(f, "the connection ended in the middle of an exchange"),
            Self::Malformed(what) => write!(f, "not as the protocol says: {what}"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Length { wanted, arrived } => write!(f, "{arrived} bytes instead of {wanted}"),
            Self::Http2(error) => write!(f, "HTTP/2: {error}"),
            Self::Grpc(status) => write!(f, "grpc-status {status}"),
            Self::Silence(age) => write!(f, "no answer for {} s", age.as_secs()),
        }
    }
}

impl std::error::Error for Failure {}

impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        Self::Http2(error)
    }
}
