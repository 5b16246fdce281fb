//! Failures of connections and requests, and what each means for the caller, for logs and for metrics.
//!
//! A [`Failure`] says what failed. [`Failure::local_reply`] is the only place that maps it to an HTTP status, a response
//! flag and a response code detail. Texts and flags are Envoy's, so that dashboards and runbooks apply unchanged.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use http::StatusCode;
use policy::authorization::Matched;
use policy::jwt;
use telemetry::ResponseFlags;

use crate::http::InvalidRequest;

/// gRPC's status of a client that exceeds its quota.
const RESOURCE_EXHAUSTED: u16 = 8;

/// The reason why a connection to an endpoint was not established.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// The TCP handshake failed.
    #[error("{0}")]
    Tcp(Arc<io::Error>),
    /// The connect timeout passed.
    #[error("connection timeout")]
    Timeout,
    /// The TLS handshake failed: the server does not speak TLS, or its certificate is not trusted or has an identity
    /// that is not expected.
    #[error("TLS error: {0}")]
    Tls(Arc<io::Error>),
    /// The HTTP connection preface failed.
    #[error("the server does not speak the expected protocol: {0}")]
    Http(Arc<dyn std::error::Error + Send + Sync>),
}

/// The reason why a connection or request failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// The destination is unknown, and the mesh allows known destinations only.
    #[error("{0} is not part of the mesh, and the mesh allows no other destinations (REGISTRY_ONLY)")]
    UnknownDestination(Arc<str>),
    /// The destination may be part of the mesh, and the controller did not answer.
    #[error("the controller does not answer whether {0} is part of the mesh, so nothing is sent in plaintext")]
    Unanswered(Arc<str>),
    /// No route of the host matches the request.
    #[error("no route of {0} matches the request")]
    NoRoute(Arc<str>),
    /// The route's destination does not exist.
    #[error("the route's destination {0} does not exist")]
    NoDestination(Arc<str>),
    /// The service has no healthy endpoint.
    #[error("{0} has no healthy endpoint")]
    NoEndpoint(Arc<str>),
    /// No attempted endpoint accepted a connection.
    #[error("connection to {endpoint} failed: {error}")]
    Connect {
        /// The address of the endpoint that was attempted last.
        endpoint: Arc<str>,
        /// The error of the last attempt.
        error: ConnectError,
        /// Other attempts preceded this one.
        retried: bool,
    },
    /// The connection ended before a response began.
    #[error("{endpoint} closed the connection before it responded: {error}")]
    Reset {
        /// The address of the endpoint.
        endpoint: Arc<str>,
        /// The error of the connection.
        error: Arc<str>,
        /// Other attempts preceded this one.
        retried: bool,
    },
    /// The upstream's response is not HTTP.
    #[error("{endpoint} sent an invalid HTTP response: {error}")]
    UpstreamProtocol {
        /// The address of the endpoint.
        endpoint: Arc<str>,
        /// The parse error.
        error: Arc<str>,
    },
    /// There was no response in time.
    #[error("{0}")]
    Timeout(Expired),
    /// A fault was injected: the request is answered with this status.
    #[error("a fault was injected")]
    Fault(route::Abort),
    /// A limit on connections or requests was reached.
    #[error("{0} reached its limit")]
    Overflow(Cow<'static, str>),
    /// The downstream closed its connection.
    #[error("the downstream connection failed: {0}")]
    Downstream(Arc<str>),
    /// The request is invalid, or asks for what no route allows.
    #[error("{0}")]
    Invalid(InvalidRequest),
    /// The downstream's first bytes are not what the port requires.
    #[error("connection refused: {0}")]
    Refused(Cow<'static, str>),
    /// The request came in plaintext, and the port accepts mutual TLS only by now.
    #[error("plaintext, but the port accepts mutual TLS only (STRICT)")]
    Plaintext,
    /// A token of an end user is not valid.
    #[error("{0}")]
    Unauthenticated(jwt::TokenRejection),
    /// The authorization policies denied the connection or request: a policy that matched, or none that allows it.
    #[error("denied: {}", .0.as_ref().map_or("no ALLOW policy matches".into(), rule_name))]
    Denied(Option<Matched>),
    /// A FederationPolicy does not permit the caller's cluster, which is not known if the caller proved none.
    #[error("federation policy: the service is not exported to {}", caller_name(.0.as_deref()))]
    NotExported(Option<Arc<str>>),
    /// The server that a CUSTOM policy asks denied the connection or request.
    #[error("denied by {0}, which a CUSTOM policy asks")]
    ExternallyDenied(Arc<str>),
    /// The server that a CUSTOM policy asks did not answer, or not as it has to.
    #[error("{host}, which a CUSTOM policy asks, cannot decide: {reason}")]
    Undecided {
        /// The hostname of its service.
        host: Arc<str>,
        /// Why.
        reason: Arc<str>,
        /// The status of such requests.
        status: StatusCode,
    },
    /// A limit on the rate of requests was exceeded.
    #[error("{policy} is exceeded")]
    RateLimited {
        /// The object that the limit comes from.
        policy: Arc<str>,
        /// Whether a service counts it.
        global: bool,
        /// The status of such requests.
        status: StatusCode,
        /// Whether the status of gRPC is RESOURCE_EXHAUSTED.
        resource_exhausted: bool,
    },
    /// The service that counts requests did not answer, or not as it has to.
    #[error("{host}, which counts requests, cannot be asked: {reason}")]
    RateLimitUnknown {
        /// The hostname of the service.
        host: Arc<str>,
        /// Why.
        reason: Arc<str>,
        /// The status of such requests.
        status: StatusCode,
    },
    /// The request's body is larger than the server that a CUSTOM policy asks takes.
    #[error("the body exceeds the {0} bytes that a CUSTOM policy's provider takes")]
    BodyTooLarge(usize),
}

/// The limit that a request exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Expired {
    /// The route's time limit.
    #[error("there was no response within the route's timeout")]
    Request,
    /// The time limit of one attempt.
    #[error("there was no response within the timeout of an attempt")]
    Attempt {
        /// Other attempts preceded this one.
        retried: bool,
    },
}

/// The response that the proxy itself gives to a failed request, and what logs and metrics record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalReply {
    /// The HTTP status.
    pub status: StatusCode,
    /// The status of gRPC; `None`: that for the HTTP status.
    pub grpc_status: Option<u16>,
    /// The response flags.
    pub flags: ResponseFlags,
    /// Envoy's response code details, for the access log.
    pub details: Cow<'static, str>,
    /// The response body.
    pub body: Cow<'static, str>,
    /// Why the upstream connection failed, for `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub transport_failure: Option<String>,
}

impl Failure {
    /// Returns the failure of a downstream connection.
    pub fn downstream(error: io::Error) -> Self {
        Failure::Downstream(error.to_string().into())
    }

    /// Returns the response to the caller, with what logs and metrics record.
    pub fn local_reply(&self) -> LocalReply {
        match self {
            // Envoy's response for its BlackHoleCluster.
            Failure::UnknownDestination(_) => {
                reply(StatusCode::BAD_GATEWAY, ResponseFlags::NO_ROUTE_FOUND, "direct_response", "")
            }
            // Envoy's response if a cluster is not found in time.
            Failure::Unanswered(_) => reply(
                StatusCode::SERVICE_UNAVAILABLE,
                ResponseFlags::NO_CLUSTER_FOUND,
                "cluster_not_found",
                "the mesh's controller does not answer whether this destination is part of the mesh",
            ),
            Failure::NoRoute(_) => reply(StatusCode::NOT_FOUND, ResponseFlags::NO_ROUTE_FOUND, "route_not_found", ""),
            Failure::NoDestination(_) => {
                reply(StatusCode::SERVICE_UNAVAILABLE, ResponseFlags::NO_CLUSTER_FOUND, "cluster_not_found", "")
            }
            Failure::NoEndpoint(_) => reply(
                StatusCode::SERVICE_UNAVAILABLE,
                ResponseFlags::NO_HEALTHY_UPSTREAM,
                "no_healthy_upstream",
                "no healthy upstream",
            ),
            Failure::Connect { error, retried, .. } => LocalReply {
                transport_failure: Some(error.to_string()),
                ..self.reset(
                    StatusCode::SERVICE_UNAVAILABLE,
                    with_retries(ResponseFlags::UPSTREAM_CONNECTION_FAILURE, *retried),
                    "connection_failure",
                    if matches!(error, ConnectError::Timeout) { "connection timeout" } else { "connection failure" },
                )
            },
            Failure::Reset { retried, .. } => self.reset(
                StatusCode::SERVICE_UNAVAILABLE,
                with_retries(ResponseFlags::UPSTREAM_CONNECTION_TERMINATION, *retried),
                "connection_termination",
                "connection termination",
            ),
            Failure::UpstreamProtocol { .. } => self.reset(
                StatusCode::BAD_GATEWAY,
                ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
                "protocol_error",
                "protocol error",
            ),
            Failure::Timeout(expired) => {
                let (flags, details) = match expired {
                    Expired::Request => (ResponseFlags::UPSTREAM_REQUEST_TIMEOUT, "response_timeout"),
                    Expired::Attempt { retried } => {
                        (with_retries(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT, *retried), "upstream_per_try_timeout")
                    }
                };
                reply(StatusCode::GATEWAY_TIMEOUT, flags, details, "upstream request timeout")
            }
            Failure::Fault(abort) => {
                let status = match abort {
                    route::Abort::Http(status) => *status,
                    route::Abort::Grpc(_) => StatusCode::OK,
                };
                let reply = reply(status, ResponseFlags::FAULT_INJECTED, "fault_filter_abort", "fault filter abort");
                match abort {
                    route::Abort::Http(_) => reply,
                    route::Abort::Grpc(status) => LocalReply { grpc_status: Some(*status), ..reply },
                }
            }
            Failure::Overflow(_) => {
                self.reset(StatusCode::SERVICE_UNAVAILABLE, ResponseFlags::UPSTREAM_OVERFLOW, "overflow", "overflow")
            }
            // The status reaches nobody; Envoy logs 0, which `StatusCode` cannot express.
            Failure::Downstream(_) => reply(
                StatusCode::BAD_REQUEST,
                ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION,
                "downstream_remote_disconnect",
                "",
            ),
            Failure::Invalid(invalid) => reply(invalid.status(), ResponseFlags::NONE, invalid.details(), ""),
            Failure::Refused(_) => {
                reply(StatusCode::BAD_REQUEST, ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, "http1.codec_error", "")
            }
            Failure::Plaintext => reply(
                StatusCode::FORBIDDEN,
                ResponseFlags::NONE,
                "plaintext_refused",
                "this port accepts mutual TLS only (PeerAuthentication STRICT)",
            ),
            Failure::Unauthenticated(rejection) => {
                let status = match rejection {
                    jwt::TokenRejection::Audience => StatusCode::FORBIDDEN,
                    _ => StatusCode::UNAUTHORIZED,
                };
                let text = rejection.to_string();
                LocalReply {
                    details: format!("jwt_authn_access_denied{{{}}}", text.replace(' ', "_")).into(),
                    body: text.into(),
                    ..reply(status, ResponseFlags::NONE, "", "")
                }
            }
            Failure::Denied(matched) => LocalReply {
                details: format!(
                    "rbac_access_denied_matched_policy[{}]",
                    matched.as_ref().map_or("none".into(), rule_name)
                )
                .into(),
                ..reply(StatusCode::FORBIDDEN, ResponseFlags::NONE, "", "RBAC: access denied")
            },
            Failure::NotExported(cluster) => LocalReply {
                details: format!("federation_policy_denied[{}]", cluster.as_deref().unwrap_or(UNKNOWN)).into(),
                body: self.to_string().into(),
                ..reply(StatusCode::FORBIDDEN, ResponseFlags::NONE, "", "")
            },
            Failure::ExternallyDenied(_) => {
                reply(StatusCode::FORBIDDEN, ResponseFlags::UNAUTHORIZED_EXTERNALLY, "ext_authz_denied", "")
            }
            Failure::Undecided { status, .. } => {
                reply(*status, ResponseFlags::UNAUTHORIZED_EXTERNALLY, "ext_authz_error", "")
            }
            Failure::RateLimited { global, status, resource_exhausted, .. } => {
                let (details, body) =
                    if *global { ("request_rate_limited", "") } else { ("local_rate_limited", "local_rate_limited") };
                LocalReply {
                    grpc_status: resource_exhausted.then_some(RESOURCE_EXHAUSTED),
                    ..reply(*status, ResponseFlags::RATE_LIMITED, details, body)
                }
            }
            Failure::RateLimitUnknown { status, .. } => {
                reply(*status, ResponseFlags::RATE_LIMIT_SERVICE_ERROR, "rate_limiter_error", "")
            }
            Failure::BodyTooLarge(_) => reply(
                StatusCode::PAYLOAD_TOO_LARGE,
                ResponseFlags::NONE,
                "request_payload_too_large",
                "Payload Too Large",
            ),
        }
    }

    /// Returns the failure marked as the result of the last of several attempts.
    pub fn after_retries(mut self) -> Self {
        if let Failure::Connect { retried, .. }
        | Failure::Reset { retried, .. }
        | Failure::Timeout(Expired::Attempt { retried }) = &mut self
        {
            *retried = true;
        }
        self
    }

    /// Returns the label value of metrics: one of a fixed set of words.
    pub fn reason(&self) -> &'static str {
        match self {
            Failure::UnknownDestination(_) => "unknown_destination",
            Failure::Unanswered(_) => "unanswered",
            Failure::NoRoute(_) => "no_route",
            Failure::NoDestination(_) => "no_destination",
            Failure::Timeout(_) => "timeout",
            Failure::Fault(_) => "fault",
            Failure::NoEndpoint(_) => "no_endpoint",
            Failure::Connect { .. } => "connect",
            Failure::Reset { .. } => "reset",
            Failure::UpstreamProtocol { .. } => "protocol",
            Failure::Overflow(_) => "overflow",
            Failure::Downstream(_) => "client",
            Failure::Invalid(_) => "invalid",
            Failure::Refused(_) => "refused",
            Failure::Plaintext => "refused",
            Failure::Unauthenticated(_) => "unauthenticated",
            Failure::Denied(_) | Failure::ExternallyDenied(_) => "denied",
            Failure::NotExported(_) => "not_exported",
            Failure::Undecided { .. } => "undecided",
            Failure::RateLimited { .. } => "rate_limited",
            Failure::RateLimitUnknown { .. } => "rate_limit_unknown",
            Failure::BodyTooLarge(_) => "body_too_large",
        }
    }

    /// A reply to a request whose upstream stream was reset before the response began.
    fn reset(&self, status: StatusCode, flags: ResponseFlags, details: &str, reason: &str) -> LocalReply {
        let retried = matches!(self, Failure::Connect { retried: true, .. } | Failure::Reset { retried: true, .. });
        let latest = if retried { "retried and the latest " } else { "" };
        let body = format!("upstream connect error or disconnect/reset before headers. {latest}reset reason: {reason}");
        LocalReply {
            status,
            grpc_status: None,
            flags,
            details: format!("upstream_reset_before_response_started{{{details}}}").into(),
            body: body.into(),
            transport_failure: None,
        }
    }
}

fn reply(status: StatusCode, flags: ResponseFlags, details: &'static str, body: &'static str) -> LocalReply {
    let (details, body) = (details.into(), body.into());
    LocalReply { status, grpc_status: None, flags, details, body, transport_failure: None }
}

/// The name of a cluster that is not known.
const UNKNOWN: &str = "unknown";

/// Returns a caller's cluster, for a sentence.
fn caller_name(cluster: Option<&str>) -> String {
    cluster.map_or_else(|| "callers that prove no cluster".to_owned(), |cluster| format!("cluster {cluster}"))
}

/// Returns the name of a rule as Envoy has it in its response code details.
fn rule_name(matched: &Matched) -> String {
    let Matched { policy, rule } = matched;
    let (namespace, name) = policy.split_once('/').unwrap_or(("", policy));
    format!("ns[{namespace}]-policy[{name}]-rule[{rule}]")
}

fn with_retries(flags: ResponseFlags, retried: bool) -> ResponseFlags {
    if retried { flags.with(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED) } else { flags }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_response_flags_match_envoy() {
        let endpoint: Arc<str> = "10.0.0.1:80".into();
        let refused = ConnectError::Tcp(Arc::new(io::ErrorKind::ConnectionRefused.into()));
        let connect = Failure::Connect { endpoint: endpoint.clone(), error: refused, retried: false };
        let limited = |global| Failure::RateLimited {
            policy: "RateLimit/a/b".into(),
            global,
            status: StatusCode::TOO_MANY_REQUESTS,
            resource_exhausted: false,
        };
        let reset = Failure::Reset { endpoint: endpoint.clone(), error: "reset".into(), retried: false };
        let table = [
            (Failure::UnknownDestination("1.2.3.4:80".into()), 502, "NR"),
            (Failure::NoRoute("reviews".into()), 404, "NR"),
            (Failure::NoDestination("reviews".into()), 503, "NC"),
            (Failure::Timeout(Expired::Request), 504, "UT"),
            (Failure::Timeout(Expired::Attempt { retried: false }).after_retries(), 504, "URX,UT"),
            (Failure::Fault(route::Abort::Http(StatusCode::IM_A_TEAPOT)), 418, "FI"),
            (Failure::NoEndpoint("reviews".into()), 503, "UH"),
            (connect.clone(), 503, "UF"),
            (connect.after_retries(), 503, "URX,UF"),
            (reset.clone(), 503, "UC"),
            (reset.after_retries(), 503, "URX,UC"),
            (Failure::UpstreamProtocol { endpoint, error: "bad".into() }, 502, "UPE"),
            (Failure::Overflow("port 9080".into()), 503, "UO"),
            (Failure::Denied(None), 403, "-"),
            (Failure::NotExported(Some("west".into())), 403, "-"),
            (Failure::ExternallyDenied("auth".into()), 403, "UAEX"),
            (
                Failure::Undecided {
                    host: "auth".into(),
                    reason: "timeout".into(),
                    status: StatusCode::SERVICE_UNAVAILABLE,
                },
                503,
                "UAEX",
            ),
            (limited(false), 429, "RL"),
            (limited(true), 429, "RL"),
            (
                Failure::RateLimitUnknown {
                    host: "limits".into(),
                    reason: "timeout".into(),
                    status: StatusCode::INTERNAL_SERVER_ERROR,
                },
                500,
                "RLSE",
            ),
            (Failure::BodyTooLarge(1), 413, "-"),
            (Failure::Unauthenticated(jwt::TokenRejection::Expired), 401, "-"),
            (Failure::Unauthenticated(jwt::TokenRejection::Audience), 403, "-"),
            (Failure::Invalid(InvalidRequest::NoHost), 400, "-"),
            (Failure::Invalid(InvalidRequest::Tunnel), 403, "-"),
            (Failure::Invalid(InvalidRequest::TransferCoding), 501, "-"),
            (Failure::Downstream("closed".into()), 400, "DC"),
        ];
        for (failure, status, flags) in table {
            let reply = failure.local_reply();
            assert_eq!((reply.status.as_u16(), &*reply.flags.letters()), (status, flags), "{failure}");
        }
    }

    #[test]
    fn bodies_and_details_match_envoy() {
        let timeout = Failure::Connect { endpoint: "a".into(), error: ConnectError::Timeout, retried: true };
        let reply = timeout.local_reply();
        assert_eq!(
            reply.body,
            "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: connection timeout"
        );
        assert_eq!(reply.details, "upstream_reset_before_response_started{connection_failure}");
        assert_eq!(reply.transport_failure.as_deref(), Some("connection timeout"));
        let details = |matched| Failure::Denied(matched).local_reply().details;
        let matched = Matched { policy: "a/b".into(), rule: 2 };
        assert_eq!(details(Some(matched)), "rbac_access_denied_matched_policy[ns[a]-policy[b]-rule[2]]");
        assert_eq!(details(None), "rbac_access_denied_matched_policy[none]");
        let foreign = Failure::NotExported(Some("west".into())).local_reply();
        assert_eq!(foreign.body, "federation policy: the service is not exported to cluster west");
        assert_eq!(foreign.details, "federation_policy_denied[west]");
        assert_eq!(Failure::NotExported(None).local_reply().details, "federation_policy_denied[unknown]");
        let expired = Failure::Unauthenticated(jwt::TokenRejection::Expired).local_reply();
        assert_eq!((&*expired.body, &*expired.details), ("Jwt is expired", "jwt_authn_access_denied{Jwt_is_expired}"));
    }
}
