//! Conditions made of others.

use crate::{HttpMatch, RequestFacts};

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
    pub fn is_met(&self, facts: &RequestFacts<'_>) -> bool {
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
    use http::HeaderMap;

    use super::*;
    use crate::{Regex, StringMatch};

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
        let facts = RequestFacts {
            path: "/api/users",
            query: Some("x=1"),
            scheme: "http",
            method: "GET",
            authority: "web",
            headers: &headers,
            port: 80,
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
