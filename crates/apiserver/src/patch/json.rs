//! JSON patches (RFC 6902), bounded: a patch of a few lines can ask for an object of any size and depth.

use json_patch::{Patch, PatchOperation};
use serde_json::Value;

/// How many operations a patch may have, as in Kubernetes.
pub(super) const MOST_OPERATIONS: usize = 10_000;

/// How many operations may copy or move, each of which is checked.
const MOST_COPIES: usize = 500;

/// How many bytes may be copied in all, as in Kubernetes.
const MOST_COPIED: usize = 3 * 1024 * 1024;

/// How deep an operation may reach, and how deep what it makes may be nested. Decoded JSON is at most 128 deep.
const DEEPEST: usize = 128;

/// Why a patch was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {0}")]
    TooLong(usize),
    #[error("the patch copies too much")]
    CopiesTooMuch,
    #[error("the patch nests too deeply")]
    TooDeep,
    #[error("{0}")]
    Inapplicable(String),
}

/// Applies a patch. After an error the object is half changed.
pub(crate) fn apply(object: &mut Value, patch: &Patch) -> Result<(), Refusal> {
    if patch.0.len() > MOST_OPERATIONS {
        return Err(Refusal::TooLong(patch.0.len()));
    }
    let (mut copies, mut copied) = (0, 0);
    for operation in &patch.0 {
        if operation.path().tokens().count() > DEEPEST {
            return Err(Refusal::TooDeep);
        }
        let from = match operation {
            PatchOperation::Copy(copy) => Some(copy.from.as_str()),
            PatchOperation::Move(moved) => Some(moved.from.as_str()),
            _ => None,
        };
        if let Some(source) = from.and_then(|from| object.pointer(from)) {
            if depth(source) + operation.path().tokens().count() > 2 * DEEPEST {
                return Err(Refusal::TooDeep);
            }
            copies += 1;
            copied += source.to_string().len();
            if copies > MOST_COPIES || copied > MOST_COPIED {
                return Err(Refusal::CopiesTooMuch);
            }
        }
        json_patch::patch(object, std::slice::from_ref(operation))
            .map_err(|error| Refusal::Inapplicable(error.to_string()))?;
    }
    // A value that is shallow in itself may have gone deep into the object; nobody could read that back.
    if depth(object) > DEEPEST { Err(Refusal::TooDeep) } else { Ok(()) }
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

    fn applied(object: Value, operations: Value) -> Result<Value, Refusal> {
        let patch: Patch = serde_json::from_value(operations).expect("a patch");
        let mut object = object;
        apply(&mut object, &patch).map(|()| object)
    }

    #[test]
    fn applies_in_order() {
        let operations = json!([
            {"op": "add", "path": "/b", "value": [1]}, {"op": "copy", "from": "/b/0", "path": "/b/-"}, {"op": "remove", "path": "/a"},
        ]);
        assert_eq!(applied(json!({"a": 1}), operations), Ok(json!({"b": [1, 1]})));
        assert!(matches!(applied(json!({}), json!([{"op": "remove", "path": "/x"}])), Err(Refusal::Inapplicable(_))));
    }

    #[test]
    fn a_short_patch_cannot_make_a_huge_object() {
        let doubling: Vec<Value> =
            (0..400).map(|n| json!({"op": "copy", "from": "", "path": format!("/{n}")})).collect();
        assert!(matches!(applied(json!({"x": "y"}), json!(doubling)), Err(Refusal::CopiesTooMuch | Refusal::TooDeep)));
        let deeper: Vec<Value> = (1..400).map(|n| json!({"op": "add", "path": "/a".repeat(n), "value": {}})).collect();
        assert_eq!(applied(json!({}), json!(deeper)), Err(Refusal::TooDeep));
        let nested = (0..100).fold(json!(1), |inner, _| json!([inner]));
        let twice = json!([{"op": "add", "path": "/a", "value": nested}, {"op": "add", "path": format!("/a{}", "/0".repeat(99)), "value": nested}]);
        assert_eq!(applied(json!({}), twice), Err(Refusal::TooDeep));
    }
}
