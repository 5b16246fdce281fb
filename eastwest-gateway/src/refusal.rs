//! Refusals: why a connection is not forwarded, and the TLS alert that the client receives.

use std::time::Duration;

use net::hello::{HelloError, Malformed};
use telemetry::ResponseFlags;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// The reason why a connection is not forwarded.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The ClientHello is missing or invalid.
    #[error("{0}")]
    Hello(#[from] HelloError),
    /// The ClientHello has no server name.
    #[error("the ClientHello has no server name")]
    NoServerName,
    /// No exported service has the server name.
    #[error("no service with this server name is exported from this network")]
    UnknownServerName,
    /// The client is not a proxy of the mesh.
    #[error("the client offers none of the mesh's ALPN protocols")]
    Protocol,
    /// A FederationPolicy states the client's address as one of a cluster that may not consume the service, or not as one of
    /// those that may.
    #[error("federation policy: the service is not exported to clients at this address")]
    Source,
    /// The service has no available endpoint in this network.
    #[error("the service has no available endpoint in this network")]
    NoEndpoint,
    /// No endpoint accepted a connection.
    #[error("{attempts} endpoints tried; the last error: {last}")]
    Connect {
        /// The number of endpoints tried.
        attempts: usize,
        /// The error of the last one.
        last: std::io::Error,
    },
}

/// TLS alert descriptions (RFC 8446 §6).
mod alert {
    pub(super) const HANDSHAKE_FAILURE: u8 = 40;
    pub(super) const ACCESS_DENIED: u8 = 49;
    pub(super) const DECODE_ERROR: u8 = 50;
    pub(super) const INTERNAL_ERROR: u8 = 80;
    pub(super) const UNRECOGNIZED_NAME: u8 = 112;
    pub(super) const NO_APPLICATION_PROTOCOL: u8 = 120;
}

impl Refusal {
    /// Returns the label value of metrics: one of a fixed set.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Hello(error) => error.reason(),
            Self::NoServerName => "no_server_name",
            Self::UnknownServerName => "unknown_server_name",
            Self::Protocol => "protocol_not_offered",
            Self::Source => "source_not_permitted",
            Self::NoEndpoint => "no_endpoint",
            Self::Connect { .. } => "connect_failed",
        }
    }

    /// Returns the response flags for the access log.
    pub fn flags(&self) -> ResponseFlags {
        match self {
            Self::Hello(HelloError::Empty | HelloError::Closed(_) | HelloError::Io(_)) => {
                ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION
            }
            Self::Hello(HelloError::Slow(_)) => ResponseFlags::DURATION_TIMEOUT,
            Self::Hello(_) => ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR,
            Self::NoServerName | Self::UnknownServerName | Self::Protocol | Self::Source => {
                ResponseFlags::NO_ROUTE_FOUND
            }
            Self::NoEndpoint => ResponseFlags::NO_HEALTHY_UPSTREAM,
            Self::Connect { .. } => ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
        }
    }

    /// Returns the TLS alert for the client; `None` for clients that do not speak TLS or have disconnected.
    fn alert(&self) -> Option<u8> {
        Some(match self {
            Self::Hello(HelloError::Malformed(Malformed::NotTls) | HelloError::Empty | HelloError::Closed(_)) => {
                return None;
            }
            Self::Hello(HelloError::Io(_) | HelloError::Slow(_)) => return None,
            Self::Hello(HelloError::Malformed(Malformed::ServerName)) => alert::UNRECOGNIZED_NAME,
            Self::Hello(HelloError::Malformed(_)) => alert::DECODE_ERROR,
            Self::Hello(HelloError::TooLarge(_) | HelloError::Pieces) => alert::HANDSHAKE_FAILURE,
            Self::NoServerName | Self::UnknownServerName => alert::UNRECOGNIZED_NAME,
            Self::Protocol => alert::NO_APPLICATION_PROTOCOL,
            Self::Source => alert::ACCESS_DENIED,
            Self::NoEndpoint | Self::Connect { .. } => alert::INTERNAL_ERROR,
        })
    }

    /// Sends the alert and closes the connection.
    pub async fn send(&self, mut client: TcpStream) {
        /// The alert fits into any send buffer; only a broken connection takes longer.
        const TIMEOUT: Duration = Duration::from_secs(1);
        if let Some(description) = self.alert() {
            let fatal = [21, 3, 3, 0, 2, 2, description];
            let _ = tokio::time::timeout(TIMEOUT, async {
                client.write_all(&fatal).await?;
                client.shutdown().await
            })
            .await;
        }
    }
}
