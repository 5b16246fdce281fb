//! A topology in which every reference resolves.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The most clusters of one lab: their LoadBalancer addresses share 203.0.113.0/24, ten for each.
pub const MAX_CLUSTERS: usize = 9;

/// A topology in which every reference resolves.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Topology {
    /// The lab's name unless another is asked for: `metadata.name`, or the file's name without its extension.
    pub name: String,
    /// The file it came from.
    pub path: PathBuf,
    /// Settings of the whole mesh.
    pub mesh: Mesh,
    /// Networks in the order of the file, each used by at least one cluster.
    pub networks: Vec<Network>,
    /// Clusters in the order of the file; a cluster's place is its index in addresses.
    pub clusters: Vec<Cluster>,
    /// What runs in the clusters, one record per cluster and version.
    pub workloads: Vec<Workload>,
    /// Services that other clusters may use, beyond those of exported workloads.
    pub exports: Vec<Export>,
    /// Manifests to apply once the mesh is up.
    pub manifests: Vec<Manifest>,
}

/// Settings of the whole mesh.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mesh {
    /// The trust domain of every identity.
    pub trust_domain: String,
    /// Whether every service crosses clusters without an export of its own.
    pub export_all: bool,
    /// Further keys of Istio's MeshConfig, passed on as they are.
    pub config: BTreeMap<String, serde_json::Value>,
}

/// A network: pod addresses inside it mean nothing outside.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Its name, the value of `topology.istio.io/network`.
    pub name: String,
    /// Where its pods' addresses come from.
    pub pod_cidr: ipnet::Ipv4Net,
    /// One-way delay that is added to what enters through its LoadBalancer addresses, and to the answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Duration>,
}

/// One cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// Its name, a DNS label.
    pub name: String,
    /// Its place in the file, from which its addresses follow.
    pub index: u8,
    /// Whether it runs a control plane.
    pub role: Role,
    /// The name of its network.
    pub network: String,
    /// Where its pods' addresses come from: its network's range.
    pub pod_cidr: ipnet::Ipv4Net,
    /// Its region.
    pub region: String,
    /// Its zones, at least one. Each has one node.
    pub zones: Vec<String>,
    /// The clusters whose remote secret its control plane holds.
    pub secrets_of: Vec<String>,
}

/// Whether a cluster runs a control plane or uses another's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Runs its own federation controller.
    Primary,
    /// Its proxies are served by the named primary.
    Remote {
        /// The primary's name.
        primary: String,
    },
}

/// Pods of one version of a service in one cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// The service's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The cluster it runs in.
    pub cluster: String,
    /// The label `version`.
    pub version: Option<String>,
    /// The zone its pods are pinned to; without one they are spread.
    pub zone: Option<String>,
    /// How many pods.
    pub replicas: u32,
    /// What its container runs.
    pub program: Program,
    /// The service's ports.
    pub ports: Vec<Port>,
    /// Whether other clusters may use the service.
    pub exported: bool,
    /// Whether its pods get a sidecar.
    pub inject: bool,
    /// Environment of the container.
    pub env: BTreeMap<String, String>,
    /// Its service account; one of the workload's name by default.
    pub service_account: String,
    /// Annotations of its pods.
    pub annotations: BTreeMap<String, String>,
    /// The Deployment's name: the service's, or with the version when the cluster runs several of them.
    pub deployment: String,
}

/// What a workload's container runs.
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
    /// Its name, from which the protocol follows as in Istio (`http`, `grpc-…`, `tcp`).
    pub name: String,
    /// The service's port.
    pub port: u16,
    /// The container's port.
    pub target_port: u16,
}

/// A ServiceExport to create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Export {
    /// The service's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The clusters that export it.
    pub clusters: Vec<String>,
}

/// A manifest to apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The file, resolved against the topology's folder.
    pub path: PathBuf,
    /// The clusters it is applied to.
    pub clusters: Vec<String>,
}

impl Topology {
    /// The cluster of that name.
    #[must_use]
    pub fn cluster(&self, name: &str) -> Option<&Cluster> {
        self.clusters.iter().find(|cluster| cluster.name == name)
    }

    /// The network of that name.
    #[must_use]
    pub fn network(&self, name: &str) -> Option<&Network> {
        self.networks.iter().find(|network| network.name == name)
    }

    /// The workloads of a cluster.
    pub fn workloads_of<'a>(&'a self, cluster: &'a str) -> impl Iterator<Item = &'a Workload> {
        self.workloads.iter().filter(move |workload| workload.cluster == cluster)
    }

    /// The (namespace, name) pairs of services that `cluster` exports, each once.
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
    /// The cluster's own address on the wire between clusters.
    #[must_use]
    pub fn uplink(&self) -> std::net::Ipv4Addr {
        std::net::Ipv4Addr::new(203, 0, 113, 1 + self.index)
    }

    /// The LoadBalancer addresses of the cluster, ten in a row.
    #[must_use]
    pub fn load_balancer_pool(&self) -> Vec<std::net::Ipv4Addr> {
        let first = 10 * (self.index + 1);
        (first..first + 10).map(|last| std::net::Ipv4Addr::new(203, 0, 113, last)).collect()
    }

    /// The address of the cluster's east-west gateway.
    #[must_use]
    pub fn gateway(&self) -> std::net::Ipv4Addr {
        std::net::Ipv4Addr::new(203, 0, 113, 10 * (self.index + 1))
    }

    /// Whether it runs a control plane.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.role == Role::Primary
    }

    /// The primary that serves this cluster's proxies: itself, if it is one.
    #[must_use]
    pub fn primary(&self) -> &str {
        match &self.role {
            Role::Primary => &self.name,
            Role::Remote { primary } => primary,
        }
    }

    /// The name of the node of `zone`.
    #[must_use]
    pub fn node(&self, zone: &str) -> String {
        format!("{}-{zone}", self.name)
    }
}
