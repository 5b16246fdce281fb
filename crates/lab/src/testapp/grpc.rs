//! gRPC at the level of HTTP/2: `isthmus.testapp.Echo/Unary` and `/Stream`, and the health service.
//!
//! A reply is `message Reply { string answer = 1; bytes echo = 2; }`: the JSON response, and the request's message. The
//! request's header `x-count` is the number of replies of a stream.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use prost::Message;

use super::response::AppBody;

const UNIMPLEMENTED: u16 = 12;
const UNAVAILABLE: u16 = 14;

/// A reply of the echo service.
#[derive(Clone, PartialEq, Message)]
pub(super) struct EchoReply {
    /// The response, as JSON.
    #[prost(string, tag = "1")]
    pub(super) answer: String,
    /// Message of the request.
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) echo: Bytes,
}

/// Reports whether a request is gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Returns the response to `path`. `body` is the whole request; `failing` is an HTTP status to fail with.
pub(super) fn answer(
    path: &str,
    headers: &HeaderMap,
    body: &[u8],
    answer: String,
    failing: Option<u16>,
) -> Response<AppBody> {
    if let Some(status) = failing {
        return failed(&format!("failing on request with {status}"));
    }
    let reply = || framed(&EchoReply { answer: answer.clone(), echo: message(body) }.encode_to_vec());
    match path {
        "/isthmus.testapp.Echo/Unary" => replies(vec![reply()], 0, ""),
        "/isthmus.testapp.Echo/Stream" => {
            let count = headers.get("x-count").and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(5);
            replies((0..count.min(10_000)).map(|_: usize| reply()).collect(), 0, "")
        }
        // SERVING
        "/grpc.health.v1.Health/Check" => replies(vec![framed(&[0x08, 0x01])], 0, ""),
        _ => unimplemented("the methods are isthmus.testapp.Echo/Unary and /Stream"),
    }
}

/// Returns the response with one message.
pub(super) fn one(message: &[u8]) -> Response<AppBody> {
    replies(vec![framed(message)], 0, "")
}

/// Returns the response of a service that cannot answer now.
pub(super) fn failed(text: &str) -> Response<AppBody> {
    replies(Vec::new(), UNAVAILABLE, text)
}

/// Returns the response to a method that does not exist.
pub(super) fn unimplemented(text: &str) -> Response<AppBody> {
    replies(Vec::new(), UNIMPLEMENTED, text)
}

/// Returns the first message of a body; empty if the body is incomplete.
pub(super) fn message(body: &[u8]) -> Bytes {
    let Some((head, rest)) = body.split_first_chunk::<5>() else { return Bytes::new() };
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    rest.get(..length).map(Bytes::copy_from_slice).unwrap_or_default()
}

/// Frames a message for gRPC: not compressed, length, bytes.
pub(super) fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    framed.freeze()
}

fn replies(messages: Vec<Bytes>, status: u16, text: &str) -> Response<AppBody> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(status));
    if let Ok(text) = HeaderValue::from_str(text) {
        trailers.insert("grpc-message", text);
    }
    let frames = messages.into_iter().map(Frame::data).chain([Frame::trailers(trailers)]);
    let frames = futures_util::stream::iter(frames.map(Ok::<_, std::convert::Infallible>));
    let mut response = Response::new(StreamBody::new(frames).boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
