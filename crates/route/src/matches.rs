//! Conditions on requests.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use crate::StringMatch;

/// Access to the claims of a request's token, which has been verified.
pub trait Claims {
    /// Returns whether a value of the claim at a path matches. Each element of a list is a value.
    fn any(&self, path: &[Arc<str>], matches: &mut dyn FnMut(&str) -> bool) -> bool;
}

/// The parts of a request that conditions are about.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The path, without the query.
    pub path: &'a str,
    /// The query, without `?`.
    pub query: Option<&'a str>,
    /// The scheme.
    pub scheme: &'a str,
    /// The method.
    pub method: &'a str,
    /// The authority, with its port if the request has one.
    pub authority: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The port that the client connected to.
    pub port: u16,
    /// The claims of the request's token; `None` without one, and where conditions on claims are never met.
    pub claims: Option<&'a dyn Claims>,
}

/// A condition on a field: a header, or a parameter of the query.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition<N> {
    /// The field's name.
    pub name: N,
    /// The pattern of its value.
    pub value: StringMatch,
    /// The condition is met if the field is absent or its value does not match.
    pub invert: bool,
}

/// Conditions, all of which a request has to meet.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HttpMatch {
    /// On the path, without the query.
    pub path: Option<StringMatch>,
    /// On the scheme.
    pub scheme: Option<StringMatch>,
    /// On the method.
    pub method: Option<StringMatch>,
    /// On the authority.
    pub authority: Option<StringMatch>,
    /// On headers.
    pub headers: Vec<Condition<HeaderName>>,
    /// On parameters of the query.
    pub query: Vec<Condition<Box<str>>>,
    /// On claims of the request's token, by their paths.
    pub claims: Vec<Condition<Arc<[Arc<str>]>>>,
    /// On the port that the client connected to.
    pub port: Option<u16>,
    /// Made of others.
    pub further: Vec<Expression>,
}

impl<N> Condition<N> {
    fn is_met(&self, value: Option<&[u8]>) -> bool {
        value.is_some_and(|value| self.value.matches(value)) != self.invert
    }
}

impl HttpMatch {
    /// Returns whether a request meets all conditions.
    pub fn is_met(&self, facts: &Facts<'_>) -> bool {
        self.path.as_ref().is_none_or(|path| path.matches(facts.path.as_bytes())) && self.rest_is_met(facts)
    }

    /// Returns whether a request meets all conditions but that on the path.
    pub(crate) fn rest_is_met(&self, facts: &Facts<'_>) -> bool {
        let met = |pattern: &Option<StringMatch>, value: &str| {
            pattern.as_ref().is_none_or(|pattern| pattern.matches(value.as_bytes()))
        };
        self.port.is_none_or(|port| port == facts.port)
            && met(&self.method, facts.method)
            && met(&self.authority, facts.authority)
            && met(&self.scheme, facts.scheme)
            && self.headers.iter().all(|condition| condition.is_met(header(facts, &condition.name).as_deref()))
            && self.query.iter().all(|condition| condition.is_met(parameter(facts.query, &condition.name)))
            && self.claims.iter().all(|condition| claim_is_met(condition, facts.claims))
            && self.further.iter().all(|condition| condition.is_met(facts))
    }

    /// Returns whether every request meets the conditions: there are none, or one on a path that begins with `/`.
    pub fn is_for_all(&self) -> bool {
        let root = matches!(&self.path, Some(StringMatch::Prefix(prefix)) if &**prefix == "/");
        self.is_unconditional() || (root && *self == Self { path: self.path.clone(), ..Self::default() })
    }

    /// Returns whether there are no conditions, so that every request meets them.
    pub fn is_unconditional(&self) -> bool {
        *self == Self::default()
    }
}

/// Returns whether a condition on a claim is met. A request without a token has no claims.
fn claim_is_met(condition: &Condition<Arc<[Arc<str>]>>, claims: Option<&dyn Claims>) -> bool {
    let matches = &mut |value: &str| condition.value.matches(value.as_bytes());
    claims.is_some_and(|claims| claims.any(&condition.name, matches)) != condition.invert
}

/// Returns the value of a header; several values are joined with commas, as in Envoy.
fn header<'a>(facts: &Facts<'a>, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = facts.headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let mut rest = values.peekable();
    if rest.peek().is_none() {
        return Some(Cow::Borrowed(first));
    }
    let mut joined = first.to_vec();
    for value in rest {
        joined.push(b',');
        joined.extend_from_slice(value.as_bytes());
    }
    Some(Cow::Owned(joined))
}

/// Returns the first value of a parameter of a query; without `=`, it is empty. As in Envoy, nothing is decoded.
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a [u8]> {
    let mut pairs = query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value.as_bytes())
}

/// A condition made of others.
#[derive(Debug, Clone, PartialEq)]
pub enum Expression {
    /// Conditions on the parts of a request.
    Request(Box<HttpMatch>),
    /// All of these.
    All(Box<[Expression]>),
    /// One of these.
    Any(Box<[Expression]>),
    /// The opposite.
    Not(Box<Expression>),
}

impl Expression {
    /// Returns whether a request meets the condition. The depth is bounded by who makes expressions.
    pub fn is_met(&self, facts: &Facts<'_>) -> bool {
        match self {
            Expression::Request(condition) => condition.is_met(facts),
            Expression::All(conditions) => conditions.iter().all(|of| of.is_met(facts)),
            Expression::Any(conditions) => conditions.iter().any(|of| of.is_met(facts)),
            Expression::Not(condition) => !condition.is_met(facts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Regex;

    fn facts(headers: &HeaderMap) -> Facts<'_> {
        Facts {
            path: "/a",
            query: Some("x=1&y&z=a%20b&x=2"),
            scheme: "http",
            method: "GET",
            authority: "reviews:80",
            headers,
            port: 9080,
            claims: None,
        }
    }

    #[test]
    fn every_condition_has_to_be_met() {
        let headers: HeaderMap = [("end-user", "jason"), ("many", "1"), ("many", "2")]
            .map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap()))
            .into_iter()
            .collect();
        let exact = |value: &str| Some(StringMatch::Exact(value.into()));
        let header = |name: &str, value: StringMatch, invert| HttpMatch {
            headers: vec![Condition { name: name.parse().unwrap(), value, invert }],
            ..HttpMatch::default()
        };
        let query = |name: &str, value: StringMatch| HttpMatch {
            query: vec![Condition { name: name.into(), value, invert: false }],
            ..HttpMatch::default()
        };
        let is = |value: &str| StringMatch::Exact(value.into());
        for (condition, expected) in [
            (HttpMatch::default(), true),
            (HttpMatch { path: exact("/a"), method: exact("GET"), ..HttpMatch::default() }, true),
            (HttpMatch { path: exact("/a"), method: exact("POST"), ..HttpMatch::default() }, false),
            (HttpMatch { scheme: exact("http"), authority: exact("reviews:80"), ..HttpMatch::default() }, true),
            (HttpMatch { authority: exact("reviews"), ..HttpMatch::default() }, false),
            (HttpMatch { port: Some(9080), ..HttpMatch::default() }, true),
            (HttpMatch { port: Some(80), ..HttpMatch::default() }, false),
            (header("end-user", is("jason"), false), true),
            (header("end-user", is("jason"), true), false),
            (header("end-user", StringMatch::Present, true), false),
            (header("absent", StringMatch::Present, true), true),
            (header("absent", is("x"), true), true),
            (header("absent", is("x"), false), false),
            (header("many", is("1,2"), false), true),
            (header("many", is("1"), false), false),
            (query("x", is("1")), true),
            (query("x", is("2")), false),
            (query("y", is("")), true),
            (query("z", is("a%20b")), true),
            (query("z", is("a b")), false),
            (query("absent", StringMatch::Present), false),
        ] {
            assert_eq!(condition.is_met(&facts(&headers)), expected, "{condition:?}");
        }
    }

    /// A token with the claim `group` of two values.
    struct Token;

    impl Claims for Token {
        fn any(&self, path: &[Arc<str>], matches: &mut dyn FnMut(&str) -> bool) -> bool {
            path.len() == 1 && &*path[0] == "group" && ["admin", "dev"].into_iter().any(matches)
        }
    }

    #[test]
    fn a_condition_on_a_claim_is_met_by_any_of_its_values() {
        let headers = HeaderMap::new();
        let claim = |name: &str, value: &str, invert| HttpMatch {
            claims: vec![Condition { name: [name.into()].into(), value: StringMatch::Exact(value.into()), invert }],
            ..HttpMatch::default()
        };
        for (condition, with, without) in [
            (claim("group", "dev", false), true, false),
            (claim("group", "ops", false), false, false),
            (claim("group", "dev", true), false, true),
            (claim("role", "dev", false), false, false),
        ] {
            assert_eq!(condition.is_met(&facts(&headers)), without, "{condition:?}");
            assert_eq!(condition.is_met(&Facts { claims: Some(&Token), ..facts(&headers) }), with, "{condition:?}");
        }
    }

    fn method(method: &str) -> Expression {
        let method = Some(StringMatch::Exact(method.into()));
        Expression::Request(Box::new(HttpMatch { method, ..HttpMatch::default() }))
    }

    fn path(pattern: &str) -> Expression {
        let path = Some(StringMatch::Regex(Regex::whole(pattern).unwrap()));
        Expression::Request(Box::new(HttpMatch { path, ..HttpMatch::default() }))
    }

    #[test]
    fn conditions_are_combined() {
        use Expression::{All, Any, Not};
        let headers = HeaderMap::new();
        let facts = Facts {
            path: "/api/users",
            query: Some("x=1"),
            scheme: "http",
            method: "GET",
            authority: "web",
            headers: &headers,
            port: 80,
            claims: None,
        };
        for (expression, expected) in [
            (method("GET"), true),
            (method("PUT"), false),
            (path("/api/users"), true),
            (path("/api"), false),
            (All([method("GET"), path("/api/.*")].into()), true),
            (All([method("GET"), path("/x")].into()), false),
            (All([].into()), true),
            (Any([method("PUT"), path("/api/.*")].into()), true),
            (Any([method("PUT"), path("/x")].into()), false),
            (Any([].into()), false),
            (Not(Box::new(method("GET"))), false),
            (All([Not(Box::new(method("PUT"))), Any([path("/x"), path("/api/users")].into())].into()), true),
        ] {
            assert_eq!(expression.is_met(&facts), expected, "{expression:?}");
            let within = HttpMatch { further: vec![expression], ..HttpMatch::default() };
            assert_eq!(within.is_met(&facts), expected);
        }
    }
}
