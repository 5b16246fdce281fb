//! Errors as `metav1.Status`, with the reasons, codes and messages that clients compare.
//!
//! Messages are those of k8s.io/apimachinery `pkg/api/errors`.

mod details;

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::kinds::ResourceKind;

pub(crate) use details::{StatusCause, StatusDetails};

/// An API error.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Status {
    /// HTTP status code.
    pub(crate) code: u16,
    /// Machine-readable reason, such as `NotFound`.
    pub(crate) reason: Cow<'static, str>,
    /// Human-readable message.
    pub(crate) message: String,
    /// Details of the error.
    pub(crate) details: Option<Box<StatusDetails>>,
}

/// The result of a request.
pub(crate) type Result<T> = std::result::Result<T, Status>;

impl Status {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason: Cow::Borrowed(reason), message: message.into(), details: None }
    }

    fn about(mut self, kind: &ResourceKind, name: &str) -> Self {
        self.details = Some(Box::new(StatusDetails {
            name: name.to_owned(),
            group: kind.group.to_string(),
            kind: kind.plural.to_string(),
            ..StatusDetails::default()
        }));
        self
    }

    /// The object does not exist.
    pub(crate) fn not_found(kind: &ResourceKind, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", kind.group_resource())).about(kind, name)
    }

    /// No resource is served at the URL.
    pub(crate) fn no_such_resource() -> Self {
        let mut status = Self::new(404, "NotFound", "the server could not find the requested resource");
        status.details = Some(Box::default());
        status
    }

    /// An object with that name exists.
    pub(crate) fn already_exists(kind: &ResourceKind, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", kind.group_resource()))
            .about(kind, name)
    }

    /// The operation conflicts with the object's state.
    pub(crate) fn conflict(kind: &ResourceKind, name: &str, why: &str) -> Self {
        let what = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.group_resource());
        Self::new(409, "Conflict", what).about(kind, name)
    }

    /// The object was modified since the client read it.
    pub(crate) fn modified(kind: &ResourceKind, name: &str) -> Self {
        const WHY: &str = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, WHY)
    }

    /// The object is invalid.
    pub(crate) fn invalid(kind: &ResourceKind, name: &str, causes: Vec<StatusCause>) -> Self {
        let text: Vec<String> = causes
            .iter()
            .map(|cause| {
                if cause.field.is_empty() {
                    cause.message.clone()
                } else {
                    format!("{}: {}", cause.field, cause.message)
                }
            })
            .collect();
        let text = match text.as_slice() {
            [] => "<nil>".to_owned(),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let qualified =
            if kind.group.is_empty() { kind.kind.to_string() } else { format!("{}.{}", kind.kind, kind.group) };
        let mut status = Self::new(422, "Invalid", format!("{qualified} \"{name}\" is invalid: {text}"));
        status.details = Some(Box::new(StatusDetails {
            name: name.to_owned(),
            group: kind.group.to_string(),
            kind: kind.kind.to_string(),
            causes,
            ..StatusDetails::default()
        }));
        status
    }

    /// The caller has no permission for the object.
    pub(crate) fn forbidden(kind: &ResourceKind, name: &str, why: &str) -> Self {
        let resource = kind.group_resource();
        let message = if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} \"{name}\" is forbidden: {why}")
        };
        Self::new(403, "Forbidden", message).about(kind, name)
    }

    /// The caller has no permission for the path.
    pub(crate) fn forbidden_path(why: &str) -> Self {
        let mut status = Self::new(403, "Forbidden", format!("forbidden: {why}"));
        status.details = Some(Box::default());
        status
    }

    /// The caller's credentials are missing or invalid.
    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// The request is malformed.
    pub(crate) fn bad_request(why: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", why)
    }

    /// The resource does not support the method.
    pub(crate) fn method_not_allowed() -> Self {
        let mut status =
            Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource");
        status.details = Some(Box::default());
        status
    }

    /// The resource cannot be watched.
    pub(crate) fn watch_not_supported(kind: &ResourceKind) -> Self {
        let mut status = Self::method_not_allowed();
        status.message = format!("watch is not supported on resources of kind {:?}", kind.group_resource());
        status
    }

    /// The requested revision is no longer remembered.
    pub(crate) fn expired(why: impl Into<String>) -> Self {
        Self::new(410, "Expired", why)
    }

    /// The revision at which a watch starts is no longer remembered.
    pub(crate) fn too_old(requested: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {requested} ({oldest})"))
    }

    /// The requested revision does not exist yet.
    pub(crate) fn too_large_revision(requested: u64, current: u64) -> Self {
        let mut status =
            Self::new(504, "Timeout", format!("Too large resource version: {requested}, current: {current}"));
        status.details = Some(Box::new(StatusDetails {
            causes: vec![StatusCause {
                reason: "ResourceVersionTooLarge".into(),
                message: "Too large resource version".into(),
                field: String::new(),
            }],
            retry_after_seconds: 1,
            ..StatusDetails::default()
        }));
        status
    }

    /// The body exceeds the limit.
    pub(crate) fn body_too_large(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// The media type of the body is not supported.
    pub(crate) fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// No media type that the client accepts is supported.
    pub(crate) fn not_acceptable(offered: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", offered.join(", "));
        Self::new(406, "NotAcceptable", message)
    }

    /// The server failed.
    pub(crate) fn internal(why: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {why}"))
    }

    /// The server has too many requests; the client may retry after this time.
    pub(crate) fn too_many_requests(why: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut status = Self::new(429, "TooManyRequests", why);
        status.details = Some(Box::new(StatusDetails { retry_after_seconds, ..StatusDetails::default() }));
        status
    }

    /// The service behind this part of the API is not available.
    pub(crate) fn unavailable(why: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", why)
    }

    /// Other managers own fields of a server-side apply.
    pub(crate) fn apply_conflict(causes: Vec<StatusCause>) -> Self {
        let text: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.message, cause.field)).collect();
        let (noun, text) = match text.as_slice() {
            [one] => ("conflict", one.clone()),
            many => ("conflicts", many.join("\n")),
        };
        let count = causes.len();
        let separator = if count == 1 { " " } else { "\n" };
        let message = format!("Apply failed with {count} {noun}:{separator}{text}");
        let mut status = Self::new(409, "Conflict", message);
        status.details = Some(Box::new(StatusDetails { causes, ..StatusDetails::default() }));
        status
    }

    /// An error with another code, reason or message, such as an admission webhook's.
    pub(crate) fn other(code: u16, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), message: message.into(), details: None }
    }

    /// The `Status` object.
    pub(crate) fn to_value(&self) -> Value {
        let mut value = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            value["reason"] = json!(self.reason);
        }
        if let Some(details) = &self.details {
            value["details"] = details.to_value();
        }
        value
    }
}

/// The `Status` object of a successful deletion.
pub(crate) fn deleted(kind: &ResourceKind, name: &str, uid: &str) -> Value {
    let details = StatusDetails {
        name: name.to_owned(),
        group: kind.group.to_string(),
        kind: kind.plural.to_string(),
        uid: uid.to_owned(),
        ..StatusDetails::default()
    };
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details.to_value() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn statuses_have_kubernetes_wording() {
        let pods = kinds::by_resource("", "v1", "pods").expect("built in");
        let deployments = kinds::by_resource("apps", "v1", "deployments").expect("built in");
        assert_eq!(Status::not_found(pods, "a").message, "pods \"a\" not found");
        assert_eq!(Status::already_exists(deployments, "a").message, "deployments.apps \"a\" already exists");
        let causes = vec![StatusCause::new("FieldValueRequired", "spec.selector", "Required value")];
        assert_eq!(
            Status::invalid(deployments, "a", causes).message,
            "Deployment.apps \"a\" is invalid: spec.selector: Required value"
        );
        let value = Status::modified(pods, "a").to_value();
        assert_eq!(value["reason"], "Conflict");
        assert_eq!(value["details"]["kind"], "pods");
    }
}
