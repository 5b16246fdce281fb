//! Errors as Kubernetes says them: `metav1.Status` objects with the reasons, codes and wording that clients compare against.
//!
//! Wording follows k8s.io/apimachinery `pkg/api/errors`.

mod details;

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::kinds::Kind;

pub(crate) use details::{Cause, Details};

/// A request that was not carried out, ready to be sent as a `Status` object.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Status {
    /// HTTP status code.
    pub(crate) code: u16,
    /// Machine-readable reason, such as `NotFound`.
    pub(crate) reason: Cow<'static, str>,
    /// What a person reads.
    pub(crate) message: String,
    /// What the error is about.
    pub(crate) details: Option<Box<Details>>,
}

/// The result of answering a request.
pub(crate) type Result<T> = std::result::Result<T, Status>;

impl Status {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason: Cow::Borrowed(reason), message: message.into(), details: None }
    }

    fn about(mut self, kind: &Kind, name: &str) -> Self {
        self.details = Some(Box::new(Details {
            name: name.to_owned(),
            group: kind.group.to_string(),
            kind: kind.plural.to_string(),
            ..Details::default()
        }));
        self
    }

    /// The object does not exist.
    pub(crate) fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", kind.group_resource())).about(kind, name)
    }

    /// The URL names nothing that is served.
    pub(crate) fn no_such_resource() -> Self {
        let mut status = Self::new(404, "NotFound", "the server could not find the requested resource");
        status.details = Some(Box::default());
        status
    }

    /// An object of that name exists already.
    pub(crate) fn already_exists(kind: &Kind, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", kind.group_resource()))
            .about(kind, name)
    }

    /// The operation does not apply to the object as it is now.
    pub(crate) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let what = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.group_resource());
        Self::new(409, "Conflict", what).about(kind, name)
    }

    /// The object was changed since the caller read it.
    pub(crate) fn modified(kind: &Kind, name: &str) -> Self {
        const WHY: &str = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, WHY)
    }

    /// The object breaks rules of its kind.
    pub(crate) fn invalid(kind: &Kind, name: &str, causes: Vec<Cause>) -> Self {
        let said: Vec<String> = causes
            .iter()
            .map(|cause| {
                if cause.field.is_empty() {
                    cause.message.clone()
                } else {
                    format!("{}: {}", cause.field, cause.message)
                }
            })
            .collect();
        let said = match said.as_slice() {
            [] => "<nil>".to_owned(),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let qualified =
            if kind.group.is_empty() { kind.kind.to_string() } else { format!("{}.{}", kind.kind, kind.group) };
        let mut status = Self::new(422, "Invalid", format!("{qualified} \"{name}\" is invalid: {said}"));
        status.details = Some(Box::new(Details {
            name: name.to_owned(),
            group: kind.group.to_string(),
            kind: kind.kind.to_string(),
            causes,
            ..Details::default()
        }));
        status
    }

    /// The caller may not do this to that object.
    pub(crate) fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let resource = kind.group_resource();
        let message = if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} \"{name}\" is forbidden: {why}")
        };
        Self::new(403, "Forbidden", message).about(kind, name)
    }

    /// The caller may not read that path.
    pub(crate) fn forbidden_path(why: &str) -> Self {
        let mut status = Self::new(403, "Forbidden", format!("forbidden: {why}"));
        status.details = Some(Box::default());
        status
    }

    /// The caller's credentials are missing or not accepted.
    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// The request makes no sense as sent.
    pub(crate) fn bad_request(why: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", why)
    }

    /// The URL exists, the method does not apply to it.
    pub(crate) fn method_not_allowed() -> Self {
        let mut status =
            Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource");
        status.details = Some(Box::default());
        status
    }

    /// The revision asked for is no longer remembered.
    pub(crate) fn expired(why: impl Into<String>) -> Self {
        Self::new(410, "Expired", why)
    }

    /// A watch starts before what is remembered.
    pub(crate) fn too_old(asked: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    /// A revision of the future was asked for.
    pub(crate) fn too_large_revision(asked: u64, current: u64) -> Self {
        let mut status = Self::new(504, "Timeout", format!("Too large resource version: {asked}, current: {current}"));
        status.details = Some(Box::new(Details {
            causes: vec![Cause {
                reason: "ResourceVersionTooLarge".into(),
                message: "Too large resource version".into(),
                field: String::new(),
            }],
            retry_after_seconds: 1,
            ..Details::default()
        }));
        status
    }

    /// The body exceeds the limit.
    pub(crate) fn body_too_large(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// The body is in a format that the operation does not take.
    pub(crate) fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// None of the formats that the client accepts can be produced.
    pub(crate) fn not_acceptable(offered: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", offered.join(", "));
        Self::new(406, "NotAcceptable", message)
    }

    /// The server failed.
    pub(crate) fn internal(why: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {why}"))
    }

    /// Too much is going on; try again soon.
    pub(crate) fn too_many_requests(why: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut status = Self::new(429, "TooManyRequests", why);
        status.details = Some(Box::new(Details { retry_after_seconds, ..Details::default() }));
        status
    }

    /// What serves this part of the API is not reachable.
    pub(crate) fn unavailable(why: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", why)
    }

    /// Fields are owned by others (server-side apply).
    pub(crate) fn apply_conflict(causes: Vec<Cause>) -> Self {
        let said: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.message, cause.field)).collect();
        let (noun, said) = match said.as_slice() {
            [one] => ("conflict", one.clone()),
            many => ("conflicts", many.join("\n")),
        };
        let count = causes.len();
        let separator = if count == 1 { " " } else { "\n" };
        let message = format!("Apply failed with {count} {noun}:{separator}{said}");
        let mut status = Self::new(409, "Conflict", message);
        status.details = Some(Box::new(Details { causes, ..Details::default() }));
        status
    }

    /// A rejection in another's words, such as an admission webhook's.
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

/// The `Status` object that answers a successful deletion.
pub(crate) fn deleted(kind: &Kind, name: &str, uid: &str) -> Value {
    let details = Details {
        name: name.to_owned(),
        group: kind.group.to_string(),
        kind: kind.plural.to_string(),
        uid: uid.to_owned(),
        ..Details::default()
    };
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details.to_value() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn speaks_as_kubernetes_does() {
        let pods = kinds::by_resource("", "v1", "pods").expect("built in");
        let deployments = kinds::by_resource("apps", "v1", "deployments").expect("built in");
        assert_eq!(Status::not_found(pods, "a").message, "pods \"a\" not found");
        assert_eq!(Status::already_exists(deployments, "a").message, "deployments.apps \"a\" already exists");
        let causes = vec![Cause::new("FieldValueRequired", "spec.selector", "Required value")];
        assert_eq!(
            Status::invalid(deployments, "a", causes).message,
            "Deployment.apps \"a\" is invalid: spec.selector: Required value"
        );
        let value = Status::modified(pods, "a").to_value();
        assert_eq!(value["reason"], "Conflict");
        assert_eq!(value["details"]["kind"], "pods");
    }
}
