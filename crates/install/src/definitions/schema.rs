//! The parts of structural schemas.

use serde_json::{Map, Value, json};

/// An object with these fields and no others.
pub(super) fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let properties: Map<String, Value> = fields.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    json!({"type": "object", "properties": properties})
}

/// An object with these fields and no others, of which the first has to be there.
pub(super) fn object_with<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let first = fields.first().map(|(name, _)| (*name).to_owned());
    let mut schema = object(fields);
    schema["required"] = json!(first.as_slice());
    schema
}

/// A list.
pub(super) fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

/// An object with fields of any name.
pub(super) fn map(values: Value) -> Value {
    json!({"type": "object", "additionalProperties": values})
}

/// A string.
pub(super) fn text() -> Value {
    json!({"type": "string"})
}

/// A list of strings.
pub(super) fn texts() -> Value {
    list(text())
}

/// A duration, such as `10s` or `1h30m`.
pub(super) fn duration() -> Value {
    json!({"type": "string", "pattern": "^([0-9]+(\\.[0-9]*)?|\\.[0-9]+)(h|m|s|ms|us|ns)(([0-9]+(\\.[0-9]*)?|\\.[0-9]+)(h|m|s|ms|us|ns))*$|^0$"})
}

/// One of some words.
pub(super) fn word<const N: usize>(words: [&str; N]) -> Value {
    json!({"type": "string", "enum": words.as_slice()})
}

/// `true` or `false`.
pub(super) fn boolean() -> Value {
    json!({"type": "boolean"})
}

/// An integer that is not negative.
pub(super) fn count() -> Value {
    json!({"type": "integer", "minimum": 0})
}

/// The number of a port.
pub(super) fn port() -> Value {
    json!({"type": "integer", "minimum": 0, "maximum": 65535})
}

/// A number.
pub(super) fn number() -> Value {
    json!({"type": "number"})
}

/// An integer, or a string such as a percentage or quantity.
pub(super) fn integer_or_text() -> Value {
    json!({"x-kubernetes-int-or-string": true})
}

/// An object that is not described further.
pub(super) fn free() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// A value of any type.
pub(super) fn anything() -> Value {
    json!({"x-kubernetes-preserve-unknown-fields": true})
}

/// A field of [`api::compatibility::TOLERATED`], about which the controller warns.
pub(super) fn tolerated() -> Value {
    anything()
}

/// `selector` of policies.
pub(super) fn selector() -> Value {
    object([("matchLabels", map(text()))])
}

/// `targetRef` of policies.
pub(super) fn target() -> Value {
    object([("group", text()), ("kind", text()), ("name", text()), ("namespace", text())])
}
