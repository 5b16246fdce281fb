//! HTTPRouteGroup: named conditions on requests.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::networking::Problem;
use crate::networking::json::{Field, Reader, message, object, shown};
use crate::networking::re2;
use crate::networking::validate::{Check, names};

/// The number of matches of a group.
pub const MAX_MATCHES: usize = 256;
/// The number of methods or headers of a match.
pub const MAX_CONDITIONS: usize = 32;
/// The method that means every method.
pub const EVERY_METHOD: &str = "*";

object! {
    /// SMI's HTTPRouteGroup resource.
    HttpRouteGroup: HttpRouteGroupSpec in spec_of, "specs.smi-spec.io", "v1alpha4", "HTTPRouteGroup", "httproutegroups"
}

/// Returns the spec; before v1alpha3, the matches are beside the metadata.
fn spec_of(object: &Value) -> Option<Cow<'_, Value>> {
    match (object.get("spec"), object.get("matches")) {
        (None | Some(Value::Null), Some(matches)) => Some(Cow::Owned(json!({"matches": matches}))),
        (spec, _) => spec.map(Cow::Borrowed),
    }
}

message! {
    /// The spec of an HTTPRouteGroup.
    HttpRouteGroupSpec {
        /// The conditions, of which a request has to meet one.
        matches: Vec<RouteMatch> = "matches",
    }
}

message! {
    /// A condition on requests: all of these.
    RouteMatch {
        /// The name.
        name: String = "name",
        /// The methods; empty, or with `*`: any.
        methods: Vec<String> = "methods",
        /// A regular expression that the beginning of the path matches; empty: any path.
        path_regex: String = "pathRegex",
        /// Regular expressions that headers match.
        headers: HeaderPatterns = "headers",
    }
}

/// Names of headers, and regular expressions for their values.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeaderPatterns(pub Vec<(String, String)>);

impl Field for HeaderPatterns {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        let mut patterns = HeaderPatterns::default();
        match value {
            Value::Object(headers) => patterns.read_map(headers, reader),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    reader.inside(format_args!("[{index}]"), |reader| {
                        if let Some(headers) = reader.object(item) {
                            patterns.read_map(headers, reader);
                        }
                    });
                }
            }
            _ => reader.unexpected(value, "a map from names of headers to regular expressions, or a list of such maps"),
        }
        patterns
    }

    fn json(&self) -> Value {
        self.0.iter().map(|(name, pattern)| json!({name: pattern})).collect()
    }

    fn is_unset(&self) -> bool {
        self.0.is_empty()
    }
}

impl HeaderPatterns {
    fn read_map(&mut self, headers: &Map<String, Value>, reader: &mut Reader) {
        for (name, value) in headers {
            let pattern = reader.inside(format_args!("[{}]", shown(name)), |reader| String::read(value, reader));
            self.0.push((name.clone(), pattern));
        }
    }
}

impl HttpRouteGroup {
    /// Returns what is wrong with the object, at most 100 problems. It is refused if one of them is an error.
    pub fn validate(&self) -> Vec<Problem> {
        let mut check = Check::of(&self.unread);
        let matches = &self.spec.matches;
        match matches.len() {
            0 => check.error_of("matches", "is empty; write the conditions on requests"),
            1..=MAX_MATCHES => {}
            count => check.error_of("matches", format!("has {count} items; a group has at most {MAX_MATCHES}")),
        }
        check.each("matches", matches, RouteMatch::check);
        check.into_problems()
    }
}

impl RouteMatch {
    /// Returns whether any method is meant.
    pub fn is_any_method(&self) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|method| method == EVERY_METHOD)
    }

    fn check(&self, check: &mut Check) {
        for (field, count) in [("methods", self.methods.len()), ("headers", self.headers.0.len())] {
            if count > MAX_CONDITIONS {
                check.error_of(field, format!("has {count} items; there are at most {MAX_CONDITIONS}"));
            }
        }
        check.each("methods", &self.methods, |method, check| {
            if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_alphabetic() || b"*-_".contains(&byte)) {
                check.error(format!("is {:?}; write a method such as GET, or \"*\" for all", shown(method)));
            }
        });
        if !self.path_regex.is_empty() {
            check.at(format_args!(".pathRegex"), |check| check.accept(re2::compile(&self.path_regex).map(drop)));
        }
        for (name, pattern) in &self.headers.0 {
            check.at(format_args!(".headers[{}]", shown(name)), |check| {
                if name != ":authority" {
                    check.accept(names::header(name));
                }
                check.accept(re2::compile(pattern).map(drop));
            });
        }
    }
}
