//! ServiceExport and ServiceImport (`multicluster.x-k8s.io/v1alpha1`, KEP-1645). The fields of v1beta1 are the same.
//!
//! The name and namespace of a ServiceExport are those of the exported service.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::SessionAffinityConfig;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::{NamespaceResourceScope, ObjectMeta};
use serde::{Deserialize, Serialize};

use crate::resource::resource;

/// The API group.
pub const GROUP: &str = "multicluster.x-k8s.io";

/// The label of an EndpointSlice with the name of the exported service.
pub const SERVICE_NAME_LABEL: &str = "multicluster.kubernetes.io/service-name";
/// The label of an EndpointSlice with the cluster of its endpoints.
pub const SOURCE_CLUSTER_LABEL: &str = "multicluster.kubernetes.io/source-cluster";
/// The label of an EndpointSlice with its controller.
pub const SLICE_MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// The label of the ServiceImports that the controller writes.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY_LABEL`] and [`SLICE_MANAGED_BY_LABEL`] of the controller's own objects.
pub const MANAGED_BY: &str = "isthmus.dev";
/// The DNS zone of exported services.
pub const CLUSTERSET_DOMAIN: &str = "clusterset.local";

/// An export: permission for other clusters to use the service of the same name and namespace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceExport {
    /// The metadata. Name and namespace are those of the service.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What the import has beside the service.
    #[serde(default, skip_serializing_if = "ServiceExportSpec::is_empty")]
    pub spec: ServiceExportSpec,
    /// The status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ServiceExportStatus>,
}

/// Labels and annotations of the import. Those of the service itself are not exported.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceExportSpec {
    /// The labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exported_labels: Option<BTreeMap<String, String>>,
    /// The annotations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exported_annotations: Option<BTreeMap<String, String>>,
}

impl ServiceExportSpec {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The status of an export: conditions `Valid`, `Ready` and `Conflict`.
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
    /// The virtual addresses, at most one of each IP family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    /// The IP families, `IPv4` or `IPv6`, in the order of `ips`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_families: Vec<String>,
    /// The ports.
    #[serde(default)]
    pub ports: Vec<ServiceImportPort>,
    /// `ClientIP` or `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<String>,
    /// The settings of `ClientIP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity_config: Option<SessionAffinityConfig>,
    /// `Cluster` or `Local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<String>,
    /// Such as `PreferClose`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<String>,
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
    /// `Present` or `Absent`: whether the cluster has EndpointSlices of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_slice_objects: Option<String>,
    /// The clusters, by name.
    #[serde(default)]
    pub clusters: Vec<ExportingCluster>,
    /// The condition `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
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
