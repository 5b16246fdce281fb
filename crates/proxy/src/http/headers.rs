//! Heads of requests and responses: what ends at a hop, what the mesh adds, and what must not be believed.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Uri, Version, uri};

/// Who called, as the called sidecar found out (Envoy's XFCC).
pub const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// `http` or `https`: how the original client came.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// One id for a request wherever it is seen.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How many attempts this one is.
pub const ATTEMPTS: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
/// Milliseconds until the upstream's response began.
pub const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
/// Between two sidecars: which workload the other one belongs to, for telemetry. Never reaches an application.
pub const PEER: HeaderName = HeaderName::from_static("x-isthmus-peer");
/// From the called sidecar: the request never reached the application, so that it can be sent elsewhere whatever it is.
/// Never reaches an application.
pub const UNPROCESSED: HeaderName = HeaderName::from_static("x-isthmus-unprocessed");

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// What must not leave the mesh. The last two are between Envoys, for the same as [`PEER`].
const MESH: [HeaderName; 4] = [
    PEER,
    UNPROCESSED,
    HeaderName::from_static("x-envoy-peer-metadata"),
    HeaderName::from_static("x-envoy-peer-metadata-id"),
];

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// RFC 9110 §7.6.1: fields that concern one connection. `te` and `trailer` are dealt with apart.
const HOP_BY_HOP: [HeaderName; 5] =
    [header::CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE];

/// Removes what concerns one connection only, what `Connection` names, and what only sidecars say to each other. Most
/// heads have none of it, which one pass over their names tells: looking up each of a dozen names costs some 1,500
/// instructions, the pass 200 (callgrind, November 2026).
pub fn end_here(headers: &mut HeaderMap) {
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
        end_hop(headers);
    }
    for (name, _) in MESH.iter().zip(mesh).filter(|(_, found)| *found) {
        headers.remove(name);
    }
}

fn end_hop(headers: &mut HeaderMap) {
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

/// Whether a comma-separated value has this member.
pub fn mentions(value: &HeaderValue, member: &str) -> bool {
    value.to_str().is_ok_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(member)))
}

/// Whether a request or response is gRPC.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The `grpc-status`, in trailers or in a response that has nothing else.
pub fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// A number as a value. Small ones need no memory.
pub fn number(number: u64) -> HeaderValue {
    const SMALL: [&str; 16] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"];
    match SMALL.get(usize::try_from(number).unwrap_or(usize::MAX)) {
        Some(small) => HeaderValue::from_static(small),
        None => HeaderValue::from(number),
    }
}

/// Gives a request an id if it has none.
pub fn identify(headers: &mut HeaderMap) {
    if !headers.contains_key(&REQUEST_ID)
        && let Ok(value) = HeaderValue::from_bytes(&random_uuid(rand::random()))
    {
        headers.insert(REQUEST_ID, value);
    }
}

/// A UUID of version 4 (RFC 9562 §5.4).
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

/// The host that a request asks for, with the port if there is one.
pub fn host<B>(request: &Request<B>) -> Option<&str> {
    match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => request.headers().get(header::HOST)?.to_str().ok(),
    }
}

/// Writes a request's target as the upstream's version has it: origin form and `Host` in HTTP/1.1, `:authority` in
/// HTTP/2.
pub fn retarget<B>(request: &mut Request<B>, version: Version) {
    if version == Version::HTTP_11 && request.uri().authority().is_none() {
        // It has that form already.
        *request.version_mut() = version;
        return;
    }
    let authority = host(request).and_then(|host| host.parse::<uri::Authority>().ok());
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| uri::PathAndQuery::from_static("/"));
    let mut parts = uri::Parts::default();
    parts.path_and_query = Some(path);
    if version == Version::HTTP_2 {
        request.headers_mut().remove(header::HOST);
        if let Some(authority) = authority {
            parts.scheme = Some(uri::Scheme::HTTP);
            parts.authority = Some(authority);
        }
    } else if let Some(authority) = authority
        && let Ok(value) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().entry(header::HOST).or_insert(value);
    }
    // `CONNECT` and `OPTIONS *` keep their form.
    let special = request.method() == http::Method::CONNECT || request.uri().path() == "*";
    if !special && let Ok(target) = Uri::from_parts(parts) {
        *request.uri_mut() = target;
    }
    *request.version_mut() = version;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn hop_by_hop_fields_end_here() {
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
        end_here(&mut headers);
        assert_eq!(headers, map(&[("te", "trailers"), ("trailer", "x-sum"), ("accept", "*/*")]));
    }

    #[test]
    fn what_sidecars_say_ends_with_them() {
        let mut headers =
            map(&[("x-isthmus-peer", "a"), ("x-envoy-peer-metadata", "b"), ("x-isthmus-unprocessed", "UF")]);
        end_here(&mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn ids_are_uuids_of_version_4() {
        assert_eq!(&random_uuid(0), b"00000000-0000-4000-8000-000000000000");
        assert_eq!(&random_uuid(u128::MAX), b"ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(&random_uuid(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef), b"01234567-89ab-4def-8123-456789abcdef");
        let mut headers = map(&[("x-request-id", "mine")]);
        identify(&mut headers);
        assert_eq!(headers["x-request-id"], "mine");
    }

    #[test]
    fn targets_change_form_with_the_version() {
        let mut request = Request::get("/a?b=c").header("host", "reviews:9080").body(()).unwrap();
        retarget(&mut request, Version::HTTP_2);
        assert_eq!(request.uri(), "http://reviews:9080/a?b=c");
        assert!(request.headers().is_empty());
        retarget(&mut request, Version::HTTP_11);
        assert_eq!(request.uri(), "/a?b=c");
        assert_eq!(request.headers()["host"], "reviews:9080");
        let mut request = Request::get("http://reviews/x").body(()).unwrap();
        retarget(&mut request, Version::HTTP_11);
        assert_eq!(
            (request.uri().to_string().as_str(), &request.headers()["host"]),
            ("/x", &HeaderValue::from_static("reviews"))
        );
    }
}
