//! Response bodies, and decoding of request bodies.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use serde_json::Value;

use crate::protobuf;
use crate::status::{Result, Status};

mod duplicates;

/// Body of a response: complete or streamed.
pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// Largest request body, as in Kubernetes.
pub(crate) const LIMIT: usize = 3 * 1024 * 1024;

/// How long a client may take to send a body.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// A complete body.
pub(crate) fn full(bytes: impl Into<Bytes>) -> ResponseBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A JSON response.
pub(crate) fn json(status: StatusCode, value: &Value) -> Response<ResponseBody> {
    typed(status, HeaderValue::from_static("application/json"), value)
}

/// A JSON response with a media type that has parameters.
pub(crate) fn typed(status: StatusCode, content_type: HeaderValue, value: &Value) -> Response<ResponseBody> {
    let mut text = value.to_string();
    text.push('\n');
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// A plain text response.
pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Response<ResponseBody> {
    let mut response = Response::new(full(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// The response of a failed request.
pub(crate) fn error(status: &Status) -> Response<ResponseBody> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, &status.to_value());
    if let Some(seconds) = status.details.as_ref().map(|details| details.retry_after_seconds).filter(|s| *s > 0) {
        response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Reads a request body of at most [`LIMIT`] bytes.
pub(crate) async fn read<B>(body: B) -> Result<Bytes>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Ok(read) = tokio::time::timeout(READ_TIMEOUT, Limited::new(body, LIMIT).collect()).await else {
        return Err(Status::other(408, "Timeout", "timeout reading the request body"));
    };
    match read {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Status::body_too_large(LIMIT)),
        Err(error) => Err(Status::bad_request(format!("error reading the request body: {error}"))),
    }
}

/// Decodes a JSON, YAML or protobuf body by its content type. Without a content type the format is detected, as in
/// Kubernetes.
pub(crate) fn decode(content_type: &str, bytes: &[u8]) -> Result<Value> {
    match content_type {
        "application/json" => parse_json(bytes),
        "application/yaml" | "application/apply-patch+yaml" => parse_yaml(bytes),
        protobuf::MEDIA_TYPE => {
            protobuf::decode(bytes).map_err(|error| Status::bad_request(format!("error decoding protobuf: {error}")))
        }
        "" if bytes.trim_ascii_start().starts_with(b"{") => parse_json(bytes),
        "" => parse_yaml(bytes),
        _ => Err(Status::unsupported_media_type(&["application/json", "application/yaml", protobuf::MEDIA_TYPE])),
    }
}

pub(crate) fn parse_json(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes)
        .map_err(|error| Status::bad_request(format!("couldn't get version/kind; json parse error: {error}")))
}

/// Returns the fields that occur more than once in an object of a JSON text, as `duplicate field "spec.replicas"`. The
/// last one is effective.
pub(crate) fn duplicate_fields(content_type: &str, bytes: &[u8]) -> Vec<String> {
    let is_json = content_type == "application/json" || bytes.trim_ascii_start().starts_with(b"{");
    let mut found = Vec::new();
    if is_json {
        let walk = duplicates::DuplicateFinder { path: &mut String::new(), found: &mut found };
        // Malformed bodies are rejected before.
        let _ = serde::de::DeserializeSeed::deserialize(walk, &mut serde_json::Deserializer::from_slice(bytes));
    }
    found
}

fn parse_yaml(bytes: &[u8]) -> Result<Value> {
    let text =
        std::str::from_utf8(bytes).map_err(|error| Status::bad_request(format!("error decoding YAML: {error}")))?;
    // YAML 1.1 words such as `on` and `y` stay strings, as in Kubernetes' decoder.
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let problem = error.without_snippet().render_with_formatter(&serde_saphyr::UserMessageFormatter);
        Status::bad_request(format!("error decoding YAML: {problem}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn decodes_by_content_type() {
        assert_eq!(decode("application/json", br#"{"a":1}"#), Ok(json!({"a": 1})));
        assert_eq!(decode("application/yaml", b"a: 1\nb: on\n"), Ok(json!({"a": 1, "b": "on"})));
        let twice = decode("application/yaml", b"a: 1\na: 2\n").expect_err("a duplicate key").message;
        assert_eq!(twice, "error decoding YAML: duplicate mapping key: a not allowed here at line 2, column 1");
        assert_eq!(decode("", b" {\"a\": true}"), Ok(json!({"a": true})));
        assert_eq!(decode("application/json", b"{").expect_err("half an object").code, 400);
        let twice = br#"{"a": 1, "b": {"c": [{"d": 1, "e": {}, "d": 2}], "c": []}, "a": "x"}"#;
        let expected = [r#"duplicate field "b.c[0].d""#, r#"duplicate field "b.c""#, r#"duplicate field "a""#];
        assert_eq!(duplicate_fields("application/json", twice), expected);
        assert!(duplicate_fields("application/yaml", b"a: 1\n").is_empty());
        assert_eq!(decode("text/html", b"{}").expect_err("not ours").code, 415);
    }
}
