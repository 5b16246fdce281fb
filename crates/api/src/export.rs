//! ServiceExport and ServiceImport (`multicluster.x-k8s.io/v1alpha1`, KEP-1645).
//!
//! A ServiceExport has no spec: its name and namespace are those of the exported service.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::{NamespaceResourceScope, ObjectMeta};
use serde::{Deserialize, Serialize};

use crate::resource::resource;

/// The API group.
pub const GROUP: &str = "multicluster.x-k8s.io";

/// An export: permission for other clusters to use the service of the same name and namespace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceExport {
    /// The metadata. Name and namespace are those of the service.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ServiceExportStatus>,
}

/// The status of an export: conditions `Valid` and `Conflict`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceExportStatus {
    /// The conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A service that at least one cluster exports.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceImport {
    /// The metadata. Name and namespace are those of the service.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The merged service.
    #[serde(default)]
    pub spec: ServiceImportSpec,
    /// The status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ServiceImportStatus>,
}

/// The merged service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceImportSpec {
    /// `ClusterSetIP` or `Headless`.
    #[serde(default)]
    pub r#type: String,
    /// The virtual addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    /// The ports.
    #[serde(default)]
    pub ports: Vec<ServiceImportPort>,
}

/// A port of the merged service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceImportPort {
    /// The name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The protocol; `TCP` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The application protocol, such as `http` or `kubernetes.io/h2c`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    /// The number.
    pub port: i32,
}

/// The status of an import: the clusters that export the service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceImportStatus {
    /// The clusters, by name.
    #[serde(default)]
    pub clusters: Vec<ExportingCluster>,
}

/// A cluster that exports a service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ExportingCluster {
    /// The name of the cluster.
    pub cluster: String,
}

resource!(
    ServiceExport,
    "multicluster.x-k8s.io",
    "v1alpha1",
    "ServiceExport",
    "serviceexports",
    NamespaceResourceScope
);
resource!(
    ServiceImport,
    "multicluster.x-k8s.io",
    "v1alpha1",
    "ServiceImport",
    "serviceimports",
    NamespaceResourceScope
);

#[cfg(test)]
mod tests {
    use super::*;
    use kube::Resource as _;

    #[test]
    fn an_export_needs_no_more_than_a_name() {
        let text = "apiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ServiceExport\nmetadata:\n  name: reviews\n";
        let export: ServiceExport = crate::yaml::from_str(text).unwrap();
        assert_eq!(export.metadata.name.as_deref(), Some("reviews"));
        assert_eq!(
            ServiceExport::url_path(&(), Some("default")),
            "/apis/multicluster.x-k8s.io/v1alpha1/namespaces/default/serviceexports"
        );
    }
}
