//! Responses that the proxy gives itself.

use http::{HeaderValue, Response, StatusCode, header};

use super::{Ending, ResponseBody};
use crate::failure::LocalReply;

/// Returns the response for a failure. As in Envoy, a gRPC caller receives status 200 and the outcome in the head.
pub fn local_reply(reply: &LocalReply, grpc: bool, ending: Option<Box<dyn Ending>>) -> Response<ResponseBody> {
    let mut response = if grpc {
        let mut response = Response::new(ResponseBody::local("", ending));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(
            "grpc-status",
            HeaderValue::from(reply.grpc_status.unwrap_or_else(|| grpc_status_of(reply.status))),
        );
        if let Ok(message) = HeaderValue::from_str(&reply.body) {
            headers.insert("grpc-message", message);
        }
        response
    } else {
        let mut response = Response::new(ResponseBody::local(reply.body.as_bytes().to_vec(), ending));
        *response.status_mut() = reply.status;
        if !reply.body.is_empty() {
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        response
    };
    response.headers_mut().insert(header::SERVER, HeaderValue::from_static("isthmus"));
    response
}

/// Returns the gRPC status for an HTTP status (gRPC's `http-grpc-status-mapping.md`).
pub fn grpc_status_of(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}
