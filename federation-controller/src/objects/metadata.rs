//! The metadata of watched objects, without unused fields.
//!
//! `managedFields` and annotations are most of an object's metadata. The parser skips them, so that they take no memory
//! while a list of ten thousand pods arrives.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::core::ObjectMeta;
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
    }
}
