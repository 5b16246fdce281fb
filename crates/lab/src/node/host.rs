//! What all pods of an agent share.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::Ipv4Net;

use super::cluster::{Cluster, Objects};
use super::events::Events;
use super::exec::Pods;
use super::network::Addresses;
use super::nodes::Nodes;

/// What the agent has to know of its cluster.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where pods keep their files: `pods/<uid>/…` below it.
    pub directory: PathBuf,
    /// The Unix socket that exec, logs and port forwarding are served on.
    pub socket: PathBuf,
    /// The address of every node: that of the cluster's uplink.
    pub host_address: IpAddr,
    /// The network that pods get addresses from.
    pub pod_network: Ipv4Net,
    /// The cluster's DNS server.
    pub dns_address: IpAddr,
    /// The domain of cluster names, `cluster.local`.
    pub cluster_domain: String,
    /// Where pods reach the API server.
    pub api: SocketAddr,
}

/// What all pods of an agent share.
pub(super) struct Host {
    pub(super) settings: Settings,
    pub(super) objects: Arc<Objects>,
    pub(super) cluster: Arc<dyn Cluster>,
    pub(super) addresses: Addresses,
    pub(super) pods: Pods,
    pub(super) nodes: Nodes,
    pub(super) events: Events,
    /// This program's file, which containers see as `isthmus`.
    pub(super) executable: PathBuf,
}
