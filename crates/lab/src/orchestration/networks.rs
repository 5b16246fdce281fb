//! The lab's networks: one bridge between clusters, and a network namespace for each cluster.
//!
//! Clusters share only the bridge. On it a cluster has one address of its own and ten LoadBalancer addresses, of
//! 203.0.113.0/24 (TEST-NET-3, RFC 5737). Inside of a cluster, pods and Services use the same addresses in every
//! cluster.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use net::link::{LinkError, Links, Route, Via};
use net::namespace::{NamespaceError, NetNamespace};

use super::keys::IN_CLUSTER;
use crate::topology::{Cluster, Topology};

/// Name of the bridge between clusters.
pub const BRIDGE: &str = "wire";
/// Name of a cluster's link to the bridge, inside of the cluster.
pub const UPLINK: &str = "uplink";
/// Address of the cluster's DNS server.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// The range of ClusterIPs.
#[must_use]
pub fn services() -> IpNet {
    IpNet::V4(Ipv4Net::new(Ipv4Addr::new(10, 96, 0, 0), 16).expect("16 is a prefix length"))
}

/// The networks cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum NetworksError {
    /// A namespace could not be created.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A link could not be created.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// Name of a cluster's port on the bridge.
#[must_use]
pub fn port_of(cluster: &Cluster) -> String {
    format!("to-{}", cluster.index)
}

/// Creates the bridge in the calling thread's namespace, and a namespace for each cluster.
///
/// # Errors
/// Returns an error if the kernel refuses.
pub fn build(topology: &Topology) -> Result<Vec<NetNamespace>, NetworksError> {
    let mut outer = Links::open()?;
    outer.up("lo")?;
    outer.add_bridge(BRIDGE)?;
    outer.add_address(BRIDGE, address(Ipv4Addr::new(203, 0, 113, 254), 24))?;
    outer.up(BRIDGE)?;
    topology.clusters.iter().map(|cluster| connect(&mut outer, cluster)).collect()
}

fn connect(outer: &mut Links, cluster: &Cluster) -> Result<NetNamespace, NetworksError> {
    let namespace = NetNamespace::create()?;
    let port = port_of(cluster);
    outer.add_veth(&port, UPLINK, Some(&namespace))?;
    outer.attach(&port, BRIDGE)?;
    outer.up(&port)?;
    let mut inner = Links::open_in(&namespace)?;
    for own in [IN_CLUSTER, DNS] {
        inner.add_address("lo", address(own, 32))?;
    }
    inner.add_address(UPLINK, address(cluster.uplink(), 24))?;
    for balancer in cluster.load_balancer_pool() {
        inner.add_address(UPLINK, address(balancer, 32))?;
    }
    inner.up(UPLINK)?;
    // The kernel chooses a route before it rewrites a Service's address, so a route must exist.
    inner.add_route(Route { to: services(), via: Via::Link("lo"), source: Some(IpAddr::V4(cluster.uplink())) })?;
    namespace.set("ipv4/ip_forward", "1")?;
    // Packets from pods to a Service leave by another link than the route to their source. Without this the kernel
    // would drop them.
    for link in ["all", "default"] {
        namespace.set(&format!("ipv4/conf/{link}/rp_filter"), "0")?;
    }
    Ok(namespace)
}

fn address(address: Ipv4Addr, length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new(address, length).expect("the prefix length is a constant within 32"))
}
