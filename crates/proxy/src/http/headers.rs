//! Headers of requests and responses: hop-by-hop headers, headers of the mesh, and headers that are not trusted.

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Uri, request, uri};

use super::Version;

/// The caller's identity, as the destination's sidecar verified it (Envoy's XFCC).
pub const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// The scheme of the original client: `http` or `https`.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The addresses of the client and of the proxies on the way.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The request ID, the same on every hop.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The number of the attempt, from 1.
pub const ATTEMPTS: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
/// Milliseconds until the upstream's response began.
pub const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
/// In a response of a proxy that refused the request because of a limit: there is no use in another attempt.
pub const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
/// The workload of the other sidecar, for telemetry. Exchanged between sidecars only; never reaches an application.
pub const PEER: HeaderName = HeaderName::from_static("x-isthmus-peer");
/// Sent by the destination's sidecar if the request never reached the application, so that any request may be retried.
/// Never reaches an application.
pub const UNPROCESSED: HeaderName = HeaderName::from_static("x-isthmus-unprocessed");

/// Milliseconds: the time limit of a request, for its destination.
const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// Headers that concern a single connection (RFC 9110 §7.6.1). `te` and `trailer` are handled separately.
const HOP_BY_HOP: [HeaderName; 5] =
    [header::CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE];

/// What sidecars send to each other with most messages: removed by name, which needs no allocation.
const SENT: [HeaderName; 2] = [PEER, UNPROCESSED];
/// Fields that `Connection` must not remove: the next hop needs them to read the message, or to know whom it is for.
const NEVER_HOP_BY_HOP: [HeaderName; 3] = [header::HOST, header::CONTENT_LENGTH, header::AUTHORIZATION];

/// The direction of a message, which decides the headers that only the mesh may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the upstream.
    Request,
    /// From the upstream.
    Response,
}

/// Removes hop-by-hop headers, the headers that `Connection` names, and the headers that only the mesh sets. Most heads have
/// none of them, so one pass over the names decides: looking up a dozen names costs some 1,500 instructions, the pass 200
/// (callgrind, November 2026).
pub fn end_hop(headers: &mut HeaderMap, direction: Direction) {
    let (mut hop, mut sent, mut forged) = (false, [false; 2], false);
    for name in headers.keys() {
        match name.as_str() {
            "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade" => hop = true,
            "x-isthmus-peer" => sent[0] = true,
            "x-isthmus-unprocessed" => sent[1] = true,
            name => forged |= is_of_mesh(name, direction),
        }
    }
    if hop {
        remove_hop_by_hop(headers);
    }
    for (name, _) in SENT.iter().zip(sent).filter(|(_, found)| *found) {
        headers.remove(name);
    }
    if forged {
        remove_of_mesh(headers, direction);
    }
}

/// Removes from trailers what a head could not have either: an application that merges both must not be deceived.
pub fn end_hop_of_trailers(trailers: &mut HeaderMap) {
    end_hop(trailers, Direction::Request);
    trailers.remove(header::HOST);
    trailers.remove(header::AUTHORIZATION);
}

/// Returns whether only the mesh sets a header. Many applications cannot tell `_` from `-` (CGI's variables), so both count.
fn is_of_mesh(name: &str, direction: Direction) -> bool {
    let name = name.as_bytes();
    if name.len() < 10 || name[0] != b'x' || !matches!(name[1], b'-' | b'_') {
        return false;
    }
    let begins = |with: &[u8]| {
        name.len() >= with.len() && name.iter().zip(with).all(|(a, b)| a == b || (*a == b'_' && *b == b'-'))
    };
    let is = |other: &[u8]| name.len() == other.len() && begins(other);
    match name[2] {
        b'i' => begins(b"x-isthmus-") || (direction == Direction::Request && begins(b"x-istio-")),
        // What Envoys exchange for the purpose of [`PEER`], and what they say about a request's origin.
        b'e' => {
            begins(b"x-envoy-peer-metadata")
                || direction == Direction::Request
                    && (is(b"x-envoy-internal")
                        || is(b"x-envoy-external-address")
                        || begins(b"x-envoy-downstream-service-")
                        || begins(b"x-envoy-original-"))
        }
        b'f' => direction == Direction::Request && is(b"x-forwarded-client-cert"),
        _ => false,
    }
}

/// Returns whether a server that is asked about a request may change a header of it, or of its response: neither one that
/// concerns the connection or the length of the message, nor one that only the mesh sets, nor the host, which was authorized.
pub fn is_changeable(name: &HeaderName, direction: Direction) -> bool {
    const FIXED: [HeaderName; 5] = [header::HOST, header::CONTENT_LENGTH, header::TE, header::TRAILER, header::EXPECT];
    !FIXED.contains(name) && !HOP_BY_HOP.contains(name) && !is_of_mesh(name.as_str(), direction)
}

fn remove_of_mesh(headers: &mut HeaderMap, direction: Direction) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| is_of_mesh(name.as_str(), direction)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let trailers = headers.get_all(header::TE).iter().any(|te| mentions(te, "trailers"));
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .filter(|name| !NEVER_HOP_BY_HOP.contains(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove(header::TE);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Returns whether a message asks to switch protocols (RFC 9110 §7.8). Both headers are lists.
pub fn upgrades(headers: &HeaderMap) -> bool {
    // Most requests have no `Connection`.
    headers.get_all(header::CONNECTION).iter().any(|value| mentions(value, "upgrade"))
        && headers.contains_key(header::UPGRADE)
}

/// Returns whether a comma-separated value has this member, ignoring case.
pub fn mentions(value: &HeaderValue, member: &str) -> bool {
    value.to_str().is_ok_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(member)))
}

/// Returns whether a request or response is gRPC.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Returns the `grpc-status` of trailers, or of a response without a body.
pub fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// Returns a number as a header value. Small numbers need no allocation.
pub fn number(number: u64) -> HeaderValue {
    const SMALL: [&str; 16] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"];
    match SMALL.get(usize::try_from(number).unwrap_or(usize::MAX)) {
        Some(small) => HeaderValue::from_static(small),
        None => HeaderValue::from(number),
    }
}

/// Adds a request ID to a request without one.
pub fn ensure_request_id(headers: &mut HeaderMap) {
    if !headers.contains_key(&REQUEST_ID)
        && let Ok(value) = HeaderValue::from_bytes(&random_uuid(rand::random()))
    {
        headers.insert(REQUEST_ID, value);
    }
}

/// Returns a UUID of version 4 (RFC 9562 §5.4).
fn random_uuid(bits: u128) -> [u8; 36] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let mut text = [b'-'; 36];
    let mut at = 0;
    for byte in bits.to_be_bytes() {
        if matches!(at, 8 | 13 | 18 | 23) {
            at += 1;
        }
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 0xf)];
        at += 2;
    }
    text
}

/// Returns the host of a request, with the port if there is one.
pub fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => headers.get(header::HOST)?.to_str().ok(),
    }
}

/// Replaces the authority of a request.
pub fn set_authority(head: &mut request::Parts, authority: &str) {
    let Ok(value) = HeaderValue::from_str(authority) else { return };
    if head.uri.authority().is_none() {
        head.headers.insert(header::HOST, value);
        return;
    }
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    if let Ok(authority) = authority.parse() {
        parts.authority = Some(authority);
    }
    head.uri = Uri::from_parts(parts).unwrap_or_default();
}

/// Announces the time limit of a request to its destination.
pub fn expect_timeout(headers: &mut HeaderMap, limit: HeaderValue) {
    headers.insert(EXPECTED_TIMEOUT, limit);
}

/// Returns a duration in milliseconds.
pub fn millis(duration: Duration) -> HeaderValue {
    number(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Returns the time limit of a request of gRPC: at most eight digits and a unit.
pub fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number =
        digits.parse().ok().filter(|_| digits.len() <= 8 && digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let limit = match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    Some(limit)
}

/// Converts a request's target to the form of the upstream's version: origin form and `Host` in HTTP/1.1, `:authority`
/// in HTTP/2. The request has one authority ([`super::settle`]).
pub fn retarget(head: &mut request::Parts, version: Version) {
    if version == Version::Http1 {
        head.version = http::Version::HTTP_11;
        // Most have that form already.
        if let Some(authority) = head.uri.authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            head.headers.insert(header::HOST, host);
            head.uri = origin_form(&head.uri);
        }
        return;
    }
    head.version = http::Version::HTTP_2;
    let Some(authority) = host(&head.uri, &head.headers).and_then(|host| host.parse::<uri::Authority>().ok()) else {
        return;
    };
    let mut parts = uri::Parts::default();
    parts.scheme = Some(uri::Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query =
        Some(head.uri.path_and_query().cloned().unwrap_or_else(|| uri::PathAndQuery::from_static("/")));
    if let Ok(target) = Uri::from_parts(parts) {
        head.uri = target;
        head.headers.remove(header::HOST);
    }
}

/// Returns the target of a URI for a message whose authority is in a header.
pub(super) fn origin_form(uri: &Uri) -> Uri {
    let mut parts = uri::Parts::default();
    let path = uri.path_and_query().filter(|path| path.as_str().starts_with(['/', '*'])).cloned();
    parts.path_and_query = path.or_else(|| format!("/{}", uri.path_and_query()?.as_str()).parse().ok());
    parts.path_and_query.get_or_insert(uri::PathAndQuery::from_static("/"));
    Uri::from_parts(parts).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn hop_by_hop_headers_are_removed() {
        let mut headers = map(&[
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("te", "gzip, trailers"),
            ("trailer", "x-sum"),
            ("accept", "*/*"),
        ]);
        end_hop(&mut headers, Direction::Request);
        assert_eq!(headers, map(&[("te", "trailers"), ("trailer", "x-sum"), ("accept", "*/*")]));
    }

    #[test]
    fn headers_that_only_the_mesh_sets_are_removed_in_every_spelling() {
        let forged = [
            "x-isthmus-peer",
            "x_isthmus_unprocessed",
            "x-envoy-peer-metadata",
            "x-envoy_peer-metadata-id",
            "x-forwarded-client-cert",
            "x_forwarded_client_cert",
            "x-forwarded_client-cert",
            "x-envoy-internal",
            "x-envoy-external-address",
            "x-envoy-original-path",
            "x-istio-attributes",
        ];
        let headers: HeaderMap =
            forged.iter().map(|name| (name.parse().unwrap(), HeaderValue::from_static("a"))).collect();
        let mut request = headers.clone();
        end_hop(&mut request, Direction::Request);
        assert!(request.is_empty(), "{request:?}");
        let mut response = headers;
        end_hop(&mut response, Direction::Response);
        for gone in ["x-isthmus-peer", "x_isthmus_unprocessed", "x-envoy-peer-metadata", "x-envoy_peer-metadata-id"] {
            assert!(!response.contains_key(gone), "{gone}");
        }
        let kept =
            ["x-forwarded-client", "x-forwarded-for", "x-envoy-attempt-count", "x-request-id", "x-i", "xisthmus-peer"];
        let mut others: HeaderMap =
            kept.iter().map(|name| (name.parse().unwrap(), HeaderValue::from_static("a"))).collect();
        end_hop(&mut others, Direction::Request);
        assert_eq!(others.len(), kept.len());
    }

    #[test]
    fn connection_removes_what_it_names_but_not_what_the_next_hop_needs() {
        let mut headers = map(&[
            ("connection", "host, content-length"),
            ("connection", "authorization, x-private"),
            ("host", "reviews"),
            ("content-length", "0"),
            ("authorization", "Bearer"),
            ("x-private", "1"),
        ]);
        headers.append("connection", HeaderValue::from_static("host"));
        end_hop(&mut headers, Direction::Request);
        assert_eq!(headers, map(&[("host", "reviews"), ("content-length", "0"), ("authorization", "Bearer")]));
    }

    #[test]
    fn trailers_cannot_name_an_identity() {
        let mut trailers =
            map(&[("x-forwarded-client-cert", "a"), ("host", "b"), ("x-sum", "1"), ("connection", "x-sum2")]);
        end_hop_of_trailers(&mut trailers);
        assert_eq!(trailers, map(&[("x-sum", "1")]));
    }

    #[test]
    fn request_ids_are_uuids_of_version_4() {
        assert_eq!(&random_uuid(0), b"00000000-0000-4000-8000-000000000000");
        assert_eq!(&random_uuid(u128::MAX), b"ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(&random_uuid(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef), b"01234567-89ab-4def-8123-456789abcdef");
        let mut headers = map(&[("x-request-id", "existing")]);
        ensure_request_id(&mut headers);
        assert_eq!(headers["x-request-id"], "existing");
    }

    #[test]
    fn time_limits_of_clients_are_read() {
        for (text, expected) in [
            ("1S", Some(1_000_000_000)),
            ("100m", Some(100_000_000)),
            ("99999999H", Some(359_999_996_400_000_000_000)),
            ("7u", Some(7_000)),
            ("7n", Some(7)),
            ("2M", Some(120_000_000_000)),
            ("123456789S", None),
            ("1s", None),
            ("S", None),
            ("-1S", None),
            ("+1S", None),
            ("1é", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_bytes(text.as_bytes()).unwrap());
            assert_eq!(grpc_timeout(&headers).map(|limit| limit.as_nanos()), expected, "{text}");
        }
    }

    #[test]
    fn an_authority_is_replaced_where_it_is() {
        let mut head = http::Request::get("http://a:1/x?y").body(()).unwrap().into_parts().0;
        set_authority(&mut head, "b");
        assert_eq!(head.uri, "http://b/x?y");
        let mut head = http::Request::get("/x").header("host", "a").body(()).unwrap().into_parts().0;
        set_authority(&mut head, "b:2");
        assert_eq!((head.uri.to_string().as_str(), &head.headers["host"]), ("/x", &HeaderValue::from_static("b:2")));
    }

    #[test]
    fn request_targets_have_the_form_of_the_version() {
        let head = |target: &str, host: Option<&str>| {
            let request = http::Request::get(target);
            let request = host.map_or(http::Request::get(target), |host| request.header("host", host));
            request.body(()).unwrap().into_parts().0
        };
        let mut request = head("/a?b=c", Some("reviews:9080"));
        retarget(&mut request, Version::Http2);
        assert_eq!(
            (request.uri.to_string().as_str(), request.version),
            ("http://reviews:9080/a?b=c", http::Version::HTTP_2)
        );
        assert!(request.headers.is_empty());
        retarget(&mut request, Version::Http1);
        assert_eq!((request.uri.to_string().as_str(), request.version), ("/a?b=c", http::Version::HTTP_11));
        assert_eq!(request.headers["host"], "reviews:9080");
        let mut request = head("http://reviews/x", None);
        retarget(&mut request, Version::Http1);
        assert_eq!(request.uri, "/x");
        assert_eq!(request.headers["host"], "reviews");
    }
}
