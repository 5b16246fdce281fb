//! What can go wrong on a connection's way, and what that means to everyone who hears of it.
//!
//! [`Failure`] says what failed; [`Failure::answer`] is the one place that turns it into a status for the caller, an
//! Envoy response flag for logs and metrics, and a word for the operator. Wording and flags are Envoy's, so that existing
//! dashboards and habits keep working.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use http::StatusCode;

/// Why a connection to an endpoint did not come about.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// The TCP handshake failed.
    #[error("{0}")]
    Tcp(Arc<io::Error>),
    /// Nothing came back in time.
    #[error("no answer in time")]
    Timeout,
    /// The TLS handshake failed: no TLS there, an untrusted certificate, or another identity than expected.
    #[error("TLS error: {0}")]
    Tls(Arc<io::Error>),
    /// The HTTP connection preface failed.
    #[error("the server does not speak the expected protocol: {0}")]
    Http(Arc<dyn std::error::Error + Send + Sync>),
}

/// What failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// Nothing in the mesh has this address, and unknown destinations are not allowed.
    #[error("{0} belongs to no service of the mesh, and the mesh allows no others (REGISTRY_ONLY)")]
    UnknownDestination(Arc<str>),
    /// A service without an endpoint that could be tried.
    #[error("{0} has no healthy endpoint")]
    NoEndpoint(Arc<str>),
    /// No connection to any of the endpoints that were tried.
    #[error("cannot connect to {endpoint}: {error}")]
    Connect {
        /// Whom we tried last.
        endpoint: Arc<str>,
        /// What happened.
        error: ConnectError,
        /// Whether others had been tried before.
        retried: bool,
    },
    /// The connection ended before a response came.
    #[error("{endpoint} closed the connection before it answered: {error}")]
    Reset {
        /// Who.
        endpoint: Arc<str>,
        /// What happened.
        error: Arc<str>,
        /// Whether others had been tried before.
        retried: bool,
    },
    /// What came is no HTTP.
    #[error("{endpoint} answered with something that is not HTTP: {error}")]
    UpstreamProtocol {
        /// Who.
        endpoint: Arc<str>,
        /// What happened.
        error: Arc<str>,
    },
    /// The client went away.
    #[error("the client went away: {0}")]
    Client(Arc<str>),
    /// The client's first bytes are not what the port requires.
    #[error("refused: {0}")]
    Refused(Cow<'static, str>),
    /// A policy refused it.
    #[error("refused by policy {0}")]
    Denied(Arc<str>),
    /// This proxy itself lacks something, such as file descriptors or its own identity.
    #[error("{0}")]
    Own(Arc<str>),
}

/// What is said of a failure, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status that the caller gets.
    pub status: StatusCode,
    /// Envoy's response flag, for metrics and logs; `-` where none applies.
    pub flag: &'static str,
    /// Envoy's response code detail, for logs.
    pub details: Cow<'static, str>,
    /// What the caller may know.
    pub body: Cow<'static, str>,
    /// Why the connection failed, for `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub transport: Option<String>,
}

impl Failure {
    /// What is said of it.
    pub fn answer(&self) -> Answer {
        let answer = |status, flag, details, body| Answer { status, flag, details, body, transport: None };
        let (failed, ended) = if self.retried() { ("UF,URX", "UC,URX") } else { ("UF", "UC") };
        match self {
            Failure::UnknownDestination(_) => {
                answer(StatusCode::BAD_GATEWAY, "NR", "direct_response".into(), "".into())
            }
            Failure::NoEndpoint(_) => answer(
                StatusCode::SERVICE_UNAVAILABLE,
                "UH",
                "no_healthy_upstream".into(),
                "no healthy upstream".into(),
            ),
            Failure::Connect { error, .. } => Answer {
                transport: Some(error.to_string()),
                ..answer(
                    StatusCode::SERVICE_UNAVAILABLE,
                    failed,
                    "upstream_reset_before_response_started{connection_failure}".into(),
                    format!(
                        "upstream connect error or disconnect/reset before headers. {}reset reason: connection {}",
                        if self.retried() { "retried and the latest " } else { "" },
                        if matches!(error, ConnectError::Timeout) { "timeout" } else { "failure" }
                    )
                    .into(),
                )
            },
            Failure::Reset { .. } => answer(
                StatusCode::SERVICE_UNAVAILABLE,
                ended,
                "upstream_reset_before_response_started{connection_termination}".into(),
                format!(
                    "upstream connect error or disconnect/reset before headers. {}reset reason: connection termination",
                    if self.retried() { "retried and the latest " } else { "" }
                )
                .into(),
            ),
            Failure::UpstreamProtocol { .. } => answer(
                StatusCode::BAD_GATEWAY,
                "UPE",
                "upstream_reset_before_response_started{protocol_error}".into(),
                "upstream connect error or disconnect/reset before headers. reset reason: protocol error".into(),
            ),
            // Nobody hears the status; Envoy logs 0, which http has no word for.
            Failure::Client(_) => {
                answer(StatusCode::BAD_REQUEST, "DC", "downstream_remote_disconnect".into(), "".into())
            }
            Failure::Refused(_) => answer(StatusCode::BAD_REQUEST, "DPE", "http1.codec_error".into(), "".into()),
            Failure::Denied(policy) => answer(
                StatusCode::FORBIDDEN,
                "-",
                format!("rbac_access_denied_matched_policy[{policy}]").into(),
                "RBAC: access denied".into(),
            ),
            Failure::Own(reason) => Answer {
                transport: Some(reason.to_string()),
                ..answer(StatusCode::SERVICE_UNAVAILABLE, "LR", "local_reset".into(), "".into())
            },
        }
    }

    /// Marks that other attempts went before.
    pub fn after_retries(mut self) -> Self {
        if let Failure::Connect { retried, .. } | Failure::Reset { retried, .. } = &mut self {
            *retried = true;
        }
        self
    }

    fn retried(&self) -> bool {
        matches!(self, Failure::Connect { retried: true, .. } | Failure::Reset { retried: true, .. })
    }

    /// A short, fixed word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Failure::UnknownDestination(_) => "unknown_destination",
            Failure::NoEndpoint(_) => "no_endpoint",
            Failure::Connect { .. } => "connect",
            Failure::Reset { .. } => "reset",
            Failure::UpstreamProtocol { .. } => "protocol",
            Failure::Client(_) => "client",
            Failure::Refused(_) => "refused",
            Failure::Denied(_) => "denied",
            Failure::Own(_) => "own",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_flags_are_envoys() {
        let endpoint: Arc<str> = "10.0.0.1:80".into();
        let refused = ConnectError::Tcp(Arc::new(io::ErrorKind::ConnectionRefused.into()));
        let connect = Failure::Connect { endpoint: endpoint.clone(), error: refused, retried: false };
        let reset = Failure::Reset { endpoint: endpoint.clone(), error: "reset".into(), retried: false };
        let table = [
            (Failure::UnknownDestination("1.2.3.4:80".into()), 502, "NR"),
            (Failure::NoEndpoint("reviews".into()), 503, "UH"),
            (connect.clone(), 503, "UF"),
            (connect.after_retries(), 503, "UF,URX"),
            (reset.clone(), 503, "UC"),
            (reset.after_retries(), 503, "UC,URX"),
            (Failure::UpstreamProtocol { endpoint, error: "bad".into() }, 502, "UPE"),
            (Failure::Denied("default/deny".into()), 403, "-"),
            (Failure::Client("closed".into()), 400, "DC"),
            (Failure::Own("no descriptors left".into()), 503, "LR"),
        ];
        for (failure, status, flag) in table {
            let answer = failure.answer();
            assert_eq!((answer.status.as_u16(), answer.flag), (status, flag), "{failure}");
        }
    }
}
