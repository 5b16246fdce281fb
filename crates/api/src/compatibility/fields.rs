//! The fields that users write although Istio's API does not have them, or has dropped them. The schemas of the kinds admit
//! them; any other unknown field is refused.

use serde_json::Value;

use super::MAX_FIELDS;
use crate::Warning;

/// A field that is admitted and has no effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ToleratedField {
    /// The kind of the object.
    pub kind: &'static str,
    /// The field that contains it, at any depth.
    pub parent: &'static str,
    /// The field.
    pub field: &'static str,
    /// The values that are tolerated.
    pub values: Values,
    /// Why, and what to write instead.
    pub instead: &'static str,
}

/// The values of a tolerated field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Values {
    /// Istio's API does not have the field.
    Any,
    /// Istio's API has a list there, and users write a single string.
    Single,
}

/// The tolerated fields.
pub const TOLERATED: &[ToleratedField] = &[
    field(
        "DestinationRule",
        "outlierDetection",
        "minRequestVolume",
        "has no effect: outlier detection counts consecutive errors; remove it, or raise consecutive5xxErrors",
    ),
    field(
        "DestinationRule",
        "outlierDetection",
        "consecutiveErrors",
        "is the former name of consecutive5xxErrors; use that, or consecutiveGatewayErrors",
    ),
    ToleratedField {
        kind: "RequestAuthentication",
        parent: "jwtRules",
        field: "audiences",
        values: Values::Single,
        instead: "is a list; write the string in brackets",
    },
    field(
        "Telemetry",
        "metrics",
        "dimensions",
        "has no effect: use overrides[].tagOverrides, which add and remove tags",
    ),
    field("VirtualService", "http", "websocketUpgrade", "has no effect: WebSocket connections always pass; remove it"),
    field("VirtualService", "http", "appendHeaders", "has no effect: use headers.request.add"),
    field("VirtualService", "http", "appendRequestHeaders", "has no effect: use headers.request.add"),
    field("VirtualService", "http", "removeRequestHeaders", "has no effect: use headers.request.remove"),
    field("VirtualService", "http", "appendResponseHeaders", "has no effect: use headers.response.add"),
    field("VirtualService", "http", "removeResponseHeaders", "has no effect: use headers.response.remove"),
];

const fn field(kind: &'static str, parent: &'static str, field: &'static str, instead: &'static str) -> ToleratedField {
    ToleratedField { kind, parent, field, values: Values::Any, instead }
}

/// Returns whether a field of some kind is tolerated with any value.
pub(crate) fn is_tolerated(name: &str) -> bool {
    TOLERATED.iter().any(|of| of.field == name && of.values == Values::Any)
}

/// Returns a warning for each tolerated field of an object, at most one more than [`MAX_FIELDS`].
pub(crate) fn warnings(kind: &str, object: &Value) -> Vec<Warning> {
    let of_kind: Vec<&ToleratedField> = TOLERATED.iter().filter(|of| of.kind == kind).collect();
    let mut found = Vec::new();
    if let Some(spec) = object.get("spec").filter(|_| !of_kind.is_empty()) {
        visit(&of_kind, "spec", spec, &mut "spec".to_owned(), &mut found);
    }
    found
}

fn visit(of_kind: &[&ToleratedField], parent: &str, value: &Value, path: &mut String, found: &mut Vec<Warning>) {
    let length = path.len();
    if found.len() > MAX_FIELDS {
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                path.push('.');
                path.push_str(name);
                let known =
                    of_kind.iter().find(|of| of.parent == parent && of.field == name && of.values.include(value));
                found.extend(known.map(|known| Warning::new(&**path, known.instead)));
                visit(of_kind, name, value, path, found);
                path.truncate(length);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                path.push_str(&format!("[{index}]"));
                visit(of_kind, parent, item, path, found);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

impl Values {
    fn include(self, value: &Value) -> bool {
        match self {
            Values::Any => true,
            Values::Single => value.is_string(),
        }
    }
}
