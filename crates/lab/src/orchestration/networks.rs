//! The lab's networks: one bridge between clusters, a network namespace for each cluster, and a link between the clusters
//! of one network.
//!
//! On the bridge a cluster has one address of its own and ten LoadBalancer addresses of each IP family; other networks
//! reach nothing else of it. Clusters of one network have a second link, which only they share: each has a route over it
//! to the pods of the others, so that packets between their pods keep their addresses. Services use the same addresses
//! in every cluster. The addresses are in [`crate::topology::IpFamily`].

use ipnet::IpNet;
use net::firewall::{FirewallError, PeerLoss, lose_packets};
use net::link::{LinkError, Links, Route, Via};
use net::namespace::{NamespaceError, NetNamespace};

use crate::topology::{Cluster, IpFamily, Topology};

/// Name of the bridge between clusters.
pub const BRIDGE: &str = "wire";
/// Name of a cluster's link to the bridge, inside of the cluster.
pub const UPLINK: &str = "uplink";
/// Name of a cluster's link to other clusters of its network, inside of the cluster.
const SHARED: &str = "shared";
/// The bridge's host address, for the launcher's requests.
const BRIDGE_HOST: u8 = 254;

/// The networks cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum NetworksError {
    /// A namespace could not be created.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A link could not be created.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Packet rules could not be added.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// The machine has no IPv6.
    #[error(
        "cluster \"{cluster}\" has IPv6, which this machine's kernel does not support: {source}\n  use ipFamilies: [IPv4], or start the kernel without ipv6.disable=1"
    )]
    NoIpv6 {
        /// Name of the cluster.
        cluster: String,
        /// The cause.
        #[source]
        source: NamespaceError,
    },
}

/// Name of a cluster's port on the bridge.
#[must_use]
pub fn port_of(cluster: &Cluster) -> String {
    format!("to-{}", cluster.index)
}

/// Creates the bridges in the calling thread's namespace, and a namespace for each cluster.
///
/// # Errors
/// Returns an error if the kernel refuses.
pub fn build(topology: &Topology) -> Result<Vec<NetNamespace>, NetworksError> {
    let namespaces: Result<Vec<NetNamespace>, NetworksError> = topology.clusters.iter().map(namespace).collect();
    let namespaces = namespaces?;
    let mut outer = Links::open()?;
    outer.up("lo")?;
    outer.add_bridge(BRIDGE)?;
    for family in IpFamily::ALL {
        if topology.has_family(family) {
            outer.add_address(BRIDGE, family.on_bridge(BRIDGE_HOST))?;
            if !topology.issuers.is_empty() {
                outer.add_address(BRIDGE, IpNet::from(family.issuers().addr()))?;
            }
        }
    }
    for address in topology.external_addresses().flat_map(|(_, addresses)| addresses) {
        outer.add_address(BRIDGE, IpNet::from(address))?;
    }
    outer.up(BRIDGE)?;
    for (cluster, namespace) in topology.clusters.iter().zip(&namespaces) {
        connect(&mut outer, cluster, namespace)?;
        let (per_mille, peers) = losses(topology, cluster);
        if per_mille > 0 || !peers.is_empty() {
            namespace.run_in(|| lose_packets(UPLINK, per_mille, &peers))??;
        }
    }
    for (index, network) in topology.networks.iter().enumerate() {
        let clusters: Vec<&Cluster> = topology.clusters_on(&network.name).collect();
        if clusters.len() < 2 {
            continue;
        }
        let bridge = format!("net-{index}");
        outer.add_bridge(&bridge)?;
        outer.up(&bridge)?;
        for cluster in &clusters {
            join(&mut outer, &bridge, cluster, &namespaces[usize::from(cluster.index)], &clusters)?;
        }
    }
    Ok(namespaces)
}

/// Returns the loss of a cluster's link to the bridge, and that of links to other clusters. The end with the lower index loses
/// the packets of a link in both directions.
fn losses(topology: &Topology, cluster: &Cluster) -> (u16, Vec<PeerLoss>) {
    let of_network = topology.network(&cluster.network).and_then(|network| network.loss_per_mille).unwrap_or(0);
    let of_link = topology.links_of(&cluster.name).filter_map(|(link, other)| {
        let per_mille = link.loss_per_mille?;
        let loses = cluster.index < other.index;
        Some(PeerLoss { addresses: other.on_bridge(), per_mille: if loses { per_mille } else { 0 } })
    });
    (of_network, of_link.collect())
}

/// Creates the namespace of a cluster, which forwards packets.
fn namespace(cluster: &Cluster) -> Result<NetNamespace, NetworksError> {
    let namespace = NetNamespace::create()?;
    for family in &cluster.ip_families {
        match family {
            IpFamily::V4 => {
                namespace.set("ipv4/ip_forward", "1")?;
                // Packets from pods to a Service leave by another link than the route to their source. Without this the
                // kernel would drop them.
                for links in ["all", "default"] {
                    namespace.set(&format!("ipv4/conf/{links}/rp_filter"), "0")?;
                }
            }
            IpFamily::V6 => namespace
                .use_static_ipv6()
                .and_then(|()| namespace.set("ipv6/conf/all/forwarding", "1"))
                .map_err(|source| NetworksError::NoIpv6 { cluster: cluster.name.clone(), source })?,
        }
    }
    Ok(namespace)
}

/// Links a cluster to the bridge between clusters, and adds its addresses.
fn connect(outer: &mut Links, cluster: &Cluster, namespace: &NetNamespace) -> Result<(), NetworksError> {
    let mut inner = link(outer, BRIDGE, &port_of(cluster), UPLINK, namespace)?;
    for (family, uplink) in cluster.ip_families.iter().zip(cluster.uplinks()) {
        for own in [family.api_server(), family.dns()] {
            inner.add_address("lo", IpNet::from(own))?;
        }
        inner.add_address(UPLINK, family.on_bridge(1 + cluster.index))?;
        // The kernel chooses a route before it rewrites a Service's address, so a route must exist. An IPv6 route to the
        // loopback would refuse packets.
        let via = Via::Link(if uplink.is_ipv4() { "lo" } else { UPLINK });
        inner.add_route(Route { to: family.services(), via, source: Some(uplink) })?;
    }
    for balancer in cluster.load_balancer_pool() {
        inner.add_address(UPLINK, IpNet::from(balancer))?;
    }
    Ok(())
}

/// Links a cluster to the other clusters of its network, and adds routes to their pods.
fn join(
    outer: &mut Links,
    bridge: &str,
    cluster: &Cluster,
    namespace: &NetNamespace,
    clusters: &[&Cluster],
) -> Result<(), NetworksError> {
    let mut inner = link(outer, bridge, &format!("{bridge}-{}", cluster.index), SHARED, namespace)?;
    for family in &cluster.ip_families {
        inner.add_address(SHARED, cluster.on_shared_network(*family))?;
    }
    for other in clusters.iter().filter(|other| other.index != cluster.index) {
        for pods in &other.pod_cidrs {
            let family = IpFamily::of(*pods);
            if cluster.ip_families.contains(&family) {
                let gateway = other.on_shared_network(family).addr();
                inner.add_route(Route { to: *pods, via: Via::Gateway(gateway, SHARED), source: None })?;
            }
        }
    }
    Ok(())
}

/// Creates a link from `bridge` to `name` in a namespace, and brings it up. Returns a connection to the namespace.
fn link(
    outer: &mut Links,
    bridge: &str,
    port: &str,
    name: &str,
    namespace: &NetNamespace,
) -> Result<Links, NetworksError> {
    outer.add_veth(port, name, Some(namespace))?;
    outer.attach(port, bridge)?;
    outer.up(port)?;
    let mut inner = Links::open_in(namespace)?;
    inner.up(name)?;
    Ok(inner)
}
