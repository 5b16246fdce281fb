//! Answers of the proxy's own.

use bytes::Bytes;
use http::StatusCode;

use crate::RequestFacts;

/// The client is sent to another URL.
#[derive(Debug, Clone, PartialEq)]
pub struct Redirect {
    /// The change of the path.
    pub path: Option<RedirectPath>,
    /// The new authority.
    pub authority: Option<Box<str>>,
    /// The new scheme.
    pub scheme: Option<Box<str>>,
    /// The port; `None`: that of the authority.
    pub port: Option<RedirectPort>,
    /// The status.
    pub status: StatusCode,
}

/// The path of a redirection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedirectPath {
    /// The whole path. With a `?`, the query as well.
    Full(Box<str>),
    /// The replacement of the prefix that matched.
    Prefix(Box<str>),
}

/// The port of a redirection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectPort {
    /// A number.
    Number(u16),
    /// The default port of the new scheme.
    OfScheme,
    /// The port that the client connected to.
    OfRequest,
}

/// A fixed answer.
#[derive(Debug, Clone, PartialEq)]
pub struct DirectResponse {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
}

impl Redirect {
    /// Returns the value of `Location`. `matched` is the length of the prefix that matched, if the condition was a prefix.
    pub fn location(&self, facts: &RequestFacts<'_>, matched: Option<usize>) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(facts.scheme);
        let mut authority = self.authority.as_deref().unwrap_or(facts.authority).to_owned();
        let port = match self.port {
            None => None,
            Some(RedirectPort::Number(port)) => Some(port),
            Some(RedirectPort::OfScheme) => Some(default_port(scheme)),
            Some(RedirectPort::OfRequest) => Some(facts.port),
        };
        if let Some(port) = port {
            authority.truncate(without_port(&authority).len());
            if port != default_port(scheme) {
                authority = format!("{authority}:{port}");
            }
        } else if self.authority.is_none() && self.scheme.is_some() {
            // The default port of the scheme that was replaced is dropped, as in Envoy.
            let own = default_port(facts.scheme).to_string();
            let bare = without_port(&authority).len();
            if authority.get(bare + 1..) == Some(&own) {
                authority.truncate(bare);
            }
        }
        let query = facts.query.map(|query| format!("?{query}")).unwrap_or_default();
        let path = match &self.path {
            None => format!("{}{query}", facts.path),
            Some(RedirectPath::Full(path)) if path.contains('?') => path.to_string(),
            Some(RedirectPath::Full(path)) => format!("{path}{query}"),
            Some(RedirectPath::Prefix(prefix)) => {
                format!("{prefix}{}{query}", facts.path.get(matched.unwrap_or(facts.path.len())..).unwrap_or_default())
            }
        };
        let slash = if path.starts_with('/') { "" } else { "/" };
        format!("{scheme}://{authority}{slash}{path}")
    }
}

fn default_port(scheme: &str) -> u16 {
    if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 }
}

/// Returns an authority without its port.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        // The colons of an IPv6 address are within brackets.
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(':') => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn locations_are_those_of_envoy() {
        let headers = HeaderMap::new();
        let facts = RequestFacts {
            path: "/old/x",
            query: Some("q=1"),
            scheme: "http",
            method: "GET",
            authority: "a.example:8080",
            headers: &headers,
            port: 9080,
            claims: None,
        };
        let same = Redirect { path: None, authority: None, scheme: None, port: None, status: StatusCode::FOUND };
        let https = Some("https".into());
        for (redirect, expected) in [
            (same.clone(), "http://a.example:8080/old/x?q=1"),
            (
                Redirect { path: Some(RedirectPath::Full("/new".into())), ..same.clone() },
                "http://a.example:8080/new?q=1",
            ),
            (
                Redirect { path: Some(RedirectPath::Full("/new?z".into())), ..same.clone() },
                "http://a.example:8080/new?z",
            ),
            (
                Redirect { path: Some(RedirectPath::Prefix("/n".into())), ..same.clone() },
                "http://a.example:8080/n/x?q=1",
            ),
            (Redirect { authority: Some("b".into()), ..same.clone() }, "http://b/old/x?q=1"),
            (Redirect { scheme: https.clone(), ..same.clone() }, "https://a.example:8080/old/x?q=1"),
            (
                Redirect { scheme: https, port: Some(RedirectPort::OfScheme), ..same.clone() },
                "https://a.example/old/x?q=1",
            ),
            (Redirect { port: Some(RedirectPort::OfRequest), ..same.clone() }, "http://a.example:9080/old/x?q=1"),
            (Redirect { port: Some(RedirectPort::Number(81)), ..same.clone() }, "http://a.example:81/old/x?q=1"),
            (Redirect { port: Some(RedirectPort::Number(80)), ..same }, "http://a.example/old/x?q=1"),
        ] {
            assert_eq!(redirect.location(&facts, Some(4)), expected, "{redirect:?}");
        }
        assert_eq!(without_port("[::1]:80"), "[::1]");
        assert_eq!(without_port("[::1]"), "[::1]");
    }
}
