//! What a request has to match.

use std::collections::BTreeMap;

use super::json::message;

message! {
    /// What a request has to match: all of these.
    HttpMatch {
        /// The name, for messages.
        name: String = "name",
        /// The path.
        uri: Option<StringMatch> = "uri",
        /// The scheme.
        scheme: Option<StringMatch> = "scheme",
        /// The method.
        method: Option<StringMatch> = "method",
        /// The authority.
        authority: Option<StringMatch> = "authority",
        /// The headers. A name of the form `@request.auth.claims.name` is a claim of the token.
        headers: BTreeMap<String, StringMatch> = "headers",
        /// The port to which the request was sent; 0: any.
        port: u32 = "port",
        /// The labels of the client's workload.
        source_labels: BTreeMap<String, String> = "sourceLabels",
        /// The gateways; they take the place of the VirtualService's.
        gateways: Vec<String> = "gateways",
        /// The parameters of the query.
        query_params: BTreeMap<String, StringMatch> = "queryParams",
        /// Whether `uri` ignores the case, if it is exact or a prefix.
        ignore_uri_case: bool = "ignoreUriCase",
        /// The headers that the request does not have.
        without_headers: BTreeMap<String, StringMatch> = "withoutHeaders",
        /// The namespace of the client's workload.
        source_namespace: String = "sourceNamespace",
        /// A prefix for statistics.
        stat_prefix: String = "statPrefix",
    }
}

message! {
    /// A form of text. At most one field is set; [`StringMatch::pattern`] returns it.
    StringMatch {
        /// The whole text.
        exact: Option<String> = "exact",
        /// The beginning.
        prefix: Option<String> = "prefix",
        /// A regular expression of RE2 for the whole text.
        regex: Option<String> = "regex",
    }
}

/// What a [`StringMatch`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern<'a> {
    /// Any text: for a header or parameter, that it is there.
    Any,
    /// The whole text.
    Exact(&'a str),
    /// The beginning.
    Prefix(&'a str),
    /// A regular expression for the whole text.
    Regex(&'a str),
}

impl StringMatch {
    /// Returns what it says.
    pub fn pattern(&self) -> Pattern<'_> {
        match (&self.exact, &self.prefix, &self.regex) {
            (Some(text), _, _) => Pattern::Exact(text),
            (_, Some(text), _) => Pattern::Prefix(text),
            (_, _, Some(text)) => Pattern::Regex(text),
            _ => Pattern::Any,
        }
    }
}
