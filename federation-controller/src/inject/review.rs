//! The protocol of admission webhooks: AdmissionReview of `admission.k8s.io/v1`.

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

/// The maximum size of a review, in bytes. API servers limit a request's object to 3 MiB.
pub(super) const MAX_REVIEW: usize = 3 * 1024 * 1024;
/// The time for a review to have its turn, and then to arrive. API servers wait at most 30 s for the whole call, and 5 s
/// with the installed configuration.
pub(super) const READ_DEADLINE: Duration = Duration::from_secs(4);

#[derive(Deserialize)]
struct Review {
    #[serde(rename = "apiVersion", default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<ReviewRequest>,
}

/// The request of a review.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReviewRequest {
    pub(super) uid: String,
    #[serde(default)]
    pub(super) kind: GroupKind,
    #[serde(default)]
    pub(super) namespace: String,
    #[serde(default)]
    pub(super) object: Value,
    /// The object that an update replaces.
    #[serde(default)]
    pub(super) old_object: Value,
}

/// The group and kind of an object.
#[derive(Default, Deserialize)]
pub(super) struct GroupKind {
    #[serde(default)]
    pub(super) group: String,
    #[serde(default)]
    pub(super) kind: String,
}

impl ReviewRequest {
    /// Returns the object's name; of an object whose name the API server completes, the beginning.
    pub(super) fn name(&self) -> &str {
        let metadata = &self.object["metadata"];
        metadata["name"].as_str().or(metadata["generateName"].as_str()).unwrap_or_default()
    }
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadRequest {
    #[error("path {0:?} does not exist; use /inject/cluster/<cluster>/net/<network> or /validate/cluster/<cluster>")]
    Path(String),
    #[error("the method is not allowed; use POST")]
    Method,
    #[error("the AdmissionReview has more than {MAX_REVIEW} bytes")]
    TooLong,
    #[error("the AdmissionReview did not arrive within {} s", READ_DEADLINE.as_secs())]
    TooSlow,
    #[error("other AdmissionReviews did not leave a turn within {} s; try again", READ_DEADLINE.as_secs())]
    Busy,
    #[error("the AdmissionReview cannot be read: {0}")]
    Read(String),
    #[error("the body is not an AdmissionReview of admission.k8s.io/v1: {0}")]
    InvalidReview(String),
    #[error("the object of the AdmissionReview is not a pod")]
    NoPod,
}

impl BadRequest {
    pub(super) fn code(&self) -> StatusCode {
        match self {
            BadRequest::Path(_) => StatusCode::NOT_FOUND,
            BadRequest::Method => StatusCode::METHOD_NOT_ALLOWED,
            BadRequest::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            BadRequest::TooSlow => StatusCode::REQUEST_TIMEOUT,
            BadRequest::Busy => StatusCode::TOO_MANY_REQUESTS,
            BadRequest::Read(_) | BadRequest::InvalidReview(_) | BadRequest::NoPod => StatusCode::BAD_REQUEST,
        }
    }
}

/// Parses the body of a request.
pub(super) fn parse(body: &[u8]) -> Result<ReviewRequest, BadRequest> {
    let review: Review = serde_json::from_slice(body).map_err(|error| {
        let what = if error.is_data() { "a field is missing or has the wrong type" } else { "it is not valid JSON" };
        BadRequest::InvalidReview(format!("{what} (line {}, column {})", error.line(), error.column()))
    })?;
    if review.kind != "AdmissionReview" || review.api_version != "admission.k8s.io/v1" {
        return Err(BadRequest::InvalidReview(format!(
            "it has the kind {:?} of {:?}",
            review.kind, review.api_version
        )));
    }
    let request = review.request.ok_or_else(|| BadRequest::InvalidReview("it has no request".to_owned()))?;
    if request.uid.is_empty() {
        return Err(BadRequest::InvalidReview("its request has no uid".to_owned()));
    }
    if !request.object.is_object() {
        return Err(BadRequest::InvalidReview("its request has no object".to_owned()));
    }
    Ok(request)
}

/// Returns the review with a response.
pub(super) fn answer(response: Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_reviews_are_refused() {
        for bad in [
            "",
            "nonsense",
            "[]",
            "{}",
            r#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{"uid":"1","object":{"spec":{}}}}"#,
            r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#,
            r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"","object":{"spec":{}}}}"#,
            r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","object":null}}"#,
            r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"object":{"spec":{}}}}"#,
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
