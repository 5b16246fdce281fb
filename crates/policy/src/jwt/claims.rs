//! The claims of a verified token.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::Claims;

/// The claims of a token whose signature, times and audience have been verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    claims: Map<String, Value>,
    /// The claims at the top level whose text is a list with spaces between its elements.
    space_delimited: Arc<[Box<str>]>,
}

impl Verified {
    /// Takes the claims of a token. `space_delimited` names claims at the top level whose text is a list with spaces
    /// between its elements.
    pub(super) fn new(claims: Map<String, Value>, space_delimited: Arc<[Box<str>]>) -> Self {
        Self { claims, space_delimited }
    }

    /// Returns the values of a claim, as policies match them. The path is that of nested objects. A text is one value; a
    /// list has the values of its texts; a space-delimited claim has its words. Numbers, truth values and objects have no
    /// value, as in Istio.
    fn values(&self, path: &[Arc<str>]) -> impl Iterator<Item = &str> {
        let (mut found, mut split) = (None, false);
        if let Some((first, nested)) = path.split_first() {
            found = self.claims.get(&**first);
            split = nested.is_empty() && self.space_delimited.iter().any(|name| **name == **first);
            for name in nested {
                found = found.and_then(|value| value.as_object()?.get(&**name));
            }
        }
        let text = found.and_then(Value::as_str);
        let words = text.filter(|_| split).into_iter().flat_map(|text| text.split(' ').filter(|word| !word.is_empty()));
        let elements = found.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        text.filter(|_| !split).into_iter().chain(words).chain(elements)
    }
}

impl Claims for Verified {
    fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    fn subject(&self) -> Option<&str> {
        self.claims.get("sub")?.as_str()
    }

    fn any(&self, path: &[Arc<str>], matches: &mut dyn FnMut(&str) -> bool) -> bool {
        self.values(path).any(matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_has_the_values_that_policies_match() {
        let claims = r#"{"iss":"A","sub":"a","aud":["x","y"],"azp":"app","scope":"read  write","group":"a b","n":1,"b":true,
            "o":{"k":"v","list":["1",2,"3"],"scope":"a b"},"mixed":["a",["b"],{"c":"d"}]}"#;
        let claims = serde_json::from_str(claims).expect("valid claims");
        let token = Verified::new(claims, Arc::from(["scope".into()]));
        let table: [(&[&str], &[&str]); 13] = [
            (&["sub"], &["a"]),
            (&["aud"], &["x", "y"]),
            (&["scope"], &["read", "write"]),
            (&["group"], &["a b"]),
            (&["n"], &[]),
            (&["b"], &[]),
            (&["o"], &[]),
            (&["o", "k"], &["v"]),
            (&["o", "list"], &["1", "3"]),
            (&["o", "scope"], &["a b"]),
            (&["mixed"], &["a"]),
            (&["missing", "k"], &[]),
            (&[], &[]),
        ];
        for (path, expected) in table {
            let path: Vec<Arc<str>> = path.iter().map(|name| (*name).into()).collect();
            let mut values = Vec::new();
            let all = token.any(&path, &mut |value| {
                values.push(value.to_owned());
                false
            });
            assert_eq!((values, all), (expected.iter().map(|value| (*value).to_owned()).collect(), false), "{path:?}");
        }
        assert_eq!((token.issuer(), token.subject()), (Some("A"), Some("a")));
    }
}
