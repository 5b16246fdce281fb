//! Where tokens are in a request: headers, query parameters and cookies.

use std::borrow::Cow;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header, request};
use percent_encoding::percent_decode_str;

/// A place of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenLocation {
    /// A header.
    Header {
        /// The name.
        name: HeaderName,
        /// What precedes the token; empty: nothing.
        prefix: Box<str>,
    },
    /// A query parameter.
    Parameter(Box<str>),
    /// A cookie.
    Cookie(Box<str>),
}

impl TokenLocation {
    /// Returns the places of a rule that names none.
    pub(super) fn default_ones() -> [Self; 2] {
        [
            TokenLocation::Header { name: header::AUTHORIZATION, prefix: "Bearer ".into() },
            TokenLocation::Parameter("access_token".into()),
        ]
    }

    /// Calls `found` with each token at this place.
    pub(super) fn each_token<'a>(&self, head: &'a request::Parts, mut found: impl FnMut(Cow<'a, [u8]>)) {
        match self {
            TokenLocation::Header { name, prefix } => {
                let mut values = head.headers.get_all(name).iter();
                let (Some(first), second) = (values.next(), values.next()) else { return };
                if second.is_some() && *name == header::AUTHORIZATION {
                    // A request has one (RFC 9110 §11.6.2). Envoy joins several by commas, which is no token.
                    let all = head.headers.get_all(name).iter().map(HeaderValue::as_bytes);
                    let joined = all.collect::<Vec<_>>().join(&b',');
                    if let Some(token) = after(&joined, prefix) {
                        found(Cow::Owned(token.to_vec()));
                    }
                    return;
                }
                let all = [Some(first), second].into_iter().flatten().chain(values);
                all.filter_map(|value| after(value.as_bytes(), prefix)).for_each(|token| found(Cow::Borrowed(token)));
            }
            TokenLocation::Parameter(name) => {
                for (key, value) in parameters(head.uri.query()) {
                    if is_named(key, name) {
                        found(decoded(value));
                    }
                }
            }
            TokenLocation::Cookie(name) => {
                for (key, value) in cookies(&head.headers) {
                    if key == name.as_bytes() {
                        let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
                        found(Cow::Borrowed(quoted.unwrap_or(value)));
                    }
                }
            }
        }
    }

    /// Removes what is at this place.
    pub(super) fn remove(&self, head: &mut request::Parts) {
        match self {
            TokenLocation::Header { name, .. } => {
                head.headers.remove(name);
            }
            TokenLocation::Parameter(name) => remove_parameter(&mut head.uri, name),
            TokenLocation::Cookie(name) => remove_cookie(&mut head.headers, name),
        }
    }
}

/// Returns what follows `prefix` in a value, from the first character that a token can have, as Envoy does: the prefix may
/// be anywhere, and a value that ends with it is returned whole.
fn after<'a>(value: &'a [u8], prefix: &str) -> Option<&'a [u8]> {
    if prefix.is_empty() {
        return Some(value);
    }
    let prefix = prefix.as_bytes();
    let end = value.windows(prefix.len()).position(|window| window == prefix)? + prefix.len();
    let is_of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let start = value[end..].iter().position(is_of_token);
    Some(start.map_or(value, |start| &value[end + start..]))
}

fn parameters(query: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    let all = query.into_iter().flat_map(|query| query.split('&'));
    all.map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
}

fn is_named(key: &str, name: &str) -> bool {
    key == name || (key.contains('%') && percent_decode_str(key).eq(name.bytes()))
}

fn decoded(value: &str) -> Cow<'_, [u8]> {
    percent_decode_str(value).into()
}

/// The cookies of all `cookie` headers: HTTP/2 may split them.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let values = headers.get_all(header::COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    values.filter_map(|cookie| {
        let cookie = cookie.trim_ascii();
        let equals = cookie.iter().position(|byte| *byte == b'=')?;
        Some((cookie[..equals].trim_ascii(), cookie[equals + 1..].trim_ascii()))
    })
}

fn remove_parameter(uri: &mut Uri, name: &str) {
    let Some(query) = uri.query() else { return };
    let kept = query.split('&').filter(|parameter| {
        let (key, _) = parameter.split_once('=').unwrap_or((parameter, ""));
        !is_named(key, name)
    });
    let kept = kept.collect::<Vec<_>>().join("&");
    let text = if kept.is_empty() { uri.path().to_owned() } else { format!("{}?{kept}", uri.path()) };
    let mut parts = uri.clone().into_parts();
    // What is left of a valid target is valid.
    parts.path_and_query = PathAndQuery::try_from(text).ok();
    if let Ok(changed) = Uri::from_parts(parts) {
        *uri = changed;
    }
}

fn remove_cookie(headers: &mut HeaderMap, name: &str) {
    let values: Vec<HeaderValue> = headers.get_all(header::COOKIE).iter().cloned().collect();
    headers.remove(header::COOKIE);
    for value in values {
        let is_kept = |cookie: &&[u8]| {
            let key = cookie.split(|byte| *byte == b'=').next().unwrap_or_default();
            key.trim_ascii() != name.as_bytes()
        };
        let kept = value.as_bytes().split(|byte| *byte == b';').filter(is_kept).map(<[u8]>::trim_ascii);
        let kept = kept.collect::<Vec<_>>().join(b"; ".as_slice());
        if let (false, Ok(value)) = (kept.is_empty(), HeaderValue::from_bytes(&kept)) {
            headers.append(header::COOKIE, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(target: &str, headers: &[(&str, &str)]) -> request::Parts {
        let request =
            headers.iter().fold(http::Request::get(target), |request, (name, value)| request.header(*name, *value));
        request.body(()).expect("a request").into_parts().0
    }

    fn tokens(location: &TokenLocation, head: &request::Parts) -> Vec<String> {
        let mut all = Vec::new();
        location.each_token(head, |token| all.push(String::from_utf8_lossy(&token).into_owned()));
        all
    }

    #[test]
    fn a_header_has_a_token_after_its_prefix() {
        let [bearer, _] = TokenLocation::default_ones();
        let table: [(&str, &[&str]); 8] = [
            ("Bearer a.b.c", &["a.b.c"]),
            ("Bearer   a.b.c", &["a.b.c"]),
            ("xBearer a.b.c", &["a.b.c"]),
            ("Bearer a.b.c x", &["a.b.c x"]),
            ("Bearer !!", &["Bearer !!"]),
            ("bearer a.b.c", &[]),
            ("Bearer", &[]),
            ("Basic abc", &[]),
        ];
        for (value, expected) in table {
            assert_eq!(tokens(&bearer, &head("/", &[("authorization", value)])), expected, "{value}");
        }
        let two = [("authorization", "Bearer a.b.c"), ("authorization", "Bearer d.e.f")];
        assert_eq!(tokens(&bearer, &head("/", &two)), ["a.b.c,Bearer d.e.f"]);
        let plain = TokenLocation::Header { name: HeaderName::from_static("x-t"), prefix: "".into() };
        assert_eq!(tokens(&plain, &head("/", &[("x-t", "a"), ("x-t", "")])), ["a", ""]);
    }

    #[test]
    fn every_parameter_of_a_name_has_a_token() {
        let location = TokenLocation::Parameter("access_token".into());
        let table: [(&str, &[&str], &str); 6] = [
            ("/p?a=1&access_token=x.y.z&b=%20", &["x.y.z"], "/p?a=1&b=%20"),
            ("/?access_token=x&access_token=y", &["x", "y"], "/"),
            ("/?access%5Ftoken=x%2Ey&c", &["x.y"], "/?c"),
            ("/?access_token", &[""], "/"),
            ("/?access_tokens=x&Access_token=x", &[], "/?access_tokens=x&Access_token=x"),
            ("/", &[], "/"),
        ];
        for (target, expected, without) in table {
            let mut head = head(target, &[]);
            assert_eq!(tokens(&location, &head), expected, "{target}");
            location.remove(&mut head);
            assert_eq!(head.uri, without, "{target}");
        }
        let mut absolute = head("http://h:1/p?access_token=x", &[]);
        location.remove(&mut absolute);
        assert_eq!(absolute.uri, "http://h:1/p");
    }

    #[test]
    fn every_cookie_of_a_name_has_a_token() {
        let location = TokenLocation::Cookie("t".into());
        let mut head =
            head("/", &[("cookie", "a=1; t=x.y.z;t=\"q\" ; b=t=2"), ("cookie", "t=w"), ("cookie", "tt=1; =")]);
        assert_eq!(tokens(&location, &head), ["x.y.z", "q", "w"]);
        location.remove(&mut head);
        let left: Vec<_> =
            head.headers.get_all("cookie").iter().map(|value| value.to_str().unwrap_or_default()).collect();
        assert_eq!(left, ["a=1; b=t=2", "tt=1; ="]);
    }
}
