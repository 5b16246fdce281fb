//! Errors of enrolment.

use std::path::PathBuf;

use tonic::{Code, Status};

/// Why a certificate request failed.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// A file of the pod cannot be read.
    #[error("cannot read {path}: {source}; the injector mounts this file into the pod")]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The token is not a valid HTTP header value.
    #[error("the token in {0} is not ASCII text")]
    Token(PathBuf),
    /// The mounted roots are invalid.
    #[error("the roots in {path} are invalid: {reason}")]
    Roots {
        /// The path of the file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// No key could be generated.
    #[error("cannot generate a key: {0}")]
    Key(String),
    /// The certificate service could not be reached, or refused the request.
    #[error("the certificate request failed ({}): {}", .0.code(), message(.0))]
    Refused(Box<Status>),
    /// The issued certificate is invalid.
    #[error("the issued certificate is invalid: {0}")]
    Issued(String),
}

impl EnrolError {
    /// Returns the outcome as a metric label value.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::File { .. } | Self::Token(_) => "no_token",
            Self::Roots { .. } => "no_roots",
            Self::Key(_) => "no_key",
            Self::Refused(status) => match status.code() {
                Code::Unavailable | Code::DeadlineExceeded | Code::Unknown => "unreachable",
                _ => "refused",
            },
            Self::Issued(_) => "unusable",
        }
    }
}

/// Returns the message of a status with its causes, such as a failed connection.
fn message(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}
