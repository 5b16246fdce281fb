//! The records of a topology file as they are written, with their places.
//!
//! Nothing is checked here but the shape; [`super::check`] turns these into a [`super::Topology`].

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_saphyr::Spanned;

/// The only value of `apiVersion`.
pub const API_VERSION: &str = "lab.isthmus.dev/v1alpha1";
/// The only value of `kind`.
pub const KIND: &str = "Topology";

/// A topology file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct File {
    /// `lab.isthmus.dev/v1alpha1`.
    pub api_version: Spanned<String>,
    /// `Topology`.
    pub kind: Spanned<String>,
    /// The name.
    #[serde(default)]
    pub metadata: Metadata,
    /// The mesh.
    pub spec: Spec,
}

/// `metadata`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// The lab's default name; the file's name without its extension if absent.
    pub name: Option<Spanned<String>>,
}

/// `spec`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// Settings of the whole mesh.
    #[serde(default)]
    pub mesh: Mesh,
    /// The networks. If the list is absent, those that clusters name.
    pub networks: Option<Vec<Spanned<Network>>>,
    /// The clusters.
    pub clusters: Spanned<Vec<Spanned<Cluster>>>,
    /// What runs in them.
    #[serde(default)]
    pub workloads: Vec<Spanned<Workload>>,
    /// Services that cross clusters.
    #[serde(default)]
    pub exports: Vec<Spanned<Export>>,
    /// Manifests to apply: a path, or a path with the clusters it is for.
    #[serde(default)]
    pub manifests: Vec<Spanned<Manifest>>,
}

/// `spec.mesh`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mesh {
    /// Default `cluster.local`.
    pub trust_domain: Option<Spanned<String>>,
    /// Every service crosses clusters. Default false.
    #[serde(default)]
    pub export_all: bool,
    /// Further keys of Istio's MeshConfig.
    #[serde(default)]
    pub config: BTreeMap<String, serde_json::Value>,
}

/// An entry of `spec.networks`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Network {
    /// A DNS label.
    pub name: Spanned<String>,
    /// Default 10.244.0.0/16. Networks may use the same addresses.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<Spanned<String>>,
    /// One-way delay, such as `20ms`.
    pub delay: Option<Spanned<String>>,
}

/// An entry of `spec.clusters`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    /// A DNS label.
    pub name: Spanned<String>,
    /// `primary` or `remote`.
    pub role: Spanned<String>,
    /// The primary of a remote cluster. May be left out when there is just one.
    pub primary: Option<Spanned<String>>,
    /// Default `net-<name>`.
    pub network: Option<Spanned<String>>,
    /// Default the cluster's name.
    pub region: Option<Spanned<String>>,
    /// Default one zone, `<region>-a`.
    pub zones: Option<Vec<Spanned<String>>>,
    /// The other primaries whose remote secret this primary holds; its remotes' are always there.
    #[serde(default)]
    pub secrets_of: Vec<Spanned<String>>,
}

/// An entry of `spec.workloads`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Workload {
    /// The service's name, a DNS label.
    pub name: Spanned<String>,
    /// Default `default`.
    pub namespace: Option<Spanned<String>>,
    /// The cluster.
    pub cluster: Option<Spanned<String>>,
    /// Or several of them.
    pub clusters: Option<Vec<Spanned<String>>>,
    /// The label `version`.
    pub version: Option<Spanned<String>>,
    /// Pins the pods to a zone.
    pub zone: Option<Spanned<String>>,
    /// Default 1.
    pub replicas: Option<Spanned<u32>>,
    /// `testapp` (the default) or `command`.
    pub kind: Option<Spanned<String>>,
    /// The program of kind `command`.
    pub command: Option<Spanned<Vec<String>>>,
    /// Default http 9080, tcp 9090 and tcp-banner 9091, where the server speaks first.
    pub ports: Option<Vec<Spanned<Port>>>,
    /// Default false.
    #[serde(default)]
    pub exported: bool,
    /// Default true.
    pub inject: Option<bool>,
    /// Environment of the container.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Default the workload's name.
    pub service_account: Option<Spanned<String>>,
    /// Annotations of the pods.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// A port of a workload.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// The service's port.
    pub port: u16,
    /// The container's port; the same by default.
    pub target_port: Option<u16>,
}

/// An entry of `spec.exports`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Export {
    /// The service's name.
    pub name: Spanned<String>,
    /// Default `default`.
    pub namespace: Option<Spanned<String>>,
    /// Default every cluster that has the service.
    pub clusters: Option<Vec<Spanned<String>>>,
}

/// An entry of `spec.manifests`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// The file, relative to the topology's folder.
    pub path: Spanned<String>,
    /// Default all clusters.
    pub clusters: Option<Vec<Spanned<String>>>,
}

/// Parses `text`. Booleans are those of YAML 1.2, so that `no` or `y` in free-form places stay text.
pub(super) fn read(text: &str) -> Result<File, serde_saphyr::Error> {
    serde_saphyr::from_str_with_options(text, serde_saphyr::options! { strict_booleans: true })
}
