//! Headers of requests and responses: hop-by-hop headers, headers of the mesh, and headers that are not trusted.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Uri, request, uri};

use super::Version;

/// The caller's identity, as the destination's sidecar verified it (Envoy's XFCC).
pub const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// The scheme of the original client: `http` or `https`.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The request ID, the same on every hop.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The number of the attempt, from 1.
pub const ATTEMPTS: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
/// Milliseconds until the upstream's response began.
pub const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
/// The workload of the other sidecar, for telemetry. Exchanged between sidecars only; never reaches an application.
pub const PEER: HeaderName = HeaderName::from_static("x-isthmus-peer");
/// Sent by the destination's sidecar if the request never reached the application, so that any request may be retried.
/// Never reaches an application.
pub const UNPROCESSED: HeaderName = HeaderName::from_static("x-isthmus-unprocessed");

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Headers that must not leave the mesh. Envoys exchange the last two for the purpose of [`PEER`].
const MESH: [HeaderName; 4] = [
    PEER,
    UNPROCESSED,
    HeaderName::from_static("x-envoy-peer-metadata"),
    HeaderName::from_static("x-envoy-peer-metadata-id"),
];

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// Headers that concern a single connection (RFC 9110 §7.6.1). `te` and `trailer` are handled separately.
const HOP_BY_HOP: [HeaderName; 5] =
    [header::CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE];

/// Removes hop-by-hop headers, the headers that `Connection` names, and the headers that sidecars exchange. Most heads have
/// none of them, so one pass over the names decides: looking up a dozen names costs some 1,500 instructions, the pass 200
/// (callgrind, November 2026).
pub fn end_hop(headers: &mut HeaderMap) {
    let (mut hop, mut mesh) = (false, [false; 4]);
    for name in headers.keys() {
        match name.as_str() {
            "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade" => hop = true,
            "x-isthmus-peer" => mesh[0] = true,
            "x-isthmus-unprocessed" => mesh[1] = true,
            "x-envoy-peer-metadata" => mesh[2] = true,
            "x-envoy-peer-metadata-id" => mesh[3] = true,
            _ => {}
        }
    }
    if hop {
        remove_hop_by_hop(headers);
    }
    for (name, _) in MESH.iter().zip(mesh).filter(|(_, found)| *found) {
        headers.remove(name);
    }
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let trailers = headers.get(header::TE).is_some_and(|te| mentions(te, "trailers"));
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
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

/// Converts a request's target to the form of the upstream's version: origin form and `Host` in HTTP/1.1, `:authority`
/// in HTTP/2.
pub fn retarget(head: &mut request::Parts, version: Version) {
    let http2 = version == Version::Http2;
    head.version = if http2 { http::Version::HTTP_2 } else { http::Version::HTTP_11 };
    if !http2 && head.uri.authority().is_none() {
        // It already has that form.
        return;
    }
    let authority = host(&head.uri, &head.headers).and_then(|host| host.parse::<uri::Authority>().ok());
    let path = head.uri.path_and_query().cloned().unwrap_or_else(|| uri::PathAndQuery::from_static("/"));
    let mut parts = uri::Parts::default();
    parts.path_and_query = Some(path);
    if http2 {
        head.headers.remove(header::HOST);
        if let Some(authority) = authority {
            parts.scheme = Some(uri::Scheme::HTTP);
            parts.authority = Some(authority);
        }
    } else if let Some(authority) = authority
        && let Ok(value) = HeaderValue::from_str(authority.as_str())
    {
        head.headers.entry(header::HOST).or_insert(value);
    }
    // `CONNECT` and `OPTIONS *` keep their form.
    let special = head.method == http::Method::CONNECT || head.uri.path() == "*";
    if !special && let Ok(target) = Uri::from_parts(parts) {
        head.uri = target;
    }
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
        end_hop(&mut headers);
        assert_eq!(headers, map(&[("te", "trailers"), ("trailer", "x-sum"), ("accept", "*/*")]));
    }

    #[test]
    fn headers_of_sidecars_are_removed() {
        let mut headers =
            map(&[("x-isthmus-peer", "a"), ("x-envoy-peer-metadata", "b"), ("x-isthmus-unprocessed", "UF")]);
        end_hop(&mut headers);
        assert!(headers.is_empty());
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
