//! OpenAPI documents: what `kubectl explain`, `apply` and client generators ask a server for.

pub(crate) mod definitions;
pub(crate) mod shapes;

use serde_json::{Value, json};

use crate::kinds::Kind;

/// A custom resource's part of the documents: its kind and the `openAPIV3Schema` of that version.
#[derive(Clone, Copy, Debug)]
pub struct CustomKind<'a> {
    /// Names and scope.
    pub kind: &'a Kind,
    /// `openAPIV3Schema`, if the definition has one.
    pub schema: Option<&'a Value>,
}

/// `/openapi/v3`: where the document of each group and version is.
pub fn v3_index(custom: &[CustomKind<'_>]) -> Value {
    let _ = custom;
    json!({"paths": {}})
}

/// `/openapi/v3/{path}`, where `path` is `api/v1` or `apis/<group>/<version>`, as JSON. None if there is no such group.
pub fn v3(path: &str, custom: &[CustomKind<'_>]) -> Option<Vec<u8>> {
    let _ = (path, custom);
    None
}

/// `/openapi/v2` as JSON.
pub fn v2(custom: &[CustomKind<'_>]) -> Vec<u8> {
    let _ = custom;
    b"{}".to_vec()
}
