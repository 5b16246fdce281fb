//! OpenAPI documents: what `kubectl explain`, `apply` and client generators ask a server for.
//!
//! kubectl reads version 3: the PATCH operations' `fieldValidation` parameter tells it that the server checks fields itself, the
//! merge keys tell it how to compute patches, and `explain` prints the descriptions. Version 2 it takes as protobuf only, when it
//! finds nothing in version 3: a document that says nothing either is all it needs there. Other clients read version 2 as JSON.
//!
//! Documents are made when asked for. kubectl keeps them on disk by the hash in their address.

mod definitions;
mod operations;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

pub(crate) use definitions::CustomKind;
use operations::path_of;

use crate::kinds::{BUILTIN, Kind};
use crate::schema;

/// The Kubernetes version whose API the built-in kinds are of.
const VERSION: &str = "v1.33.0";

/// Changes whenever the built-in documents may.
static FINGERPRINT: LazyLock<u64> = LazyLock::new(|| {
    let mut hasher = DefaultHasher::new();
    Value::Object(schema::definitions::generate()).to_string().hash(&mut hasher);
    hasher.finish()
});

/// `/openapi/v3`: where the document of each group and version is.
pub(crate) fn v3_index(custom: &[CustomKind<'_>]) -> Value {
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

/// `/openapi/v3/{path}`, where `path` is `api/v1` or `apis/<group>/<version>`, as JSON. None if there is no such group.
pub(crate) fn v3(path: &str, custom: &[CustomKind<'_>]) -> Option<Vec<u8>> {
    let path = path.trim_matches('/');
    let parts = Parts::new(|kind| path_of(kind) == path, custom)?;
    let document = json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": parts.paths,
        "components": {"schemas": parts.schemas},
    });
    Some(document.to_string().into_bytes())
}

/// `/openapi/v2` as JSON.
pub(crate) fn v2(custom: &[CustomKind<'_>]) -> Vec<u8> {
    let parts = Parts::new(|_| true, custom).unwrap_or_default();
    let mut document = json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": operations::as_v2(parts.paths),
        "definitions": parts.schemas,
    });
    definitions::as_v2(&mut document);
    document.to_string().into_bytes()
}

/// Media type in which kubectl asks for `/openapi/v2`.
pub(crate) const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The same media type in an answer: the one that is asked for is not a valid one.
pub(crate) const V2_PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `/openapi/v2` as protobuf, with neither paths nor definitions: to kubectl, no kind has a schema there, and it says so in its own
/// words (`no matches for kind …`) rather than complain about the server.
pub(crate) fn v2_protobuf() -> Vec<u8> {
    /// A field of text or of a message, shorter than 128 bytes.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2, content.len() as u8];
        field.extend_from_slice(content);
        field
    }
    let info = [field(1, b"Kubernetes"), field(2, VERSION.as_bytes())].concat();
    [field(1, b"2.0"), field(2, &info)].concat()
}

/// What a document is made of.
#[derive(Default)]
struct Parts {
    paths: Map<String, Value>,
    schemas: Map<String, Value>,
}

impl Parts {
    /// The operations on the kinds that are `wanted`, and the schemas that they need. None if there are no such kinds.
    fn new(wanted: impl Fn(&Kind) -> bool, custom: &[CustomKind<'_>]) -> Option<Self> {
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

    fn add(&mut self, kind: &Kind, schema: &str, known: &mut Map<String, Value>, roots: &mut Vec<String>) {
        roots.push(schema.to_owned());
        if kind.is_stored() {
            let list = format!("{schema}List");
            known.insert(list.clone(), definitions::list(kind, schema));
            roots.push(list);
        }
        operations::add(kind, schema, &mut self.paths, roots);
    }
}
