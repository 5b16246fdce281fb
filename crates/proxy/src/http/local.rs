//! What this proxy answers itself.

use http::{HeaderValue, Response, StatusCode, header};

use super::{Ending, Reply};
use crate::failure::Answer;

/// The response that tells a caller of a failure. A gRPC caller is told in gRPC's way, as Envoy does: status 200 and
/// everything else in the head.
pub fn local_reply(answer: &Answer, grpc: bool, ending: Option<Box<dyn Ending>>) -> Response<Reply> {
    let mut response = if grpc {
        let mut response = Response::new(Reply::local("", ending));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(grpc_status_of(answer.status)));
        if let Ok(message) = HeaderValue::from_str(&answer.body) {
            headers.insert("grpc-message", message);
        }
        response
    } else {
        let mut response = Response::new(Reply::local(answer.body.as_bytes().to_vec(), ending));
        *response.status_mut() = answer.status;
        if !answer.body.is_empty() {
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        response
    };
    response.headers_mut().insert(header::SERVER, HeaderValue::from_static("isthmus"));
    response
}

/// The gRPC status for an HTTP status, from gRPC's `http-grpc-status-mapping.md`.
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
