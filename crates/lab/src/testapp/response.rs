//! Response bodies of the application.

use std::convert::Infallible;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};

/// The body of a response.
pub(super) type AppBody = BoxBody<Bytes, Infallible>;

/// Creates a body of bytes.
pub(super) fn full(bytes: impl Into<Bytes>) -> AppBody {
    Full::new(bytes.into()).boxed()
}

/// Creates a response with text.
pub(super) fn page(status: StatusCode, text: impl Into<Bytes>) -> Response<AppBody> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
