//! Objects of which only the data is read: Secrets and ConfigMaps.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1 as core;
use kube::core::ObjectMeta;
use serde::Deserialize;

/// A Secret, of which only the data is read.
#[derive(kube::Resource, Clone, Debug, Deserialize)]
#[resource(inherit = "core::Secret")]
pub(crate) struct SecretObject {
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) data: Option<BTreeMap<String, ByteString>>,
}

/// A ConfigMap, of which only the data is read.
#[derive(kube::Resource, Clone, Debug, Deserialize)]
#[resource(inherit = "core::ConfigMap")]
pub(crate) struct ConfigMapObject {
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) data: Option<BTreeMap<String, String>>,
}
