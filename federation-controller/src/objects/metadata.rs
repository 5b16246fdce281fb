//! The metadata of watched objects, without unused fields.
//!
//! `managedFields` and annotations are most of an object's metadata. The parser skips them, with few exceptions, so that they take no memory
//! while a list of ten thousand pods arrives.

use std::collections::BTreeMap;
use std::fmt;

use api::linkerd::annotations::PREFIXES;
use api::names::{EXPORT_TO_ANNOTATION, NODE_SELECTOR_ANNOTATION};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::core::ObjectMeta;
use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The metadata that records and watches use.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
    #[serde(deserialize_with = "used")]
    annotations: Option<BTreeMap<String, String>>,
}

/// Parses the annotations that records use, and skips all others.
fn used<'de, D: Deserializer<'de>>(from: D) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    struct Used;

    impl<'de> Visitor<'de> for Used {
        type Value = Option<BTreeMap<String, String>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("annotations")
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
            let mut used = BTreeMap::new();
            while let Some(key) = from.next_key::<String>()? {
                match &*key {
                    EXPORT_TO_ANNOTATION | NODE_SELECTOR_ANNOTATION => drop(used.insert(key, from.next_value()?)),
                    key if PREFIXES.iter().any(|prefix| key.starts_with(prefix)) => {
                        drop(used.insert(key.to_owned(), from.next_value()?));
                    }
                    _ => drop(from.next_value::<IgnoredAny>()?),
                }
            }
            Ok((!used.is_empty()).then_some(used))
        }
    }

    from.deserialize_any(Used)
}

/// Parses metadata; for `deserialize_with`.
pub(super) fn read<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    let metadata = Metadata::deserialize(from)?;
    Ok(ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        resource_version: metadata.resource_version,
        creation_timestamp: metadata.creation_timestamp,
        deletion_timestamp: metadata.deletion_timestamp,
        labels: metadata.labels,
        owner_references: metadata.owner_references,
        annotations: metadata.annotations,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_used_fields_are_read() {
        let whole = serde_json::json!({
            "name": "a", "namespace": "b", "uid": "u", "resourceVersion": "7", "labels": {"app": "x"},
            "creationTimestamp": "2026-01-02T03:04:05Z", "deletionTimestamp": null,
            "annotations": {"large": "text"},
            "managedFields": [{"manager": "m", "fieldsV1": {"f:metadata": {"f:labels": {}}}}],
        });
        let read = read(whole.clone()).unwrap();
        let mut expected: ObjectMeta = serde_json::from_value(whole).unwrap();
        (expected.annotations, expected.managed_fields) = (None, None);
        assert_eq!(read, expected);
        let annotations = serde_json::json!({"large": "text", NODE_SELECTOR_ANNOTATION: "{}"});
        let read = super::read(serde_json::json!({"annotations": annotations})).unwrap();
        assert_eq!(read.annotations, Some([(NODE_SELECTOR_ANNOTATION.to_owned(), "{}".to_owned())].into()));
        assert_eq!(super::read(serde_json::json!({"annotations": null})).unwrap().annotations, None);
    }
}
