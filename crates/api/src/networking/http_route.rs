//! The routes of requests: where requests go, and what is changed on the way.

use std::collections::BTreeMap;
use std::time::Duration;

use super::http_match::{HttpMatch, StringMatch};
use super::json::{message, words};
use super::virtual_service::Destination;

/// The names of gRPC's statuses, by number.
pub const GRPC_STATUSES: &[&str] = &[
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

message! {
    /// A route of requests.
    HttpRoute {
        /// The name, for statistics and messages.
        name: String = "name",
        /// What has to match: any of these; empty: every request.
        matches: Vec<HttpMatch> = "match",
        /// Where requests go.
        route: Vec<HttpRouteDestination> = "route",
        /// A redirection instead.
        redirect: Option<HttpRedirect> = "redirect",
        /// A fixed response instead.
        direct_response: Option<DirectResponse> = "directResponse",
        /// The VirtualService that has the routes instead.
        delegate: Option<Delegate> = "delegate",
        /// What is rewritten before requests are sent.
        rewrite: Option<HttpRewrite> = "rewrite",
        /// The time for the whole response, with retries; unset: none.
        timeout: Option<Duration> = "timeout",
        /// The retries; unset: the default ones.
        retries: Option<HttpRetry> = "retries",
        /// The faults to inject.
        fault: Option<FaultInjection> = "fault",
        /// The destination of copies.
        mirror: Option<Destination> = "mirror",
        /// The destinations of copies, each with its share.
        mirrors: Vec<HttpMirror> = "mirrors",
        /// Deprecated: the share of `mirror_percentage` as an integer.
        mirror_percent: Option<u32> = "mirrorPercent",
        /// Another spelling of `mirror_percent`.
        mirror_percent_snake: Option<u32> = "mirror_percent",
        /// The share of requests that `mirror` receives; unset: all.
        mirror_percentage: Option<Percent> = "mirrorPercentage",
        /// The CORS policy.
        cors_policy: Option<CorsPolicy> = "corsPolicy",
        /// The changes of headers.
        headers: Option<Headers> = "headers",
    }
}

message! {
    /// A destination of requests, and its share of them.
    HttpRouteDestination {
        /// The destination. Required.
        destination: Option<Destination> = "destination",
        /// The weight, in proportion to the others. It has no effect on a single destination.
        weight: i32 = "weight",
        /// The changes of headers.
        headers: Option<Headers> = "headers",
    }
}

message! {
    /// Changes of headers.
    Headers {
        /// The changes of requests.
        request: Option<HeaderOperations> = "request",
        /// The changes of responses.
        response: Option<HeaderOperations> = "response",
    }
}

message! {
    /// Changes of the headers of a message.
    HeaderOperations {
        /// The headers to overwrite.
        set: BTreeMap<String, String> = "set",
        /// The headers to append.
        add: BTreeMap<String, String> = "add",
        /// The headers to remove.
        remove: Vec<String> = "remove",
    }
}

message! {
    /// The VirtualService that has the routes.
    Delegate {
        /// The name.
        name: String = "name",
        /// The namespace; empty: the same.
        namespace: String = "namespace",
    }
}

message! {
    /// A redirection.
    HttpRedirect {
        /// The new path.
        uri: String = "uri",
        /// What takes the place of the prefix that matched.
        prefix_rewrite: String = "prefixRewrite",
        /// The new authority.
        authority: String = "authority",
        /// The new port.
        port: Option<u32> = "port",
        /// How the new port follows.
        derive_port: Option<DerivedPort> = "derivePort",
        /// The new scheme.
        scheme: String = "scheme",
        /// The status; 0: 301.
        redirect_code: u32 = "redirectCode",
    }
}

words! {
    /// How the port of a redirection follows.
    DerivedPort {
        /// 80 or 443, by the scheme.
        #[default]
        FromProtocolDefault = "FROM_PROTOCOL_DEFAULT",
        /// The port of the request.
        FromRequestPort = "FROM_REQUEST_PORT",
    }
}

message! {
    /// A fixed response.
    DirectResponse {
        /// The status.
        status: u32 = "status",
        /// The body.
        body: Option<HttpBody> = "body",
    }
}

message! {
    /// The body of a fixed response: one of these.
    HttpBody {
        /// As text.
        string: Option<String> = "string",
        /// As base64.
        bytes: Option<String> = "bytes",
    }
}

message! {
    /// What is rewritten of a request.
    HttpRewrite {
        /// The new path, or what takes the place of the prefix that matched.
        uri: String = "uri",
        /// The new authority.
        authority: String = "authority",
        /// What is replaced in the path.
        uri_regex_rewrite: Option<RegexRewrite> = "uriRegexRewrite",
    }
}

message! {
    /// A replacement by a regular expression.
    RegexRewrite {
        /// The regular expression of RE2.
        pattern: String = "match",
        /// The replacement, with `\1` for the first group.
        rewrite: String = "rewrite",
    }
}

message! {
    /// The retries of requests.
    HttpRetry {
        /// The number of retries; 0: none.
        attempts: i32 = "attempts",
        /// The time for each try; unset: the timeout.
        per_try_timeout: Option<Duration> = "perTryTimeout",
        /// What is retried: names and statuses, with commas.
        retry_on: String = "retryOn",
        /// Whether retries go to other localities.
        retry_remote_localities: Option<bool> = "retryRemoteLocalities",
        /// Whether retries avoid endpoints that were tried; unset: they do.
        retry_ignore_previous_hosts: Option<bool> = "retryIgnorePreviousHosts",
        /// The shortest time between tries.
        backoff: Option<Duration> = "backoff",
    }
}

message! {
    /// Faults to inject.
    FaultInjection {
        /// A delay.
        delay: Option<FaultDelay> = "delay",
        /// A response instead of the service's.
        abort: Option<FaultAbort> = "abort",
    }
}

message! {
    /// A delay of requests.
    FaultDelay {
        /// The delay.
        fixed_delay: Option<Duration> = "fixedDelay",
        /// Not supported, as in Istio.
        exponential_delay: Option<Duration> = "exponentialDelay",
        /// The share of requests; unset: none.
        percentage: Option<Percent> = "percentage",
        /// Deprecated: the share as an integer.
        percent: i32 = "percent",
    }
}

message! {
    /// A response instead of the service's.
    FaultAbort {
        /// The status.
        http_status: Option<i32> = "httpStatus",
        /// The status of gRPC, such as `UNAVAILABLE`.
        grpc_status: Option<String> = "grpcStatus",
        /// Not supported, as in Istio.
        http2_error: Option<String> = "http2Error",
        /// The share of requests; unset: none.
        percentage: Option<Percent> = "percentage",
        /// Deprecated: the share as an integer.
        percent: i32 = "percent",
    }
}

message! {
    /// A share.
    Percent {
        /// From 0 to 100.
        value: f64 = "value",
    }
}

message! {
    /// A destination of copies, and its share.
    HttpMirror {
        /// The destination. Required.
        destination: Option<Destination> = "destination",
        /// The share of requests; unset: all.
        percentage: Option<Percent> = "percentage",
    }
}

message! {
    /// A policy of cross-origin requests.
    CorsPolicy {
        /// Deprecated: the origins, exactly.
        allow_origin: Vec<String> = "allowOrigin",
        /// The origins.
        allow_origins: Vec<StringMatch> = "allowOrigins",
        /// The methods.
        allow_methods: Vec<String> = "allowMethods",
        /// The headers of requests.
        allow_headers: Vec<String> = "allowHeaders",
        /// The headers of responses that scripts may read.
        expose_headers: Vec<String> = "exposeHeaders",
        /// The time for which the answer of a preflight is valid.
        max_age: Option<Duration> = "maxAge",
        /// Whether credentials are allowed.
        allow_credentials: Option<bool> = "allowCredentials",
        /// What happens to preflights whose origin does not match.
        unmatched_preflights: UnmatchedPreflights = "unmatchedPreflights",
    }
}

words! {
    /// What happens to preflights whose origin does not match.
    UnmatchedPreflights {
        /// They go to the service.
        #[default]
        Unspecified = "UNSPECIFIED",
        /// They go to the service.
        Forward = "FORWARD",
        /// They are answered without headers of CORS.
        Ignore = "IGNORE",
    }
}

impl HttpRoute {
    /// Returns the share of requests that [`HttpRoute::mirror`] receives, from 0 to 100.
    pub fn mirror_share(&self) -> f64 {
        let percent = self.mirror_percent.or(self.mirror_percent_snake);
        match (&self.mirror_percentage, percent) {
            (Some(percentage), _) => percentage.value,
            (None, Some(percent)) => percent.into(),
            (None, None) => 100.0,
        }
    }
}
