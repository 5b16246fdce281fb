//! `serviceaccounts/token`: issues a token (`authentication.k8s.io/v1` TokenRequest).

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::authn::tokens::{ClaimReference, TokenSpec};
use crate::body::{self, ResponseBody};
use crate::call::ApiCall;
use crate::status::{Result, Status, StatusCause};
use crate::storage::GroupResource;
use crate::{kinds, object, timestamp};

/// Shortest, default and longest lifetime of a token in seconds, as in Kubernetes.
const MIN_SECONDS: u64 = 600;
const DEFAULT_SECONDS: u64 = 3600;
const MAX_SECONDS: u64 = 1 << 32;

/// `POST …/token`.
pub(crate) fn create(call: &ApiCall, bytes: Bytes) -> Result<Response<ResponseBody>> {
    let mut request = body::decode(&call.content_type, &bytes)?;
    if !request.is_object() || request.get("spec").is_some_and(|spec| !spec.is_object()) {
        return Err(Status::bad_request("spec: must be an object"));
    }
    let api = &call.api;
    let (namespace, name) = (call.route.namespace.as_str(), call.route.name.as_str());
    let account = api.get(&call.served, namespace, name)?;
    let seconds = match request.pointer("/spec/expirationSeconds").filter(|seconds| !seconds.is_null()) {
        None => DEFAULT_SECONDS,
        Some(seconds) => {
            let seconds = seconds.as_u64().unwrap_or(0);
            let why = match seconds {
                0..MIN_SECONDS => "may not specify a duration less than 10 minutes",
                MIN_SECONDS..=MAX_SECONDS => "",
                _ => "may not specify a duration larger than 2^32 seconds",
            };
            if !why.is_empty() {
                let message = format!("Invalid value: {seconds}: {why}");
                return Err(invalid(name, StatusCause::new("FieldValueInvalid", "spec.expirationSeconds", message)));
            }
            seconds
        }
    };
    let mut audiences: Vec<String> =
        object::list(&request, "/spec/audiences").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if audiences.is_empty() {
        audiences.push(api.token_key.issuer.clone());
    }
    let mut bound = TokenSpec {
        namespace,
        account: &ClaimReference { name: name.to_owned(), uid: object::uid(&account).to_owned() },
        audiences: audiences.clone(),
        seconds,
        pod: None,
        secret: None,
        node: None,
    };
    if let Some(to) = request.pointer("/spec/boundObjectRef").filter(|to| !to.is_null()).cloned() {
        bind(call, &to, &mut bound)?;
    }
    let token =
        api.token_key.issue(bound).map_err(|error| Status::internal(format!("cannot sign the token: {error}")))?;
    request["kind"] = json!("TokenRequest");
    request["apiVersion"] = json!("authentication.k8s.io/v1");
    request["metadata"] = json!({ "name": name, "namespace": namespace, "creationTimestamp": timestamp::now() });
    request["spec"]["audiences"] = json!(audiences);
    request["spec"]["expirationSeconds"] = json!(seconds);
    let expires = timestamp::from_now(seconds.cast_signed());
    request["status"] = json!({ "token": token, "expirationTimestamp": expires });
    Ok(body::json(StatusCode::CREATED, &request))
}

fn bind(call: &ApiCall, to: &Value, request: &mut TokenSpec<'_>) -> Result<()> {
    let (kind, name, uid) = (object::text(to, "/kind"), object::text(to, "/name"), object::text(to, "/uid"));
    let plural = match kind {
        "Pod" => "pods",
        "Secret" => "secrets",
        "Node" => "nodes",
        other => return Err(Status::bad_request(format!("cannot bind token to object of type {other:?}"))),
    };
    let Some(known) = kinds::by_resource("", "v1", plural) else { return Err(Status::internal("no such kind")) };
    let namespace = if known.namespaced { call.route.namespace.as_str() } else { "" };
    let object = call.api.store.get(&GroupResource::new("", plural), namespace, name);
    let object = object.ok_or_else(|| Status::not_found(known, name))?;
    if !uid.is_empty() && uid != object::uid(&object) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(known, name, &why));
    }
    let reference =
        |object: &Value| ClaimReference { name: object::name(object).to_owned(), uid: object::uid(object).to_owned() };
    match kind {
        "Pod" => {
            let account = object::text(&object, "/spec/serviceAccountName");
            if account != call.route.name {
                let why = format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    call.route.name
                );
                return Err(Status::bad_request(why));
            }
            let node =
                call.api.store.get(&GroupResource::new("", "nodes"), "", object::text(&object, "/spec/nodeName"));
            request.node = node.map(|node| reference(&node));
            request.pod = Some(reference(&object));
        }
        "Secret" => request.secret = Some(reference(&object)),
        _ => request.node = Some(reference(&object)),
    }
    Ok(())
}

fn invalid(name: &str, cause: StatusCause) -> Status {
    let mut status = Status::bad_request(String::new());
    if let Some(kind) = kinds::by_kind("authentication.k8s.io", "v1", "TokenRequest") {
        status = Status::invalid(kind, name, vec![cause]);
    }
    status
}
