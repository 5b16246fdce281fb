//! Why a connection is not forwarded, and what the client is told.

use std::time::Duration;

use net::hello::{HelloError, Malformed};
use telemetry::flags;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Why a connection is not forwarded.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It brought no usable ClientHello.
    #[error("{0}")]
    Hello(#[from] HelloError),
    /// The hello names no server.
    #[error("the ClientHello names no server")]
    NoServerName,
    /// No exported service has this name.
    #[error("no service of this name is exported from this network")]
    UnknownServerName,
    /// The client is no proxy of a mesh.
    #[error("the client offers none of the mesh's protocols")]
    Protocol,
    /// The service has no endpoint here that could be used.
    #[error("the service has no endpoint in this network that could be used")]
    NoEndpoint,
    /// None of the endpoints tried accepted a connection.
    #[error("{attempts} endpoints tried, the last one: {last}")]
    Connect {
        /// How many.
        attempts: usize,
        /// What the last one said.
        last: std::io::Error,
    },
    /// Too many connections at once.
    #[error("too many connections at once")]
    Overload,
}

/// TLS alert descriptions (RFC 8446 §6).
mod alert {
    pub(super) const HANDSHAKE_FAILURE: u8 = 40;
    pub(super) const DECODE_ERROR: u8 = 50;
    pub(super) const INTERNAL_ERROR: u8 = 80;
    pub(super) const UNRECOGNIZED_NAME: u8 = 112;
    pub(super) const NO_APPLICATION_PROTOCOL: u8 = 120;
}

impl Refusal {
    /// The outcome as metrics say it: one of a fixed set.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Hello(error) => error.reason(),
            Self::NoServerName => "no_server_name",
            Self::UnknownServerName => "unknown_server_name",
            Self::Protocol => "protocol_not_offered",
            Self::NoEndpoint => "no_endpoint",
            Self::Connect { .. } => "connect_failed",
            Self::Overload => "overload",
        }
    }

    /// The response flag in the access log.
    pub fn flags(&self) -> &'static str {
        match self {
            Self::Hello(HelloError::Empty | HelloError::Closed(_) | HelloError::Io(_)) => {
                flags::DOWNSTREAM_CONNECTION_TERMINATION
            }
            Self::Hello(HelloError::Slow(_)) => flags::DURATION_TIMEOUT,
            Self::Hello(_) => flags::DOWNSTREAM_PROTOCOL_ERROR,
            Self::NoServerName | Self::UnknownServerName | Self::Protocol => flags::NO_ROUTE_FOUND,
            Self::NoEndpoint => flags::NO_HEALTHY_UPSTREAM,
            Self::Connect { .. } => flags::UPSTREAM_CONNECTION_FAILURE,
            Self::Overload => flags::OVERLOAD,
        }
    }

    /// The alert that tells a TLS client why; none for what does not speak TLS, or is gone.
    fn alert(&self) -> Option<u8> {
        Some(match self {
            Self::Hello(HelloError::Malformed(Malformed::NotTls) | HelloError::Empty | HelloError::Closed(_)) => {
                return None;
            }
            Self::Hello(HelloError::Io(_) | HelloError::Slow(_)) | Self::Overload => return None,
            Self::Hello(HelloError::Malformed(Malformed::ServerName)) => alert::UNRECOGNIZED_NAME,
            Self::Hello(HelloError::Malformed(_)) => alert::DECODE_ERROR,
            Self::Hello(HelloError::TooLarge(_) | HelloError::Pieces) => alert::HANDSHAKE_FAILURE,
            Self::NoServerName | Self::UnknownServerName => alert::UNRECOGNIZED_NAME,
            Self::Protocol => alert::NO_APPLICATION_PROTOCOL,
            Self::NoEndpoint | Self::Connect { .. } => alert::INTERNAL_ERROR,
        })
    }

    /// Tells the client and closes.
    pub async fn tell(&self, mut client: TcpStream) {
        /// The alert fits any send buffer; only a broken connection takes longer.
        const PATIENCE: Duration = Duration::from_secs(1);
        if let Some(description) = self.alert() {
            let fatal = [21, 3, 3, 0, 2, 2, description];
            let _ = tokio::time::timeout(PATIENCE, async {
                client.write_all(&fatal).await?;
                client.shutdown().await
            })
            .await;
        }
    }
}
