//! JSON patches (RFC 6902) with limits: a small patch can produce an object of any size and depth.

use json_patch::{Patch, PatchOperation};
use serde_json::Value;

/// Most operations of a patch, as in Kubernetes.
pub(super) const MAX_OPERATIONS: usize = 10_000;

/// Most copy and move operations of a patch. Each of them is checked.
const MAX_COPIES: usize = 500;

/// Most bytes that a patch copies, as in Kubernetes.
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// Deepest path of an operation, and deepest nesting of the result. Decoded JSON is at most 128 levels deep.
const MAX_DEPTH: usize = 128;

/// Why a patch is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JsonPatchError {
    #[error("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooLong(usize),
    #[error("the patch copies more than the limit")]
    CopiesTooMuch,
    #[error("the patched object is nested too deeply")]
    TooDeep,
    #[error("{0}")]
    Inapplicable(String),
}

/// Decodes a patch. The error says what is wrong in the patch.
pub(crate) fn decode(patch: &Value) -> Result<Patch, String> {
    let operations = patch.as_array().ok_or("a JSON patch must be a list of operations")?;
    let operation = |(index, operation): (usize, &Value)| {
        serde_json::from_value(operation.clone()).map_err(|_| {
            format!(
                "operation {index}: must have op (add, remove, replace, move, copy or test), path, and value or from \
                 as required by op"
            )
        })
    };
    operations.iter().enumerate().map(operation).collect::<Result<_, _>>().map(Patch)
}

/// Applies a patch. After an error the object is partly changed.
pub(crate) fn apply(object: &mut Value, patch: &Patch) -> Result<(), JsonPatchError> {
    if patch.0.len() > MAX_OPERATIONS {
        return Err(JsonPatchError::TooLong(patch.0.len()));
    }
    let (mut copies, mut copied) = (0, 0);
    for operation in &patch.0 {
        if operation.path().tokens().count() > MAX_DEPTH {
            return Err(JsonPatchError::TooDeep);
        }
        let from = match operation {
            PatchOperation::Copy(copy) => Some(copy.from.as_str()),
            PatchOperation::Move(moved) => Some(moved.from.as_str()),
            _ => None,
        };
        if let Some(source) = from.and_then(|from| object.pointer(from)) {
            if depth(source) + operation.path().tokens().count() > 2 * MAX_DEPTH {
                return Err(JsonPatchError::TooDeep);
            }
            copies += 1;
            copied += source.to_string().len();
            if copies > MAX_COPIES || copied > MAX_COPIED_BYTES {
                return Err(JsonPatchError::CopiesTooMuch);
            }
        }
        json_patch::patch(object, std::slice::from_ref(operation))
            .map_err(|error| JsonPatchError::Inapplicable(error.to_string()))?;
    }
    // A value that is not deep itself may be added deep in the object. JSON decoders reject the result.
    if depth(object) > MAX_DEPTH { Err(JsonPatchError::TooDeep) } else { Ok(()) }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn applied(object: Value, operations: Value) -> Result<Value, JsonPatchError> {
        let patch = decode(&operations).expect("a patch");
        let mut object = object;
        apply(&mut object, &patch).map(|()| object)
    }

    #[test]
    fn errors_name_the_operation() {
        assert_eq!(decode(&json!({})).expect_err("no list"), "a JSON patch must be a list of operations");
        let unknown = json!([{"op": "remove", "path": "/a"}, {"op": "append", "path": "/a", "value": 1}]);
        assert!(decode(&unknown).expect_err("unknown op").starts_with("operation 1: must have op"));
        assert!(decode(&json!([{"op": "add", "path": "/a"}])).is_err(), "no value");
    }

    #[test]
    fn applies_in_order() {
        let operations = json!([
            {"op": "add", "path": "/b", "value": [1]}, {"op": "copy", "from": "/b/0", "path": "/b/-"}, {"op": "remove", "path": "/a"},
        ]);
        assert_eq!(applied(json!({"a": 1}), operations), Ok(json!({"b": [1, 1]})));
        assert!(matches!(
            applied(json!({}), json!([{"op": "remove", "path": "/x"}])),
            Err(JsonPatchError::Inapplicable(_))
        ));
    }

    #[test]
    fn small_patches_cannot_produce_large_objects() {
        let doubling: Vec<Value> =
            (0..400).map(|n| json!({"op": "copy", "from": "", "path": format!("/{n}")})).collect();
        assert!(matches!(
            applied(json!({"x": "y"}), json!(doubling)),
            Err(JsonPatchError::CopiesTooMuch | JsonPatchError::TooDeep)
        ));
        let deeper: Vec<Value> = (1..400).map(|n| json!({"op": "add", "path": "/a".repeat(n), "value": {}})).collect();
        assert_eq!(applied(json!({}), json!(deeper)), Err(JsonPatchError::TooDeep));
        let nested = (0..100).fold(json!(1), |inner, _| json!([inner]));
        let twice = json!([{"op": "add", "path": "/a", "value": nested}, {"op": "add", "path": format!("/a{}", "/0".repeat(99)), "value": nested}]);
        assert_eq!(applied(json!({}), twice), Err(JsonPatchError::TooDeep));
    }
}
