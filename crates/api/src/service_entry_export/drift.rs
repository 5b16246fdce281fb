//! Where an object differs from what it should be.

use std::fmt;

use serde_json::{Map, Value};

/// The number of differences that are named of one object.
const MAX_DRIFTS: usize = 50;
/// The number of characters of a value in a message.
const MAX_VALUE: usize = 200;

/// A field that differs from what is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// The object, as `<kind> <namespace>/<name>`.
    pub object: String,
    /// The path of the field, such as `spec.endpoints[0].address`; empty: the object as a whole.
    pub field: String,
    /// The value that was found as JSON; `None`: the field is absent, or the object does not exist.
    pub found: Option<String>,
    /// The value that is expected as JSON; `None`: the field should be absent.
    pub expected: Option<String>,
}

impl fmt::Display for Drift {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Drift { object, field, found, expected } = self;
        match (field.as_str(), found, expected) {
            ("", None, _) => write!(out, "{object}: does not exist"),
            ("", Some(_), _) => write!(out, "{object}: exists, but its service is not exported"),
            (_, None, Some(expected)) => write!(out, "{object}: {field}: is absent, expected {expected}"),
            (_, Some(found), None) => write!(out, "{object}: {field}: is {found}, expected to be absent"),
            (_, found, expected) => {
                let text = |of: &Option<String>| of.clone().unwrap_or_default();
                write!(out, "{object}: {field}: is {}, expected {}", text(found), text(expected))
            }
        }
    }
}

impl Drift {
    /// Returns the difference that an object, as `<kind> <namespace>/<name>`, exists which should not.
    pub fn surplus(object: String) -> Self {
        Drift { object, field: String::new(), found: Some(String::new()), expected: None }
    }
}

/// Returns the fields in which an object differs from what is expected: the whole `spec`, and the labels, annotations and owners
/// that are expected. At most 50 are returned.
pub fn drift(expected: &Value, found: Option<&Value>) -> Vec<Drift> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &expected["metadata"];
    let object = format!("{} {}/{}", text(&expected["kind"]), text(&metadata["namespace"]), text(&metadata["name"]));
    let Some(found) = found else {
        return vec![Drift { object, field: String::new(), found: None, expected: None }];
    };
    let mut drifts = Drifts { object, found: Vec::new() };
    for field in ["labels", "annotations"] {
        for (key, value) in metadata[field].as_object().into_iter().flatten() {
            drifts.compare(&format!("metadata.{field}[{key}]"), Some(value), found["metadata"][field].get(key));
        }
    }
    if let Some(owners) = metadata.get("ownerReferences") {
        drifts.compare("metadata.ownerReferences", Some(owners), found["metadata"].get("ownerReferences"));
    }
    drifts.compare("spec", expected.get("spec"), found.get("spec"));
    drifts.found
}

struct Drifts {
    object: String,
    found: Vec<Drift>,
}

impl Drifts {
    fn compare(&mut self, path: &str, expected: Option<&Value>, found: Option<&Value>) {
        let present = |value: Option<&'_ Value>| value.is_some_and(|value| !value.is_null());
        match (expected, found) {
            (Some(Value::Object(expected)), Some(Value::Object(found))) => self.fields(path, expected, found),
            (Some(Value::Array(expected)), Some(Value::Array(found))) => {
                for at in 0..expected.len().max(found.len()) {
                    self.compare(&format!("{path}[{at}]"), expected.get(at), found.get(at));
                }
            }
            (expected, found) if expected == found || !(present(expected) || present(found)) => {}
            (expected, found) => self.push(path, expected, found),
        }
    }

    fn fields(&mut self, path: &str, expected: &Map<String, Value>, found: &Map<String, Value>) {
        let further = found.keys().filter(|name| !expected.contains_key(*name));
        for name in expected.keys().chain(further) {
            self.compare(&format!("{path}.{name}"), expected.get(name), found.get(name));
        }
    }

    fn push(&mut self, path: &str, expected: Option<&Value>, found: Option<&Value>) {
        let text = |value: Option<&Value>| {
            value.filter(|value| !value.is_null()).map(|value| value.to_string().chars().take(MAX_VALUE).collect())
        };
        if self.found.len() < MAX_DRIFTS {
            let (found, expected) = (text(found), text(expected));
            self.found.push(Drift { object: self.object.clone(), field: path.to_owned(), found, expected });
        }
    }
}
