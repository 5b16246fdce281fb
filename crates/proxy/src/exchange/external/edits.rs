//! Changes of headers and queries that an answer asks for.
//!
//! What concerns the connection, the length of the message or the host, and what only the mesh sets, is left as it is
//! ([`headers::is_changeable`]).

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, request};

use super::Changes;
use crate::http::headers::{self, Direction};

/// A change of a header.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Edit {
    pub(super) name: HeaderName,
    pub(super) change: Change,
}

/// What happens to a header.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// Replaces all lines.
    Set(HeaderValue),
    /// Adds a line.
    Add(HeaderValue),
    /// Adds a line if there is one.
    AddToPresent(HeaderValue),
    /// Adds a line if there is none.
    AddToAbsent(HeaderValue),
    /// Replaces all lines if there is one.
    SetPresent(HeaderValue),
    /// Removes all lines.
    Remove,
}

/// The changes of the response to an allowed request, among the extensions of the request.
#[derive(Debug, Clone)]
pub(in crate::exchange) struct OnAllow(Arc<[Edit]>);

impl OnAllow {
    /// Changes the headers of the response.
    pub(in crate::exchange) fn apply(&self, headers: &mut HeaderMap) {
        edit(&self.0, headers, Direction::Response);
    }
}

/// Applies the changes of an allowed request, and keeps those of its response.
pub(super) fn apply(changes: Changes, head: &mut request::Parts) {
    edit(&changes.request, &mut head.headers, Direction::Request);
    if !changes.query.is_empty()
        && let Some(path) = with_query(head.uri.path(), head.uri.query(), &changes.query)
    {
        let mut parts = std::mem::take(&mut head.uri).into_parts();
        parts.path_and_query = Some(path);
        head.uri = http::Uri::from_parts(parts).unwrap_or_default();
    }
    if !changes.response.is_empty() {
        head.extensions.insert(OnAllow(changes.response.into()));
    }
}

/// Sets the headers of the response to a denied request: each replaces those of the proxy, and may have several lines.
pub(super) fn answer(edits: &[Edit], headers: &mut HeaderMap) {
    let changeable = || edits.iter().filter(|edit| headers::is_changeable(&edit.name, Direction::Response));
    for edit in changeable() {
        headers.remove(&edit.name);
    }
    for edit in changeable() {
        if let Change::Set(value) | Change::Add(value) = &edit.change {
            headers.append(&edit.name, value.clone());
        }
    }
}

fn edit(edits: &[Edit], headers: &mut HeaderMap, direction: Direction) {
    for Edit { name, change } in edits.iter().filter(|edit| headers::is_changeable(&edit.name, direction)) {
        let present = headers.contains_key(name);
        match change {
            Change::Set(value) => drop(headers.insert(name, value.clone())),
            Change::SetPresent(value) if present => drop(headers.insert(name, value.clone())),
            Change::Add(value) => drop(headers.append(name, value.clone())),
            Change::AddToPresent(value) if present => drop(headers.append(name, value.clone())),
            Change::AddToAbsent(value) if !present => drop(headers.append(name, value.clone())),
            Change::Remove => drop(headers.remove(name)),
            Change::SetPresent(_) | Change::AddToPresent(_) | Change::AddToAbsent(_) => {}
        }
    }
}

/// Returns a path with parameters of its query set or removed; `None` if it would be no path.
fn with_query(path: &str, query: Option<&str>, changes: &[(String, Option<String>)]) -> Option<PathAndQuery> {
    let key_of = |pair: &str| pair.split_once('=').map_or(pair, |(key, _)| key).to_owned();
    let kept = query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty());
    let kept = kept.filter(|pair| !changes.iter().any(|(key, _)| *key == key_of(pair))).map(str::to_owned);
    let set = changes.iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_ref()?)));
    let query: Vec<String> = kept.chain(set).collect();
    let text = if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) };
    // A fragment or a space would end it.
    (!text.contains(['#', ' '])).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &'static str) -> HeaderValue {
        HeaderValue::from_static(text)
    }

    #[test]
    fn changes_apply_to_present_and_absent_headers_but_not_to_those_of_the_mesh() {
        let mut map = HeaderMap::new();
        map.insert("a", value("1"));
        map.insert("x-forwarded-client-cert", value("peer"));
        map.insert("host", value("shop"));
        let named = |name: &'static str, change| Edit { name: HeaderName::from_static(name), change };
        let edits = [
            named("a", Change::AddToPresent(value("2"))),
            named("b", Change::AddToPresent(value("2"))),
            named("c", Change::AddToAbsent(value("3"))),
            named("c", Change::AddToAbsent(value("4"))),
            named("d", Change::SetPresent(value("5"))),
            named("e", Change::Set(value("6"))),
            named("x-forwarded-client-cert", Change::Set(value("forged"))),
            named("x-isthmus-peer", Change::Set(value("forged"))),
            named("x_envoy_peer_metadata", Change::Add(value("forged"))),
            named("host", Change::Remove),
            named("content-length", Change::Set(value("7"))),
            named("transfer-encoding", Change::Set(value("chunked"))),
        ];
        edit(&edits, &mut map, Direction::Request);
        let mut lines: Vec<String> = map.iter().map(|(name, of)| format!("{name}={}", of.to_str().unwrap())).collect();
        lines.sort();
        assert_eq!(lines, ["a=1", "a=2", "c=3", "e=6", "host=shop", "x-forwarded-client-cert=peer"]);
    }

    #[test]
    fn parameters_of_the_query_are_set_and_removed() {
        let changes = [("a".to_owned(), Some("9".to_owned())), ("b".to_owned(), None)];
        for (query, expected) in
            [(None, "/p?a=9"), (Some("a=1&b=2&c=3"), "/p?c=3&a=9"), (Some("b"), "/p?a=9"), (Some("&&"), "/p?a=9")]
        {
            assert_eq!(with_query("/p", query, &changes).unwrap().as_str(), expected);
        }
        assert_eq!(with_query("/p", Some("b=1"), &changes[1..]).unwrap().as_str(), "/p");
        assert_eq!(with_query("/p", None, &[("a".to_owned(), Some("1 HTTP/1.1".to_owned()))]), None);
    }
}
