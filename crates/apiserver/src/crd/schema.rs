//! Access to a structural schema (`openAPIV3Schema`). CEL rules (`x-kubernetes-validations`) are not evaluated.

use serde_json::Value;

/// Most causes of one error.
pub(super) const MAX_CAUSES: usize = 50;

/// Fields of every object.
pub(super) const ENVELOPE: [&str; 3] = ["apiVersion", "kind", "metadata"];

pub(super) fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool) == Some(true)
}

/// Runs `inner` with `step` added to the path.
pub(super) fn within(path: &mut String, step: &str, inner: impl FnOnce(&mut String)) {
    let length = path.len();
    path.push_str(step);
    inner(path);
    path.truncate(length);
}
