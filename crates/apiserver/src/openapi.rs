//! OpenAPI documents, which `kubectl explain`, `kubectl apply` and client generators read.
//!
//! kubectl reads version 3: from the `fieldValidation` parameter of PATCH operations it learns that the server
//! validates fields, from the merge keys how to compute patches, and `explain` prints the descriptions. If kubectl
//! finds no schema in version 3, it reads version 2 as protobuf; an empty document is sufficient there. Other clients
//! read version 2 as JSON.
//!
//! Documents are generated for each request. kubectl caches them by the hash in their URL.

mod definitions;
mod operations;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

pub(crate) use definitions::CustomResourceSchema;
use operations::path_of;

use crate::kinds::{BUILTIN, ResourceKind, Verbs};
use crate::schema;

/// The Kubernetes version of the built-in kinds.
const VERSION: &str = "v1.33.0";

/// Hash of the built-in schemas.
static FINGERPRINT: LazyLock<u64> = LazyLock::new(|| {
    let mut hasher = DefaultHasher::new();
    Value::Object(schema::definitions::generate()).to_string().hash(&mut hasher);
    hasher.finish()
});

/// `/openapi/v3`: the URLs of the documents of each group and version.
pub(crate) fn v3_index(custom: &[CustomResourceSchema<'_>]) -> Value {
    let mut hashes: BTreeMap<String, DefaultHasher> = BTreeMap::new();
    for kind in BUILTIN.iter() {
        hashes.entry(path_of(kind)).or_insert_with(|| {
            let mut hasher = DefaultHasher::new();
            FINGERPRINT.hash(&mut hasher);
            hasher
        });
    }
    for custom in custom {
        let hasher = hashes.entry(path_of(custom.kind)).or_default();
        format!("{:?}", custom.kind).hash(hasher);
        custom.schema.map(Value::to_string).hash(hasher);
    }
    let paths: Map<String, Value> = hashes
        .into_iter()
        .map(|(path, hasher)| {
            let address = format!("/openapi/v3/{path}?hash={:016X}", hasher.finish());
            (path, json!({"serverRelativeURL": address}))
        })
        .collect();
    json!({"paths": paths})
}

/// `/openapi/v3/{path}` as JSON, where `path` is `api/v1` or `apis/<group>/<version>`. Returns None if the group or
/// version does not exist.
pub(crate) fn v3(path: &str, custom: &[CustomResourceSchema<'_>]) -> Option<Vec<u8>> {
    let path = path.trim_matches('/');
    let parts = DocumentParts::new(|kind| path_of(kind) == path, custom)?;
    let document = json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": parts.paths,
        "components": {"schemas": parts.schemas},
    });
    Some(document.to_string().into_bytes())
}

/// `/openapi/v2` as JSON.
pub(crate) fn v2(custom: &[CustomResourceSchema<'_>]) -> Vec<u8> {
    let parts = DocumentParts::new(|_| true, custom).unwrap_or_default();
    let mut document = json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": operations::as_v2(parts.paths),
        "definitions": parts.schemas,
    });
    definitions::as_v2(&mut document);
    document.to_string().into_bytes()
}

/// Media type in which kubectl requests `/openapi/v2`.
pub(crate) const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Media type of the response, because the requested media type is not a valid one.
pub(crate) const V2_PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `/openapi/v2` as protobuf, without paths and definitions. For kinds without a schema kubectl then prints `no matches
/// for kind …`, and not an error about the server.
pub(crate) fn v2_protobuf() -> Vec<u8> {
    /// A string or message field shorter than 128 bytes.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2, content.len() as u8];
        field.extend_from_slice(content);
        field
    }
    let info = [field(1, b"Kubernetes"), field(2, VERSION.as_bytes())].concat();
    [field(1, b"2.0"), field(2, &info)].concat()
}

/// Parts of a document.
#[derive(Default)]
struct DocumentParts {
    paths: Map<String, Value>,
    schemas: Map<String, Value>,
}

impl DocumentParts {
    /// The operations on the kinds that `wanted` selects, and the schemas that the operations refer to. Returns None if
    /// there are no such kinds.
    fn new(wanted: impl Fn(&ResourceKind) -> bool, custom: &[CustomResourceSchema<'_>]) -> Option<Self> {
        let mut known = schema::definitions::generate();
        definitions::annotate(&mut known);
        let mut parts = Self::default();
        let mut roots = vec![definitions::STATUS.to_owned(), definitions::DELETE_OPTIONS.to_owned()];
        for kind in BUILTIN.iter().filter(|kind| wanted(kind)) {
            let name = schema::definitions::name(&kind.group, &kind.version, &kind.kind);
            parts.add(kind, &name, &mut known, &mut roots);
        }
        for custom in custom.iter().filter(|custom| wanted(custom.kind)) {
            let name = definitions::custom_name(custom.kind);
            known.insert(name.clone(), definitions::custom(custom));
            parts.add(custom.kind, &name, &mut known, &mut roots);
        }
        if parts.paths.is_empty() {
            return None;
        }
        parts.schemas = definitions::closure(known, roots);
        Some(parts)
    }

    fn add(&mut self, kind: &ResourceKind, schema: &str, known: &mut Map<String, Value>, roots: &mut Vec<String>) {
        roots.push(schema.to_owned());
        if kind.verbs != Verbs::CreateOnly {
            let list = format!("{schema}List");
            known.insert(list.clone(), definitions::list(kind, schema));
            roots.push(list);
        }
        operations::add(kind, schema, &mut self.paths, roots);
    }
}
