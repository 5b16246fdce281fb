//! An external authorization server, as `ext_authz` of Envoy asks it, by HTTP and gRPC on the same ports.
//!
//! It decides as the one of Istio's samples does: a request with the header `x-ext-authz: allow` is allowed, any other
//! denied. The application learns the decision in `x-ext-authz-check-result`. Connections without requests are allowed.
//! The application's faults hold here too: answers can be slow or fail.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use prost::Message;

use super::app::App;
use super::grpc;
use super::response::{AppBody, page};

/// Largest question, in bytes: a request's body is at most as large.
const MAX_QUESTION: usize = 16 << 20;
/// Header of a request that is allowed if it has the value `allow`.
const DECISION: &str = "x-ext-authz";
/// Header of the answer.
const RESULT: &str = "x-ext-authz-check-result";
/// Body of a denial.
const DENIED: &str = "denied by ext_authz: the request has no header x-ext-authz: allow\n";
/// Method of the gRPC service.
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
/// gRPC status of a denial.
const PERMISSION_DENIED: i32 = 7;

/// Answers a question.
pub(super) async fn answer(request: Request<Incoming>, app: Arc<App>) -> Response<AppBody> {
    tokio::time::sleep(app.switches.delay()).await;
    let failing = app.switches.next_failure();
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, MAX_QUESTION).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return page(StatusCode::BAD_REQUEST, format!("the request's body: {error}\n")),
    };
    if grpc::is_grpc(&parts.headers) {
        return match failing {
            Some(status) => grpc::failed(&format!("failing on request with {status}")),
            None => by_grpc(parts.uri.path(), &body),
        };
    }
    if let Some(status) = failing {
        return page(StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE), "failing on request\n");
    }
    by_http(&parts.headers)
}

fn by_http(headers: &HeaderMap) -> Response<AppBody> {
    let is_allowed = headers.get(DECISION).is_some_and(|value| value == "allow");
    let (status, text) = if is_allowed { (StatusCode::OK, "") } else { (StatusCode::FORBIDDEN, DENIED) };
    let mut response = page(status, text);
    response.headers_mut().insert(RESULT, HeaderValue::from_static(result(is_allowed)));
    response
}

fn by_grpc(path: &str, body: &[u8]) -> Response<AppBody> {
    if path != CHECK {
        return grpc::unimplemented("the method is envoy.service.auth.v3.Authorization/Check");
    }
    let Ok(question) = CheckQuestion::decode(grpc::message(body)) else {
        return grpc::failed("the message is not a CheckRequest");
    };
    let http = question.attributes.and_then(|attributes| attributes.request).and_then(|request| request.http);
    let is_allowed = http.is_none_or(|http| http.headers.get(DECISION).is_some_and(|value| value == "allow"));
    grpc::one(&CheckAnswer::of(is_allowed).encode_to_vec())
}

fn result(is_allowed: bool) -> &'static str {
    if is_allowed { "allowed" } else { "denied" }
}

/// The part of `envoy.service.auth.v3.CheckRequest` that decides.
#[derive(Clone, PartialEq, Message)]
struct CheckQuestion {
    #[prost(message, optional, tag = "1")]
    attributes: Option<CheckAttributes>,
}

#[derive(Clone, PartialEq, Message)]
struct CheckAttributes {
    #[prost(message, optional, tag = "4")]
    request: Option<CheckedRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct CheckedRequest {
    #[prost(message, optional, tag = "2")]
    http: Option<CheckedHttp>,
}

#[derive(Clone, PartialEq, Message)]
struct CheckedHttp {
    #[prost(map = "string, string", tag = "3")]
    headers: HashMap<String, String>,
}

/// `envoy.service.auth.v3.CheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct CheckAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<RpcStatus>,
    #[prost(message, optional, tag = "2")]
    denied: Option<DeniedAnswer>,
    #[prost(message, optional, tag = "3")]
    ok: Option<OkAnswer>,
}

#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct DeniedAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<HttpCode>,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderOption>,
    #[prost(string, tag = "3")]
    body: String,
}

#[derive(Clone, PartialEq, Message)]
struct OkAnswer {
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderOption>,
}

#[derive(Clone, PartialEq, Message)]
struct HttpCode {
    #[prost(int32, tag = "1")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct HeaderOption {
    #[prost(message, optional, tag = "1")]
    header: Option<HeaderPair>,
}

#[derive(Clone, PartialEq, Message)]
struct HeaderPair {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

impl CheckAnswer {
    fn of(is_allowed: bool) -> Self {
        let header = HeaderPair { key: RESULT.to_owned(), value: result(is_allowed).to_owned() };
        let headers = vec![HeaderOption { header: Some(header) }];
        match is_allowed {
            true => Self { status: Some(RpcStatus { code: 0 }), denied: None, ok: Some(OkAnswer { headers }) },
            false => Self {
                status: Some(RpcStatus { code: PERMISSION_DENIED }),
                denied: Some(DeniedAnswer { status: Some(HttpCode { code: 403 }), headers, body: DENIED.to_owned() }),
                ok: None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(headers: &[(&str, &str)]) -> bytes::Bytes {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let request = Some(CheckedRequest { http: Some(CheckedHttp { headers }) });
        grpc::framed(&CheckQuestion { attributes: Some(CheckAttributes { request }) }.encode_to_vec())
    }

    async fn decision(body: &[u8]) -> i32 {
        let body = by_grpc(CHECK, body).into_body().collect().await.expect("a body").to_bytes();
        let answer = CheckAnswer::decode(grpc::message(&body)).expect("an answer");
        answer.status.expect("a status").code
    }

    #[tokio::test]
    async fn a_request_is_allowed_by_its_header_alone() {
        let mut headers = HeaderMap::new();
        assert_eq!(by_http(&headers).status(), 403);
        headers.insert(DECISION, HeaderValue::from_static("allow"));
        let allowed = by_http(&headers);
        assert_eq!(
            (allowed.status().as_u16(), &allowed.headers()[RESULT]),
            (200, &HeaderValue::from_static("allowed"))
        );
        assert_eq!(decision(&question(&[])).await, 7);
        assert_eq!(decision(&question(&[(DECISION, "no")])).await, 7);
        assert_eq!(decision(&question(&[(DECISION, "allow")])).await, 0);
        assert_eq!(decision(&grpc::framed(&[])).await, 0, "a connection without requests");
    }
}
