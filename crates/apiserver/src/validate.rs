//! Kubernetes' checks of built-in kinds, in its words.

use serde_json::Value;

use crate::kinds::Kind;

/// One reason for which an object is refused: an entry of `details.causes` of the `Invalid` status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldValueInvalid`, …
    pub reason: &'static str,
    /// What is wrong, such as `Required value`.
    pub message: String,
    /// Path of the field, such as `spec.containers[0].name`.
    pub field: String,
}

/// What is wrong with `object`, which has its defaults; `old` is what it replaces.
pub fn object(kind: &Kind, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let _ = (kind, object, old);
    Vec::new()
}

/// Every field of `object` that its kind does not have, as `unknown field "spec.foo"`.
pub fn unknown_fields(kind: &Kind, object: &Value) -> Vec<String> {
    let _ = (kind, object);
    Vec::new()
}

/// Removes the fields that the kind does not have, as decoding into Kubernetes' types does.
pub fn prune(kind: &Kind, object: &mut Value) {
    let _ = (kind, object);
}

/// Checks that every field is of its type: the message of the first that is not, for a `BadRequest` status.
pub fn types(kind: &Kind, object: &Value) -> Result<(), String> {
    let _ = (kind, object);
    Ok(())
}
