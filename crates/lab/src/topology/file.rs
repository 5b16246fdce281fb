//! The fields of a topology file, with their locations.
//!
//! Parsing checks only types; [`super::check`] converts the result to a [`super::Topology`].

mod edges;

use std::collections::BTreeMap;

pub use edges::{CertificateEntry, ExternalEntry, ExternalPortEntry, GatewayEntry, GatewayPortEntry, GatewaySettings};
use serde::Deserialize;
use serde_saphyr::Spanned;

/// The only value of `apiVersion`.
pub const API_VERSION: &str = "lab.isthmus.dev/v1alpha1";
/// The only value of `kind`.
pub const KIND: &str = "Topology";

/// A topology file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TopologyFile {
    /// `lab.isthmus.dev/v1alpha1`.
    pub api_version: Spanned<String>,
    /// `Topology`.
    pub kind: Spanned<String>,
    /// Metadata.
    #[serde(default)]
    pub metadata: MetadataEntry,
    /// Specification of the mesh.
    pub spec: TopologySpec,
}

/// `metadata`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MetadataEntry {
    /// Default name of the lab; the file's name without extension if absent.
    pub name: Option<Spanned<String>>,
}

/// `spec`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TopologySpec {
    /// Settings of the whole mesh.
    #[serde(default)]
    pub mesh: MeshEntry,
    /// Networks; if absent, those that clusters name.
    pub networks: Option<Vec<Spanned<NetworkEntry>>>,
    /// Links between networks that differ from what the networks say.
    #[serde(default)]
    pub links: Vec<Spanned<LinkEntry>>,
    /// Clusters.
    pub clusters: Spanned<Vec<Spanned<ClusterEntry>>>,
    /// Workloads of the clusters.
    #[serde(default)]
    pub workloads: Vec<Spanned<WorkloadEntry>>,
    /// Services that other clusters may use.
    #[serde(default)]
    pub exports: Vec<Spanned<ExportEntry>>,
    /// Issuers of tokens that the lab serves.
    #[serde(default)]
    pub issuers: Vec<Spanned<IssuerEntry>>,
    /// Servers outside of the mesh.
    #[serde(default)]
    pub external: Vec<Spanned<ExternalEntry>>,
    /// Certificates of the servers of gateways.
    #[serde(default)]
    pub certificates: Vec<Spanned<CertificateEntry>>,
    /// Manifests to apply.
    #[serde(default)]
    pub manifests: Vec<Spanned<ManifestEntry>>,
}

/// `spec.mesh`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshEntry {
    /// Default `cluster.local`.
    pub trust_domain: Option<Spanned<String>>,
    /// Whether every service is exported. Default false.
    #[serde(default)]
    pub export_all: bool,
    /// Name of the container of injected sidecars: `isthmus-proxy` (the default) or `istio-proxy`.
    pub proxy_container: Option<Spanned<String>>,
    /// Further keys of Istio's MeshConfig.
    #[serde(default)]
    pub config: BTreeMap<String, serde_json::Value>,
}

/// An entry of `spec.networks`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkEntry {
    /// A DNS label.
    pub name: Spanned<String>,
    /// Range of pod addresses of the network's first cluster; two ranges, separated by a comma, for two IP families.
    /// Default `10.244.0.0/16` and `fd00:10:244::/56`. Networks may use the same addresses.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<Spanned<String>>,
    /// One-way delay, such as `20ms`.
    pub delay: Option<Spanned<String>>,
    /// Share of lost packets, such as `1%`.
    pub loss: Option<Spanned<String>>,
}

/// An entry of `spec.links`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LinkEntry {
    /// Two networks, or clusters of different networks.
    pub between: Spanned<Vec<Spanned<String>>>,
    /// One-way delay, such as `20ms`, instead of that of the networks.
    pub delay: Option<Spanned<String>>,
    /// Greatest deviation from the delay, such as `5ms`.
    pub jitter: Option<Spanned<String>>,
    /// Share of lost packets, such as `1%`, instead of that of the networks.
    pub loss: Option<Spanned<String>>,
}

/// An entry of `spec.clusters`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterEntry {
    /// A DNS label.
    pub name: Spanned<String>,
    /// `primary` or `remote`.
    pub role: Spanned<String>,
    /// Primary of a remote cluster; optional if there is only one.
    pub primary: Option<Spanned<String>>,
    /// Default `net-<name>`. Pods of clusters on one network reach each other directly.
    pub network: Option<Spanned<String>>,
    /// `IPv4`, `IPv6`, or both. Default `[IPv4]`.
    pub ip_families: Option<Spanned<Vec<Spanned<String>>>>,
    /// Range of pod addresses. Default: that of the network, or the next one for its second cluster, and so on.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<Spanned<String>>,
    /// Default the cluster's name.
    pub region: Option<Spanned<String>>,
    /// Default one zone, `<region>-a`.
    pub zones: Option<Vec<Spanned<String>>>,
    /// Other primaries whose remote secret this primary holds, in addition to its remotes.
    #[serde(default)]
    pub secrets_of: Vec<Spanned<String>>,
    /// Whether the cluster has an ingress gateway. Default false.
    pub ingress_gateway: Option<Spanned<GatewayEntry>>,
    /// Whether the cluster has an egress gateway. Default false.
    pub egress_gateway: Option<Spanned<GatewayEntry>>,
}

/// An entry of `spec.workloads`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadEntry {
    /// Name of the service, a DNS label.
    pub name: Spanned<String>,
    /// Default `default`.
    pub namespace: Option<Spanned<String>>,
    /// Name of the cluster.
    pub cluster: Option<Spanned<String>>,
    /// Names of several clusters.
    pub clusters: Option<Vec<Spanned<String>>>,
    /// The label `version`.
    pub version: Option<Spanned<String>>,
    /// Zone that the pods are pinned to.
    pub zone: Option<Spanned<String>>,
    /// Default 1.
    pub replicas: Option<Spanned<u32>>,
    /// `testapp` (the default) or `command`.
    pub kind: Option<Spanned<String>>,
    /// `Deployment` (the default) or `StatefulSet`.
    pub controller: Option<Spanned<String>>,
    /// Program of kind `command`.
    pub command: Option<Spanned<Vec<String>>>,
    /// Default http 9080, tcp 9090 and tcp-banner 9091, where the server speaks first.
    pub ports: Option<Vec<Spanned<PortEntry>>>,
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
pub struct PortEntry {
    /// Name of the port.
    pub name: String,
    /// Port of the service.
    pub port: u16,
    /// Port of the container; the service's port by default.
    pub target_port: Option<u16>,
}

/// An entry of `spec.exports`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExportEntry {
    /// Name of the service.
    pub name: Spanned<String>,
    /// Default `default`.
    pub namespace: Option<Spanned<String>>,
    /// Default every cluster that has the service.
    pub clusters: Option<Vec<Spanned<String>>>,
}

/// An entry of `spec.issuers`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IssuerEntry {
    /// Host name, such as `auth.example.com`. The issuer is `https://<host>`.
    pub host: Spanned<String>,
    /// Algorithm that signs tokens: `RS256` (the default), `ES256` or `EdDSA`.
    pub algorithm: Option<Spanned<String>>,
}

/// An entry of `spec.manifests`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ManifestEntry {
    /// Path of the file, relative to the topology's directory.
    pub path: Spanned<String>,
    /// Default all clusters.
    pub clusters: Option<Vec<Spanned<String>>>,
}

/// Parses `text`. Booleans are those of YAML 1.2, so that `no` or `y` in free-form fields remain text.
pub(super) fn read(text: &str) -> Result<TopologyFile, serde_saphyr::Error> {
    serde_saphyr::from_str_with_options(text, serde_saphyr::options! { strict_booleans: true })
}
