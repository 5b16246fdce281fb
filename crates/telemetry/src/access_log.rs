//! Access logs in Istio's formats: Envoy's format strings, and JSON.
//!
//! A [`Format`] is parsed once. A worker writes a [`Record`] to its [`Log`], which renders a line and queues it for the
//! [`Writer`]'s thread; that thread writes queued lines in batches. If the queue is full, lines are dropped and counted:
//! logging never delays a connection.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use http::HeaderMap;

use crate::ResponseFlags;

mod date;
mod format;
mod json;
mod operator;
#[cfg(test)]
mod tests;
mod writer;

pub use format::{Format, FormatError, Template};
pub use writer::{Log, Writer};

/// Istio's default text format, without the line break at the end.
pub const DEFAULT_TEXT: &str = concat!(
    r#"[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% "#,
    r#"%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" "#,
    r#"%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "#,
    r#""%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% "#,
    r#"%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% "#,
    r#"%ROUTE_NAME%"#
);

/// Istio's default JSON format.
pub const DEFAULT_JSON: &str = r#"{
  "start_time": "%START_TIME%",
  "route_name": "%ROUTE_NAME%",
  "method": "%REQ(:METHOD)%",
  "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
  "protocol": "%PROTOCOL%",
  "response_code": "%RESPONSE_CODE%",
  "response_flags": "%RESPONSE_FLAGS%",
  "response_code_details": "%RESPONSE_CODE_DETAILS%",
  "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
  "bytes_received": "%BYTES_RECEIVED%",
  "bytes_sent": "%BYTES_SENT%",
  "duration": "%DURATION%",
  "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
  "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
  "user_agent": "%REQ(USER-AGENT)%",
  "request_id": "%REQ(X-REQUEST-ID)%",
  "authority": "%REQ(:AUTHORITY)%",
  "upstream_host": "%UPSTREAM_HOST%",
  "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
  "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
  "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
  "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
  "requested_server_name": "%REQUESTED_SERVER_NAME%",
  "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%"
}"#;

/// One request or opaque connection. Fields that are `None` or empty are written as `-`.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Record<'a> {
    /// When the first byte of the request arrived.
    pub start: SystemTime,
    /// From `start` to the response's last byte.
    pub duration: Duration,
    /// From `start` to the request's last byte.
    pub request_duration: Option<Duration>,
    /// From `start` to the response's first byte.
    pub response_duration: Option<Duration>,
    pub method: Option<&'a str>,
    pub path: Option<&'a str>,
    pub authority: Option<&'a str>,
    pub scheme: Option<&'a str>,
    /// `HTTP/1.1` or `HTTP/2`; `None` for opaque connections.
    pub protocol: Option<&'a str>,
    /// The request headers as received; at least the ones that [`Format::request_headers`] returns.
    pub request_headers: Option<&'a HeaderMap>,
    pub response_headers: Option<&'a HeaderMap>,
    pub response_trailers: Option<&'a HeaderMap>,
    /// The HTTP status; 0 without a response.
    pub response_code: u16,
    pub response_flags: ResponseFlags,
    pub response_code_details: Option<&'a str>,
    pub connection_termination_details: Option<&'a str>,
    pub upstream_transport_failure_reason: Option<&'a str>,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub upstream_host: Option<SocketAddr>,
    /// The upstream cluster, such as `outbound|9080||ratings.default.svc.cluster.local`.
    pub upstream_cluster: Option<&'a str>,
    pub upstream_local_address: Option<SocketAddr>,
    pub downstream_local_address: Option<SocketAddr>,
    pub downstream_remote_address: Option<SocketAddr>,
    pub requested_server_name: Option<&'a str>,
    pub route_name: Option<&'a str>,
    /// The downstream peer's SPIFFE ID.
    pub downstream_peer_uri_san: Option<&'a str>,
    pub downstream_peer_subject: Option<&'a str>,
    pub downstream_tls_version: Option<&'a str>,
    pub downstream_tls_cipher: Option<&'a str>,
    /// The number of attempts, including the first.
    pub upstream_request_attempt_count: u32,
    pub grpc_status: Option<u16>,
    pub connection_id: Option<u64>,
    pub trace_id: Option<&'a str>,
}

impl Record<'_> {
    /// Creates a record with a start time and no other values.
    pub fn new(start: SystemTime) -> Self {
        Record {
            start,
            duration: Duration::ZERO,
            request_duration: None,
            response_duration: None,
            method: None,
            path: None,
            authority: None,
            scheme: None,
            protocol: None,
            request_headers: None,
            response_headers: None,
            response_trailers: None,
            response_code: 0,
            response_flags: ResponseFlags::NONE,
            response_code_details: None,
            connection_termination_details: None,
            upstream_transport_failure_reason: None,
            bytes_received: 0,
            bytes_sent: 0,
            upstream_host: None,
            upstream_cluster: None,
            upstream_local_address: None,
            downstream_local_address: None,
            downstream_remote_address: None,
            requested_server_name: None,
            route_name: None,
            downstream_peer_uri_san: None,
            downstream_peer_subject: None,
            downstream_tls_version: None,
            downstream_tls_cipher: None,
            upstream_request_attempt_count: 0,
            grpc_status: None,
            connection_id: None,
            trace_id: None,
        }
    }
}
