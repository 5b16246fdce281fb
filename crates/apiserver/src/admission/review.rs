//! The protocol of admission webhooks: `admission.k8s.io/v1` AdmissionReview.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

use super::client::{self, WebhookError};
use super::operation::AdmissionOperation;
use crate::call::ApiCall;
use crate::object;
use crate::patch::json;
use crate::registry::ServedResource;
use crate::status::Status;

/// Timeout in seconds of a webhook whose configuration has none.
const DEFAULT_TIMEOUT: u64 = 10;

/// The request of an AdmissionReview.
pub(super) struct AdmissionRequest<'a> {
    pub(super) call: &'a ApiCall,
    pub(super) operation: AdmissionOperation,
    /// The version of the resource in which the objects are sent.
    pub(super) served: &'a ServedResource,
    pub(super) object: Option<&'a Value>,
    pub(super) old: Option<&'a Value>,
    pub(super) dry_run: bool,
}

/// The response of an AdmissionReview.
#[derive(Debug, Default)]
pub(super) struct WebhookResponse {
    pub(super) patch: Option<json_patch::Patch>,
    pub(super) denial: Option<Status>,
    pub(super) warnings: Vec<String>,
}

/// Calls one webhook.
pub(super) async fn call(
    webhook: &Value,
    request: &AdmissionRequest<'_>,
) -> std::result::Result<WebhookResponse, WebhookError> {
    let seconds = webhook.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(DEFAULT_TIMEOUT).clamp(1, 30);
    let uid = object::new_uid();
    let body = Bytes::from(request.to_value(&uid).to_string());
    let bytes = client::call(&request.call.api, &webhook["clientConfig"], seconds, body).await?;
    parse_response(object::text(webhook, "/name"), &uid, &bytes)
}

impl AdmissionRequest<'_> {
    fn to_value(&self, uid: &str) -> Value {
        let call = self.call;
        let kind = &self.served.kind;
        let described = |kind: &crate::kinds::ResourceKind| json!({ "group": kind.group, "version": kind.version, "kind": kind.kind });
        let resource = |kind: &crate::kinds::ResourceKind| json!({ "group": kind.group, "version": kind.version, "resource": kind.plural });
        let name = match call.route.name.as_str() {
            "" => self.object.map_or("", object::name),
            name => name,
        };
        let options = match self.operation {
            AdmissionOperation::Create => "CreateOptions",
            AdmissionOperation::Update => "UpdateOptions",
            AdmissionOperation::Delete => "DeleteOptions",
        };
        let mut request = json!({
            "uid": uid,
            "kind": described(kind),
            "resource": resource(kind),
            "requestKind": described(&call.served.kind),
            "requestResource": resource(&call.served.kind),
            "operation": self.operation.name(),
            "userInfo": call.user.to_value(),
            "object": self.object,
            "oldObject": self.old,
            "dryRun": self.dry_run,
            "options": { "kind": options, "apiVersion": "meta.k8s.io/v1" },
        });
        if !name.is_empty() {
            request["name"] = json!(name);
        }
        if kind.namespaced {
            request["namespace"] = json!(call.route.namespace);
        }
        if !call.route.subresource.is_empty() {
            request["subResource"] = json!(call.route.subresource);
            request["requestSubResource"] = json!(call.route.subresource);
        }
        json!({ "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request })
    }
}

fn parse_response(name: &str, uid: &str, bytes: &[u8]) -> std::result::Result<WebhookResponse, WebhookError> {
    let bad = |why: &str| WebhookError::Answer(why.to_owned());
    let review: Value = serde_json::from_slice(bytes).map_err(|error| WebhookError::Answer(error.to_string()))?;
    if object::text(&review, "/apiVersion") != "admission.k8s.io/v1"
        || object::text(&review, "/kind") != "AdmissionReview"
    {
        return Err(bad("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview"));
    }
    let response =
        review.get("response").filter(|response| response.is_object()).ok_or_else(|| bad("response is missing"))?;
    if object::text(response, "/uid") != uid {
        return Err(bad("expected response.uid to match the UID of the request"));
    }
    let warnings = object::list(response, "/warnings").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if response.get("allowed").and_then(Value::as_bool) != Some(true) {
        return Ok(WebhookResponse { denial: Some(denial(name, &response["status"])), warnings, patch: None });
    }
    let patch = match object::text(response, "/patch") {
        "" => None,
        _ if object::text(response, "/patchType") != "JSONPatch" => {
            return Err(bad("response.patchType must be JSONPatch"));
        }
        patch => {
            let patch = STANDARD.decode(patch).map_err(|error| bad(&format!("response.patch: {error}")))?;
            let patch: Value =
                serde_json::from_slice(&patch).map_err(|error| bad(&format!("response.patch: {error}")))?;
            Some(json::decode(&patch).map_err(|error| bad(&format!("response.patch: {error}")))?)
        }
    };
    Ok(WebhookResponse { patch, denial: None, warnings })
}

/// The error of a denied request, in Kubernetes' wording.
fn denial(name: &str, status: &Value) -> Status {
    let code = status
        .get("code")
        .and_then(Value::as_u64)
        .and_then(|code| u16::try_from(code).ok())
        .filter(|code| *code >= 400);
    let (message, reason) = (object::text(status, "/message"), object::text(status, "/reason"));
    let denied = format!("admission webhook {name:?} denied the request");
    let message = match (message, reason) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    Status::other(code.unwrap_or(400), reason.to_owned(), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(response: Value) -> std::result::Result<WebhookResponse, WebhookError> {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
        parse_response("w.example", "u", review.to_string().as_bytes())
    }

    #[test]
    fn answers() {
        assert!(answer(json!({"uid": "u", "allowed": true})).expect("allowed").patch.is_none());
        let patch = STANDARD.encode(r#"[{"op": "add", "path": "/a", "value": 1}]"#);
        let patched = answer(json!({"uid": "u", "allowed": true, "patch": patch, "patchType": "JSONPatch"}));
        assert_eq!(patched.expect("allowed").patch.expect("patched").0.len(), 1);
        let denied = answer(
            json!({"uid": "u", "allowed": false, "status": {"code": 403, "message": "no", "reason": "Forbidden"}}),
        );
        let denied = denied.expect("an answer").denial.expect("denied");
        assert_eq!(
            (denied.code, denied.message.as_str()),
            (403, "admission webhook \"w.example\" denied the request: no")
        );
    }

    #[test]
    fn invalid_responses_are_rejected() {
        assert!(answer(json!({"uid": "other", "allowed": true})).is_err());
        assert!(answer(json!({"uid": "u", "allowed": true, "patch": "!", "patchType": "JSONPatch"})).is_err());
        assert!(answer(json!({"uid": "u", "allowed": true, "patch": "W10="})).is_err());
        assert!(parse_response("w", "u", b"<html>").is_err());
    }
}
