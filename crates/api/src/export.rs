//! ServiceExport and ServiceImport (`multicluster.x-k8s.io/v1alpha1`, KEP-1645).
//!
//! A ServiceExport has no content: its name and namespace are those of the service whose endpoints other clusters may use.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::{NamespaceResourceScope, ObjectMeta};
use serde::{Deserialize, Serialize};

use crate::resource::resource;

/// The API group.
pub const GROUP: &str = "multicluster.x-k8s.io";

/// Lets other clusters use the service of the same name in the same namespace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceExport {
    /// Name and namespace are the service's.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What became of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ServiceExportStatus>,
}

/// Conditions `Valid` and `Conflict`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceExportStatus {
    /// The conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A service that at least one other cluster exports.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceImport {
    /// Name and namespace are the service's.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The merged service.
    #[serde(default)]
    pub spec: ServiceImportSpec,
    /// Which clusters export it.
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
    /// Virtual addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    /// Ports.
    #[serde(default)]
    pub ports: Vec<ServiceImportPort>,
}

/// A port of the merged service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceImportPort {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `TCP` unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// `http`, `kubernetes.io/h2c` and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    /// Its number.
    pub port: i32,
}

/// Which clusters export it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceImportStatus {
    /// By name.
    #[serde(default)]
    pub clusters: Vec<ExportingCluster>,
}

/// A cluster that exports a service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ExportingCluster {
    /// Its name.
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
