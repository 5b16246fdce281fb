//! A topology in which every reference resolves.

mod edges;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use edges::{ClusterGateway, ClusterGatewayPort, External, ExternalPort, GatewayCertificate, IngressPort};
use serde::{Deserialize, Serialize};

use super::addresses::IpFamily;

/// Most clusters of one lab: their LoadBalancer addresses share 203.0.113.0/24, ten for each.
pub const MAX_CLUSTERS: usize = 9;

/// A topology in which every reference resolves.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Topology {
    /// Default name of the lab: `metadata.name`, or the file's name without extension.
    pub name: String,
    /// Path of the topology file.
    pub path: PathBuf,
    /// Settings of the whole mesh.
    pub mesh: Mesh,
    /// Networks in the order of the file, each used by at least one cluster.
    pub networks: Vec<Network>,
    /// Links between clusters of different networks that differ from what the networks say, each pair of clusters once.
    pub links: Vec<Link>,
    /// Clusters in the order of the file. A cluster's addresses depend on its index.
    pub clusters: Vec<Cluster>,
    /// Workloads, one for each cluster and version.
    pub workloads: Vec<Workload>,
    /// Services that other clusters may use, in addition to exported workloads.
    pub exports: Vec<Export>,
    /// Issuers of tokens that the lab serves.
    pub issuers: Vec<TokenIssuer>,
    /// Servers outside of the mesh. Their addresses depend on their index.
    pub external: Vec<External>,
    /// Certificates of the servers of gateways.
    pub certificates: Vec<GatewayCertificate>,
    /// Manifests to apply when the mesh is up.
    pub manifests: Vec<Manifest>,
}

/// Settings of the whole mesh.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mesh {
    /// Trust domain of every identity.
    pub trust_domain: String,
    /// Whether every service is exported.
    pub export_all: bool,
    /// Name of the container of injected sidecars, if it is not the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_container: Option<String>,
    /// Further keys of Istio's MeshConfig, unchanged.
    pub config: BTreeMap<String, serde_json::Value>,
}

/// A network. Pods of its clusters reach each other directly; pods of other networks cannot reach their addresses.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Name of the network, the value of `topology.istio.io/network`.
    pub name: String,
    /// One-way delay of traffic through the network's LoadBalancer addresses, in both directions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Duration>,
    /// Lost packets of a thousand, of those that arrive at or leave the network's clusters, each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_per_mille: Option<u16>,
}

/// The link between two clusters of different networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// Names of the clusters.
    pub between: [String; 2],
    /// Delay of traffic through LoadBalancer addresses, in both directions; that of the network of the address if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,
    /// Lost packets of a thousand, each way; those of the networks if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_per_mille: Option<u16>,
}

/// A one-way delay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delay {
    /// Mean of the delay.
    pub mean: Duration,
    /// Greatest deviation from the mean, not greater than the mean.
    pub jitter: Duration,
}

/// A cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// Name of the cluster, a DNS label.
    pub name: String,
    /// Index of the cluster in the file, from which its addresses follow.
    pub index: u8,
    /// Role of the cluster.
    pub role: Role,
    /// Name of the cluster's network.
    pub network: String,
    /// IP families of pods, Services and LoadBalancer addresses, each once, at least one. The first is that of Services
    /// that request none, as in Kubernetes.
    pub ip_families: Vec<IpFamily>,
    /// Ranges of pod addresses, one of each family, in the order of [`Self::ip_families`]. The ranges of clusters of one
    /// network do not overlap.
    pub pod_cidrs: Vec<ipnet::IpNet>,
    /// Region of the cluster.
    pub region: String,
    /// Zones of the cluster, at least one. Each has one node.
    pub zones: Vec<String>,
    /// Clusters whose remote secret the cluster holds.
    pub secrets_of: Vec<String>,
    /// The gateway for traffic into the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_gateway: Option<ClusterGateway>,
    /// The gateway for traffic out of the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_gateway: Option<ClusterGateway>,
}

/// The role of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// The cluster runs a federation controller.
    Primary,
    /// The cluster's proxies use the controller of a primary.
    Remote {
        /// Name of the primary.
        primary: String,
    },
}

/// The pods of one version of a service in one cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Name of the service.
    pub name: String,
    /// Namespace of the service.
    pub namespace: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Value of the label `version`.
    pub version: Option<String>,
    /// Zone that the pods are pinned to; `None` spreads them.
    pub zone: Option<String>,
    /// Number of pods.
    pub replicas: u32,
    /// Program of the container.
    pub program: Program,
    /// Ports of the service.
    pub ports: Vec<Port>,
    /// Whether the service is exported.
    pub exported: bool,
    /// Whether the pods get a sidecar.
    pub inject: bool,
    /// Environment of the container.
    pub env: BTreeMap<String, String>,
    /// Name of the service account.
    pub service_account: String,
    /// Annotations of the pods.
    pub annotations: BTreeMap<String, String>,
    /// Kind of the object that creates the pods.
    pub controller: WorkloadController,
    /// Name of that object: the service's, with the version if the cluster runs several versions.
    pub controller_name: String,
}

/// The kind of the object that creates a workload's pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkloadController {
    /// A Deployment, with a Service that has a ClusterIP.
    #[default]
    Deployment,
    /// A StatefulSet, with a headless Service. Its pods have stable names.
    StatefulSet,
}

impl WorkloadController {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Deployment, Self::StatefulSet];

    /// Returns the kind's name.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
        }
    }
}

/// The program of a workload's container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Program {
    /// The built-in test application.
    TestApp,
    /// A program of this machine.
    Command {
        /// The program and its arguments.
        command: Vec<String>,
    },
}

/// A service port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// Name of the port, which specifies the protocol as in Istio (`http`, `grpc-…`, `tcp`).
    pub name: String,
    /// Port of the service.
    pub port: u16,
    /// Port of the container.
    pub target_port: u16,
}

/// A ServiceExport to create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Export {
    /// Name of the service.
    pub name: String,
    /// Namespace of the service.
    pub namespace: String,
    /// Names of the clusters that export the service.
    pub clusters: Vec<String>,
}

/// A server outside of the clusters whose keys sign tokens of end users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenIssuer {
    /// Host name of the server.
    pub host: String,
    /// Algorithm of its keys.
    pub algorithm: TokenAlgorithm,
}

impl TokenIssuer {
    /// Returns the value of the claim `iss`, which is the URL that the issuer is served at.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.host)
    }
}

/// An algorithm that signs tokens, by its name in RFC 7518 and RFC 8037.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenAlgorithm {
    /// RSA with 2048 bits, PKCS #1 and SHA-256.
    #[default]
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA with P-256 and SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl TokenAlgorithm {
    /// Every algorithm.
    pub const ALL: [Self; 3] = [Self::Rs256, Self::Es256, Self::EdDsa];

    /// Returns the algorithm's name, as in a token's header.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// A manifest to apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Path of the file, resolved against the topology's directory.
    pub path: PathBuf,
    /// Names of the clusters that the manifest is applied to.
    pub clusters: Vec<String>,
    /// Objects of the file. Only the launcher, which has read it, applies them.
    #[serde(skip)]
    pub objects: Vec<serde_json::Value>,
}

impl Topology {
    /// Returns the cluster of a name.
    #[must_use]
    pub fn cluster(&self, name: &str) -> Option<&Cluster> {
        self.clusters.iter().find(|cluster| cluster.name == name)
    }

    /// Returns the network of a name.
    #[must_use]
    pub fn network(&self, name: &str) -> Option<&Network> {
        self.networks.iter().find(|network| network.name == name)
    }

    /// Returns the links of a cluster, with the clusters at their other ends.
    pub fn links_of<'a>(&'a self, cluster: &'a str) -> impl Iterator<Item = (&'a Link, &'a Cluster)> {
        self.links.iter().filter_map(move |link| {
            let [one, other] = &link.between;
            let far = match () {
                () if one == cluster => other,
                () if other == cluster => one,
                () => return None,
            };
            Some((link, self.cluster(far)?))
        })
    }

    /// Returns the clusters of a network.
    pub fn clusters_on<'a>(&'a self, network: &'a str) -> impl Iterator<Item = &'a Cluster> {
        self.clusters.iter().filter(move |cluster| cluster.network == network)
    }

    /// Returns the workloads of a cluster.
    pub fn workloads_of<'a>(&'a self, cluster: &'a str) -> impl Iterator<Item = &'a Workload> {
        self.workloads.iter().filter(move |workload| workload.cluster == cluster)
    }

    /// Returns the (namespace, name) pairs of services that `cluster` exports, each once.
    #[must_use]
    pub fn exports_of(&self, cluster: &str) -> Vec<(String, String)> {
        let of_workloads = self
            .workloads_of(cluster)
            .filter(|workload| workload.exported)
            .map(|workload| (workload.namespace.clone(), workload.name.clone()));
        let listed = self
            .exports
            .iter()
            .filter(|export| export.clusters.iter().any(|name| name == cluster))
            .map(|export| (export.namespace.clone(), export.name.clone()));
        let all: std::collections::BTreeSet<_> = of_workloads.chain(listed).collect();
        all.into_iter().collect()
    }
}

impl Cluster {
    /// Reports whether the cluster is a primary.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.role == Role::Primary
    }

    /// Returns the primary that serves the cluster's proxies: the cluster itself if it is one.
    #[must_use]
    pub fn primary(&self) -> &str {
        match &self.role {
            Role::Primary => &self.name,
            Role::Remote { primary } => primary,
        }
    }

    /// Returns the name of the node of a zone.
    #[must_use]
    pub fn node(&self, zone: &str) -> String {
        format!("{}-{zone}", self.name)
    }
}
