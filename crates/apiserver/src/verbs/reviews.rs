//! Reviews, which are answered and not stored: TokenReview, SelfSubjectReview, access and rules reviews.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::authn::UserInfo;
use crate::body::{self, ResponseBody};
use crate::call::ApiCall;
use crate::object;
use crate::rbac::{self, Attributes};
use crate::status::{Result, Status, StatusCause};
use crate::strategy::decode;
use crate::timestamp;

/// `POST` of a review.
pub(crate) fn answer(call: &ApiCall, bytes: Bytes) -> Result<Response<ResponseBody>> {
    let mut review = decode::decode(call, &bytes)?;
    let status = match &*call.served.kind.kind {
        "TokenReview" => token(call, &review)?,
        "SelfSubjectReview" => {
            object::set_metadata(&mut review, "creationTimestamp", Some(json!(timestamp::now())));
            json!({ "userInfo": call.user.to_value() })
        }
        "SelfSubjectAccessReview" => access(call, &call.user, &review)?,
        "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            let user = subject(call, &review)?;
            access(call, &user, &review)?
        }
        "SelfSubjectRulesReview" => rules(call, &review),
        _ => return Err(Status::method_not_allowed()),
    };
    review["status"] = status;
    Ok(body::json(StatusCode::CREATED, &review))
}

fn token(call: &ApiCall, review: &Value) -> Result<Value> {
    let token = object::text(review, "/spec/token");
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences: Vec<String> =
        object::list(review, "/spec/audiences").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    Ok(match call.api.tokens().verify(token, &audiences) {
        Ok(verified) => {
            json!({ "authenticated": true, "user": verified.user.to_value(), "audiences": verified.audiences })
        }
        Err(refusal) => {
            json!({ "authenticated": false, "user": {}, "error": format!("[invalid bearer token, {refusal}]") })
        }
    })
}

fn subject(call: &ApiCall, review: &Value) -> Result<UserInfo> {
    let texts =
        |pointer: &str| object::list(review, pointer).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let user = UserInfo {
        name: object::text(review, "/spec/user").to_owned(),
        uid: object::text(review, "/spec/uid").to_owned(),
        groups: texts("/spec/groups"),
        extra: Vec::new(),
    };
    if user.name.is_empty() && user.groups.is_empty() {
        let cause = StatusCause::new(
            "FieldValueInvalid",
            "spec.user",
            "Invalid value: \"\": at least one of user or group must be specified",
        );
        return Err(Status::invalid(&call.served.kind, "", vec![cause]));
    }
    Ok(user)
}

fn access(call: &ApiCall, user: &UserInfo, review: &Value) -> Result<Value> {
    let attributes =
        if let Some(requested) = review.pointer("/spec/resourceAttributes").filter(|requested| requested.is_object()) {
            let text = |key: &str| requested.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
            Attributes {
                verb: text("verb"),
                group: text("group"),
                resource: text("resource"),
                subresource: text("subresource"),
                namespace: text("namespace"),
                name: text("name"),
                path: None,
            }
        } else if let Some(requested) =
            review.pointer("/spec/nonResourceAttributes").filter(|requested| requested.is_object())
        {
            let text = |key: &str| requested.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
            Attributes { verb: text("verb"), path: Some(text("path")), ..Attributes::default() }
        } else {
            let cause = StatusCause::new(
                "FieldValueInvalid",
                "spec.resourceAttributes",
                "Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
            );
            return Err(Status::invalid(&call.served.kind, "", vec![cause]));
        };
    Ok(json!({ "allowed": rbac::allowed(&call.api.store, user, &attributes) }))
}

fn rules(call: &ApiCall, review: &Value) -> Value {
    let namespace = object::text(review, "/spec/namespace");
    let mut resource_rules = Vec::new();
    let mut path_rules = Vec::new();
    if call.user.in_group("system:masters") {
        resource_rules.push(json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }));
        path_rules.push(json!({ "verbs": ["*"], "nonResourceURLs": ["*"] }));
    }
    for rule in rbac::rules_of(&call.api.store, &call.user, namespace) {
        if rule.get("nonResourceURLs").is_some() { path_rules.push(rule) } else { resource_rules.push(rule) }
    }
    json!({ "resourceRules": resource_rules, "nonResourceRules": path_rules, "incomplete": false })
}
