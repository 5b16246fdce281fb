//! Requests that are refused before they are routed, because the next reader could understand them differently.
//!
//! A request has one authority, which the route, the policies and the application see alike (RFC 9112 §3.2, RFC 9113 §8.3.1).
//! Statuses and details of refusals are Envoy's where it has them.

use std::net::SocketAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Version, uri};
use http_body::Body;

use super::headers::{self, origin_form};
use super::paths::{self, PathNormalization};

/// The settings of an upgrade to cleartext HTTP/2, which is ignored (RFC 9113 §3.1 has removed it).
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Why a request is refused: the client's fault, so neither a reason for a retry nor against an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// Neither `Host` nor `:authority`.
    #[error("the request has no Host header")]
    NoHost,
    /// `Host` more than once.
    #[error("the request has more than one Host header")]
    SeveralHosts,
    /// `Host` or `:authority` is not a host with an optional port.
    #[error("the host of the request is not valid")]
    InvalidHost,
    /// `Host` and `:authority` differ.
    #[error("the request has a Host header that differs from its :authority")]
    ConflictingHosts,
    /// The target has no form that its method permits.
    #[error("the target of the request is not valid")]
    InvalidTarget,
    /// A transfer coding other than `chunked`.
    #[error("the request has a transfer coding other than chunked")]
    TransferCoding,
    /// `CONNECT`, or an upgrade to another protocol than WebSocket.
    #[error("the request asks for a tunnel other than WebSocket")]
    Tunnel,
}

impl InvalidRequest {
    /// Returns the status of the response.
    pub fn status(self) -> StatusCode {
        match self {
            Self::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::Tunnel => StatusCode::FORBIDDEN,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// Returns Envoy's response code details.
    pub fn details(self) -> &'static str {
        match self {
            Self::NoHost => "missing_host_header",
            Self::SeveralHosts | Self::InvalidHost | Self::ConflictingHosts => "invalid_authority",
            Self::InvalidTarget => "path_normalization_failed",
            Self::TransferCoding => "http1.invalid_transfer_encoding",
            Self::Tunnel => "upgrade_failed",
        }
    }
}

/// Checks a request, normalises its path, trims its headers, and gives it one authority: afterwards it is either in the URI or in
/// one `Host` header. `destination` is the address of the connection, which a request of HTTP/1.0 without a host is for (RFC
/// 9112 §3.3). Returns whether the request asks for an upgrade to WebSocket.
///
/// # Errors
/// Returns an error if the request is not valid, or asks for what no route allows.
pub fn settle<B: Body>(
    request: &mut Request<B>,
    destination: SocketAddr,
    form: PathNormalization,
) -> Result<bool, InvalidRequest> {
    let mut upgrade = false;
    if *request.method() == Method::CONNECT {
        return Err(InvalidRequest::Tunnel);
    }
    let seen = Seen::of(request.headers());
    if seen.padded {
        trim(request.headers_mut());
    }
    if request.version() != Version::HTTP_2 {
        if seen.connection {
            upgrade = settle_upgrade(request)?;
        }
        // Only a chunked body has no known length.
        if request.body().size_hint().exact().is_none() && !is_chunked(request.headers()) {
            return Err(InvalidRequest::TransferCoding);
        }
    }
    let asterisk = request.uri().path() == "*";
    if request.uri().authority().is_some() {
        settle_absolute(request, &seen.host, asterisk)?;
    } else if asterisk && *request.method() != Method::OPTIONS {
        return Err(InvalidRequest::InvalidTarget);
    } else {
        settle_host(request, seen.host, destination)?;
    }
    paths::normalize(request.uri_mut(), form).map_err(|paths::EncodedNul| InvalidRequest::InvalidTarget)?;
    Ok(upgrade)
}

/// What one pass over the headers of a request finds: it costs less than the lookup of one header.
struct Seen {
    host: Host,
    /// There is a `Connection`. Most requests have none.
    connection: bool,
    /// A value begins or ends with whitespace, which HTTP/2 forbids (RFC 9113 §8.2.1) and h2 does not check.
    padded: bool,
}

/// The `Host` headers of a request.
enum Host {
    Absent,
    Empty,
    Valid,
    Invalid,
    Several,
}

impl Seen {
    fn of(headers: &HeaderMap) -> Self {
        let mut seen = Self { host: Host::Absent, connection: false, padded: false };
        for (name, value) in headers {
            seen.padded |= matches!(value.as_bytes(), [b' ' | b'\t', ..] | [.., b' ' | b'\t']);
            if *name == header::HOST {
                seen.host = match seen.host {
                    Host::Absent if value.is_empty() => Host::Empty,
                    Host::Absent if is_valid_host(value.as_bytes()) => Host::Valid,
                    Host::Absent => Host::Invalid,
                    _ => Host::Several,
                };
            } else if *name == header::CONNECTION {
                seen.connection = true;
            }
        }
        seen
    }
}

/// Removes whitespace around the values of headers, as parsers of HTTP/1.1 do: an application of HTTP/1.1 would, and policies and
/// routes must compare the same value.
fn trim(headers: &mut HeaderMap) {
    for value in headers.values_mut() {
        let trimmed = value.as_bytes().trim_ascii();
        if trimmed.len() < value.len()
            && let Ok(trimmed) = HeaderValue::from_bytes(trimmed)
        {
            *value = trimmed;
        }
    }
}

/// Refuses upgrades to other protocols than WebSocket; Istio's sidecars permit no other. An upgrade to HTTP/2 is ignored, and
/// so is any in HTTP/1.0. Returns whether the request asks for WebSocket.
fn settle_upgrade<B>(request: &mut Request<B>) -> Result<bool, InvalidRequest> {
    let http11 = request.version() == Version::HTTP_11;
    let headers = request.headers_mut();
    if !headers::upgrades(headers) || !http11 {
        return Ok(false);
    }
    let mut protocols = headers.get_all(header::UPGRADE).iter();
    let (protocol, others) = (protocols.next(), protocols.next().is_some());
    let is =
        |name: &str| !others && protocol.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(name.as_bytes()));
    if is("websocket") {
        return Ok(true);
    }
    if !is("h2c") {
        return Err(InvalidRequest::Tunnel);
    }
    headers.remove(header::UPGRADE);
    headers.remove(HTTP2_SETTINGS);
    Ok(false)
}

/// Returns whether `chunked` is the only transfer coding.
pub(crate) fn is_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let chunked = codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    chunked && codings.next().is_none()
}

/// A request whose URI has an authority: `:authority`, or the absolute form, whose authority takes the place of `Host`.
fn settle_absolute<B>(request: &mut Request<B>, host: &Host, asterisk: bool) -> Result<(), InvalidRequest> {
    if matches!(host, Host::Several) {
        return Err(InvalidRequest::SeveralHosts);
    }
    let absent = matches!(host, Host::Absent);
    let uri = request.uri();
    // `GET example.com` is the form of CONNECT.
    let Some(scheme) = uri.scheme_str() else { return Err(InvalidRequest::InvalidTarget) };
    if !matches!(scheme, "http" | "https") || (asterisk && *request.method() != Method::OPTIONS) {
        return Err(InvalidRequest::InvalidTarget);
    }
    let authority = uri.authority().map(uri::Authority::as_str).unwrap_or_default();
    if !is_valid_host(authority.as_bytes()) {
        return Err(InvalidRequest::InvalidHost);
    }
    if request.version() == Version::HTTP_2 {
        if absent {
            return Ok(());
        }
        let host = request.headers().get(header::HOST);
        if host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes())) {
            return Err(InvalidRequest::ConflictingHosts);
        }
        request.headers_mut().remove(header::HOST);
        return Ok(());
    }
    if absent && request.version() == Version::HTTP_11 {
        return Err(InvalidRequest::NoHost);
    }
    let host = HeaderValue::from_str(authority).map_err(|_| InvalidRequest::InvalidHost)?;
    *request.uri_mut() = origin_form(uri);
    request.headers_mut().insert(header::HOST, host);
    Ok(())
}

/// A request whose URI has no authority.
fn settle_host<B>(request: &mut Request<B>, host: Host, destination: SocketAddr) -> Result<(), InvalidRequest> {
    match host {
        Host::Valid => Ok(()),
        Host::Invalid => Err(InvalidRequest::InvalidHost),
        Host::Several => Err(InvalidRequest::SeveralHosts),
        Host::Absent if request.version() != Version::HTTP_10 => Err(InvalidRequest::NoHost),
        Host::Empty | Host::Absent => {
            let host = HeaderValue::from_str(&destination.to_string()).map_err(|_| InvalidRequest::InvalidHost)?;
            request.headers_mut().insert(header::HOST, host);
            Ok(())
        }
    }
}

/// Returns whether a value is a host and an optional port: `uri-host [ ":" port ]` of RFC 9110 §7.2. Userinfo is not part of it.
fn is_valid_host(value: &[u8]) -> bool {
    let is_port = |port: &[u8]| port.iter().all(u8::is_ascii_digit);
    if let [b'[', ..] = value {
        let Some(end) = value.iter().position(|byte| *byte == b']') else { return false };
        let address = std::str::from_utf8(&value[1..end]).ok().and_then(|ip| ip.parse::<std::net::Ipv6Addr>().ok());
        return match &value[end + 1..] {
            [] => address.is_some(),
            [b':', port @ ..] => address.is_some() && is_port(port),
            _ => false,
        };
    }
    match value.iter().position(|byte| !OF_NAME[usize::from(*byte)]) {
        None => !value.is_empty(),
        Some(0) => false,
        Some(end) => value[end] == b':' && is_port(&value[end + 1..]),
    }
}

/// The bytes of a name (`reg-name` of RFC 3986 §3.2.2), but not the comma, with which two names could pass for one.
const OF_NAME: [bool; 256] = {
    let (mut of_name, mut at, others) = ([false; 256], 0, b"-._~!$&'()*+;=%");
    while at < 256 {
        of_name[at] = (at as u8).is_ascii_alphanumeric();
        at += 1;
    }
    at = 0;
    while at < others.len() {
        of_name[others[at] as usize] = true;
        at += 1;
    }
    of_name
};

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Empty;

    type Settled = Result<(String, Option<String>), InvalidRequest>;

    fn settled(version: Version, method: &str, target: &str, headers: &[(&str, &str)]) -> Settled {
        let mut request = Request::builder().version(version).method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
        let _ = settle(&mut request, "10.0.0.1:9080".parse().unwrap(), PathNormalization::default())?;
        assert!(request.headers().get_all("host").iter().count() <= 1);
        assert!(request.uri().authority().is_none() || !request.headers().contains_key("host"));
        let host = headers::host(request.uri(), request.headers()).map(str::to_owned);
        Ok((request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(), host))
    }

    fn ok(target: &str, host: &str) -> Settled {
        Ok((target.to_owned(), Some(host.to_owned())))
    }

    #[test]
    fn a_request_of_http1_has_one_host() {
        use InvalidRequest::{InvalidHost, InvalidTarget, NoHost, SeveralHosts};
        let get = |target: &str, headers: &[(&str, &str)]| settled(Version::HTTP_11, "GET", target, headers);
        assert_eq!(get("/a?b", &[("host", "reviews:9080")]), ok("/a?b", "reviews:9080"));
        assert_eq!(get("http://admin/a?b", &[("host", "reviews")]), ok("/a?b", "admin"));
        assert_eq!(get("http://admin?b", &[("host", "reviews")]), ok("/?b", "admin"));
        assert_eq!(get("http://admin", &[("host", "reviews")]), ok("/", "admin"));
        assert_eq!(get("/", &[("host", "")]), ok("/", "10.0.0.1:9080"), "an empty Host names no authority");
        assert_eq!(get("/", &[]), Err(NoHost));
        assert_eq!(get("http://admin/", &[]), Err(NoHost));
        assert_eq!(get("/", &[("host", "a"), ("host", "b")]), Err(SeveralHosts));
        assert_eq!(get("/", &[("host", "a"), ("host", "a")]), Err(SeveralHosts));
        assert_eq!(get("http://admin/", &[("host", "a"), ("host", "b")]), Err(SeveralHosts));
        for host in ["a b", "a/b", "user@a", "a,b", "a:b", "a:1:2", ":80", "[::1", "[::1]x", "[a]", "a\"b"] {
            assert_eq!(get("/", &[("host", host)]), Err(InvalidHost), "{host}");
        }
        for host in ["[::1]:80", "[::1]", "a.b.", "A-1_x", "10.0.0.1:80", "a:"] {
            assert_eq!(get("/", &[("host", host)]), ok("/", host), "{host}");
        }
        assert_eq!(get("http://user@admin/", &[("host", "a")]), Err(InvalidHost));
        for target in ["admin", "admin:80", "*", "ftp://a/"] {
            assert_eq!(get(target, &[("host", "a")]), Err(InvalidTarget), "{target}");
        }
        assert_eq!(settled(Version::HTTP_11, "OPTIONS", "*", &[("host", "a")]), ok("*", "a"));
    }

    #[test]
    fn a_request_of_http_1_0_without_a_host_is_for_the_address_of_the_connection() {
        assert_eq!(settled(Version::HTTP_10, "GET", "/a", &[]), ok("/a", "10.0.0.1:9080"));
        assert_eq!(settled(Version::HTTP_10, "GET", "/a", &[("host", "a")]), ok("/a", "a"));
        assert_eq!(settled(Version::HTTP_10, "GET", "http://b/a", &[]), ok("/a", "b"));
    }

    #[test]
    fn a_request_of_http2_has_one_authority() {
        use InvalidRequest::{ConflictingHosts, InvalidHost, NoHost, SeveralHosts};
        let get = |target: &str, headers: &[(&str, &str)]| settled(Version::HTTP_2, "GET", target, headers);
        assert_eq!(get("http://reviews/a", &[]), ok("/a", "reviews"));
        assert_eq!(get("http://reviews/a", &[("host", "Reviews")]), ok("/a", "reviews"));
        assert_eq!(get("http://reviews/a", &[("host", "admin")]), Err(ConflictingHosts));
        assert_eq!(get("/a", &[("host", "reviews")]), ok("/a", "reviews"));
        assert_eq!(get("/a", &[("host", "a"), ("host", "b")]), Err(SeveralHosts));
        assert_eq!(get("/a", &[]), Err(NoHost));
        assert_eq!(get("http://user@reviews/a", &[]), Err(InvalidHost));
    }

    #[test]
    fn values_of_headers_have_no_whitespace_around_them() {
        let mut request = Request::builder().version(Version::HTTP_2).uri("http://reviews/");
        for value in ["admin", "admin ", "\tadmin", " \t admin \t", " ", "a b"] {
            request = request.header("x-user", value);
        }
        let mut request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
        let destination = "10.0.0.1:9080".parse().unwrap();
        assert_eq!(settle(&mut request, destination, PathNormalization::default()), Ok(false));
        let values: Vec<_> = request.headers().get_all("x-user").iter().collect();
        assert_eq!(values, ["admin", "admin", "admin", "admin", "", "a b"]);
        let padded = settled(Version::HTTP_2, "GET", "/a", &[("host", "reviews ")]);
        assert_eq!(padded, Err(InvalidRequest::InvalidHost));
    }

    #[test]
    fn only_an_upgrade_to_websocket_is_permitted() {
        let upgrade = |headers: &[(&str, &str)]| {
            let headers = [&[("host", "a")], headers].concat();
            settled(Version::HTTP_11, "GET", "/", &headers).map(|_| ())
        };
        assert_eq!(upgrade(&[("connection", "upgrade"), ("upgrade", "WebSocket")]), Ok(()));
        assert_eq!(
            upgrade(&[("connection", "keep-alive"), ("connection", "Upgrade"), ("upgrade", "tls/1.0")]),
            Err(InvalidRequest::Tunnel)
        );
        assert_eq!(upgrade(&[("connection", "upgrade"), ("upgrade", "h2c, websocket")]), Err(InvalidRequest::Tunnel));
        assert_eq!(
            upgrade(&[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "a")]),
            Err(InvalidRequest::Tunnel)
        );
        assert_eq!(upgrade(&[("connection", "upgrade, http2-settings"), ("upgrade", "h2c")]), Ok(()));
        assert_eq!(upgrade(&[("upgrade", "a")]), Ok(()), "not an upgrade without Connection");
        assert_eq!(settled(Version::HTTP_11, "CONNECT", "a:80", &[("host", "a")]), Err(InvalidRequest::Tunnel));
        assert_eq!(settled(Version::HTTP_2, "CONNECT", "a:80", &[]), Err(InvalidRequest::Tunnel));
    }
}
