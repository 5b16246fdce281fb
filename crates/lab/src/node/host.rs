//! The state that all pods of an agent share.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

use super::cluster::{ClusterApi, ObjectCache};
use super::events::Events;
use super::exec::PodRegistry;
use super::network::PodAddresses;
use super::nodes::NodeFaults;
use super::usage::LatestUsage;

/// Settings of a node agent.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// Directory of the pods' files: `pods/<uid>/…` below it.
    pub directory: PathBuf,
    /// Path of the Unix socket for exec, logs, port forwarding and usage.
    pub socket: PathBuf,
    /// Addresses of every node, one of each IP family: those of the cluster's uplink.
    pub host_addresses: Vec<IpAddr>,
    /// Networks of pod addresses, one of each IP family. A pod's first address is of the first.
    pub pod_networks: Vec<IpNet>,
    /// Address of the cluster's DNS server.
    pub dns_address: IpAddr,
    /// Domain of the cluster's names, `cluster.local`.
    pub cluster_domain: String,
    /// Address of the API server for pods.
    pub api: SocketAddr,
}

/// What all pods of an agent share.
pub(super) struct Host {
    pub(super) settings: NodeSettings,
    pub(super) objects: Arc<ObjectCache>,
    pub(super) cluster: Arc<dyn ClusterApi>,
    pub(super) addresses: PodAddresses,
    pub(super) pods: PodRegistry,
    pub(super) nodes: NodeFaults,
    pub(super) events: Events,
    pub(super) usage: LatestUsage,
    /// Path of this program, which containers see as `isthmus`.
    pub(super) executable: PathBuf,
}
