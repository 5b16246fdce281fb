//! Unary calls of gRPC: the frame of a message, and the outcome.

use bytes::{BufMut, BytesMut};
use http::{HeaderValue, Method, StatusCode, header, uri};
use wire::prost::Message;

use super::call::{Answer, Question};
use crate::http::headers;

/// The length of what precedes a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Returns the call of a method, `/<package>.<service>/<method>`.
pub(in crate::exchange) fn question(hostname: &str, path: &'static str, message: &impl Message) -> Question {
    let length = message.encoded_len();
    let mut body = BytesMut::with_capacity(PREFIX + length);
    body.put_u8(0);
    // Heads and bodies of more than 4 GiB are not held.
    body.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    body.extend_from_slice(&message.encode_to_vec());
    let (mut head, ()) = http::Request::new(()).into_parts();
    head.method = Method::POST;
    let mut parts = uri::Parts::default();
    parts.path_and_query = Some(uri::PathAndQuery::from_static(path));
    head.uri = http::Uri::from_parts(parts).unwrap_or_default();
    if let Ok(host) = HeaderValue::from_str(hostname) {
        head.headers.insert(header::HOST, host);
    }
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    head.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    Question { head, body: body.freeze(), http2_only: true }
}

/// Reads the message of an answer.
///
/// # Errors
/// Returns the reason why there is none.
pub(in crate::exchange) fn message<M: Message + Default>(answer: Answer) -> Result<M, String> {
    let Answer { head, mut body, trailers } = answer;
    if head.status != StatusCode::OK {
        return Err(format!("it answered with status {}", head.status.as_u16()));
    }
    if !headers::is_grpc(&head.headers) {
        return Err("its answer is not gRPC".to_owned());
    }
    let status = trailers.as_ref().and_then(headers::grpc_status).or_else(|| headers::grpc_status(&head.headers));
    match status {
        Some(0) => {}
        Some(status) => return Err(format!("it answered with gRPC status {status}")),
        None => return Err("its answer has no gRPC status".to_owned()),
    }
    if body.len() < PREFIX {
        return Err("its answer has no message".to_owned());
    }
    let prefix = body.split_to(PREFIX);
    let length = prefix[1..].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    if prefix[0] != 0 || length != body.len() {
        return Err("its answer is compressed, or not one message".to_owned());
    }
    M::decode(body).map_err(|error| format!("its answer cannot be read: {error}"))
}
