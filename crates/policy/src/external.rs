//! Servers that policies of action CUSTOM ask, as `extensionProviders` of Istio's mesh settings defines them.

use std::sync::Arc;
use std::time::Duration;

use crate::{InvalidPattern, Pattern};

/// A server that is asked by Envoy's `ext_authz` protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// The hostname of its service.
    pub hostname: Arc<str>,
    /// The service's port.
    pub port: u16,
    /// How long an answer may take.
    pub timeout: Duration,
    /// What it cannot be asked about is allowed.
    pub fail_open: bool,
    /// The status of requests that it cannot be asked about.
    pub status_on_error: u16,
    /// How much of a request's body is sent along.
    pub body: Option<CheckedBody>,
    /// How it is asked.
    pub protocol: CheckProtocol,
}

/// How much of a request's body is sent along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckedBody {
    /// The most bytes.
    pub max: usize,
    /// Of longer bodies, the beginning is sent. Otherwise such requests are refused.
    pub allow_partial: bool,
    /// The body is sent as bytes, not as text.
    pub as_bytes: bool,
}

/// How a provider is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckProtocol {
    /// `envoy.service.auth.v3.Authorization`.
    Grpc,
    /// A request with the method, path and some headers of the one to decide about.
    Http(HttpCheck),
}

/// A check by a request of HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpCheck {
    /// Precedes the path.
    pub path_prefix: Box<str>,
    /// The headers of the request that are sent along, besides `authorization`.
    pub request: HeaderList,
    /// Headers that are added.
    pub added: Box<[(Box<str>, Box<str>)]>,
    /// The headers of the answer that an allowed request receives.
    pub upstream_on_allow: HeaderList,
    /// The headers of the answer that the response to a denied request receives; empty: all.
    pub downstream_on_deny: HeaderList,
    /// The headers of the answer that the response to an allowed request receives.
    pub downstream_on_allow: HeaderList,
}

/// Names of headers: whole ones, `<prefix>*` and `*<suffix>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderList(Box<[Pattern]>);

impl HeaderList {
    /// Parses a list.
    ///
    /// # Errors
    /// Returns an error if one is no pattern.
    pub fn parse(texts: &[String]) -> Result<Self, InvalidPattern> {
        texts.iter().map(|text| Pattern::parse(&text.to_ascii_lowercase())).collect::<Result<_, _>>().map(Self)
    }

    /// Returns whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether the list has a name, which is in lower case.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_names_by_their_beginning_and_end() {
        let list = HeaderList::parse(&["Cookie".to_owned(), "x-user-*".to_owned(), "*-id".to_owned()]).unwrap();
        for (name, expected) in
            [("cookie", true), ("cookies", false), ("x-user-name", true), ("x-use", false), ("trace-id", true)]
        {
            assert_eq!(list.has(name), expected, "{name}");
        }
        assert!(HeaderList::default().is_empty() && !HeaderList::default().has("cookie"));
        assert!(HeaderList::parse(&["a*b".to_owned()]).is_err());
    }
}
