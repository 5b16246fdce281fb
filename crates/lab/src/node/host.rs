//! The state that all pods of an agent share.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::Ipv4Net;

use super::cluster::{ClusterApi, ObjectCache};
use super::events::Events;
use super::exec::PodRegistry;
use super::network::PodAddresses;
use super::nodes::NodeFaults;

/// Settings of a node agent.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// Directory of the pods' files: `pods/<uid>/…` below it.
    pub directory: PathBuf,
    /// Path of the Unix socket for exec, logs and port forwarding.
    pub socket: PathBuf,
    /// Address of every node: that of the cluster's uplink.
    pub host_address: IpAddr,
    /// Network of pod addresses.
    pub pod_network: Ipv4Net,
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
    /// Path of this program, which containers see as `isthmus`.
    pub(super) executable: PathBuf,
}
