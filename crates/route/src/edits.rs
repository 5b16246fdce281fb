//! Changes of headers.

use http::{HeaderMap, HeaderName, HeaderValue};
use telemetry::access_log::{Record, Template};

/// The error for a header that cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("header {name:?}: {reason}")]
pub struct InvalidHeader {
    name: String,
    reason: String,
}

/// A header and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderEdit {
    name: HeaderName,
    value: Value,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Literal(HeaderValue),
    /// With operators of Envoy's format strings.
    Template(Template),
}

/// Changes of the headers of a request or response, in this order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeaderEdits {
    /// Headers to remove.
    pub remove: Box<[HeaderName]>,
    /// Headers whose values are replaced.
    pub set: Box<[HeaderEdit]>,
    /// Headers that a value is added to.
    pub add: Box<[HeaderEdit]>,
}

impl HeaderEdit {
    /// Parses a header and its value, which may have operators such as `%REQ(name)%`.
    ///
    /// # Errors
    /// Returns an error if the name or the value is no valid header, or an operator is unknown.
    pub fn parse(name: &str, value: &str) -> Result<Self, InvalidHeader> {
        let invalid = |reason: String| InvalidHeader { name: name.to_owned(), reason };
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|error| invalid(error.to_string()))?;
        // Other characters than those of ASCII are sent as they are, as by Envoy.
        let literal = HeaderValue::from_bytes(value.as_bytes()).map_err(|error| invalid(error.to_string()))?;
        let value = if value.contains('%') {
            Value::Template(Template::parse(value).map_err(|error| invalid(error.to_string()))?)
        } else {
            Value::Literal(literal)
        };
        Ok(Self { name: parsed, value })
    }

    /// Returns the value; `None` if its operators have none.
    fn value(&self, record: &Record<'_>) -> Option<HeaderValue> {
        match &self.value {
            // Envoy adds no header without a value.
            Value::Literal(value) => (!value.is_empty()).then(|| value.clone()),
            Value::Template(template) => {
                let rendered = template.render(record);
                // Values of operators may have bytes that a header must not have.
                (!rendered.is_empty()).then(|| HeaderValue::from_bytes(&rendered).ok())?
            }
        }
    }
}

impl HeaderEdits {
    /// Returns whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Returns whether some values have operators.
    pub fn has_operators(&self) -> bool {
        self.set.iter().chain(&self.add).any(|edit| matches!(edit.value, Value::Template(_)))
    }

    /// Applies the changes. `record` has the values of operators.
    pub fn apply(&self, headers: &mut HeaderMap, record: &Record<'_>) {
        self.remove.iter().for_each(|name| drop(headers.remove(name)));
        for edit in &self.set {
            if let Some(value) = edit.value(record) {
                headers.insert(&edit.name, value);
            }
        }
        for edit in &self.add {
            if let Some(value) = edit.value(record) {
                headers.append(&edit.name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edits(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> HeaderEdits {
        let parse = |edits: &[(&str, &str)]| edits.iter().map(|(n, v)| HeaderEdit::parse(n, v).unwrap()).collect();
        HeaderEdits {
            set: parse(set),
            add: parse(add),
            remove: remove.iter().map(|name| name.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn headers_are_removed_then_set_then_added() {
        let mut headers = HeaderMap::new();
        headers.insert("a", HeaderValue::from_static("1"));
        headers.insert("b", HeaderValue::from_static("1"));
        let edits = edits(&[("b", "2"), ("c", "3")], &[("b", "4"), ("a", "5")], &["A", "absent"]);
        assert!(!edits.has_operators());
        edits.apply(&mut headers, &Record::new(std::time::SystemTime::UNIX_EPOCH));
        let all = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>().join(" ");
        assert_eq!((all("a").as_str(), all("b").as_str(), all("c").as_str()), ("5", "2 4", "3"));
    }

    #[test]
    fn operators_have_the_values_of_the_request() {
        let mut headers = HeaderMap::new();
        let edits = edits(&[("x", "v=%REQ(:METHOD)%"), ("y", "%REQ(absent)%"), ("z", "100%%")], &[], &[]);
        assert!(edits.has_operators());
        let record = Record { method: Some("GET"), ..Record::new(std::time::SystemTime::UNIX_EPOCH) };
        edits.apply(&mut headers, &record);
        assert_eq!(
            (&headers["x"], headers.get("y"), &headers["z"]),
            (&HeaderValue::from_static("v=GET"), None, &HeaderValue::from_static("100%"))
        );
    }

    #[test]
    fn invalid_headers_are_refused() {
        for (name, value) in [("", "x"), ("a b", "x"), (":path", "/"), ("a", "x\ny"), ("a", "%NOPE%"), ("a", "50%")] {
            assert!(HeaderEdit::parse(name, value).is_err(), "{name:?}: {value:?}");
        }
    }
}
