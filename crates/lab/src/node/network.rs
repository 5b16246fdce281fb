//! Pod addresses and links: each pod has a link of its own to the cluster's network, routed, not bridged.
//!
//! A pod has a single address of each IP family (`/32`, `/128`) and sends all traffic to 169.254.1.1 or fe80::1, which the
//! other end of its link answers for. So all traffic of a pod, also to neighbouring pods, passes the packet rules of the
//! cluster's network, where Service addresses are rewritten.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use net::link::{LinkError, Links, Route, Via};
use net::namespace::NetNamespace;

/// The gateway of every pod: the address of the cluster's end of each pod's link.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The gateway for IPv6.
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Name of the pod's end of its link.
const POD_LINK: &str = "eth0";

/// The place of a pod in its cluster's ranges, from which its addresses follow: the number of its node, and of the pod on
/// the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PodPlace {
    node: u8,
    pod: u8,
}

/// The pod addresses of one cluster: a /24 or /64 per node, in the order in which nodes appear.
#[derive(Debug)]
pub(super) struct PodAddresses {
    networks: Vec<IpNet>,
    state: Mutex<AddressState>,
}

#[derive(Debug, Default)]
struct AddressState {
    nodes: BTreeMap<String, u8>,
    used: BTreeSet<PodPlace>,
    /// Last pod number assigned per node: a place is used again as late as possible.
    last: BTreeMap<u8, u8>,
}

impl PodAddresses {
    /// Creates an allocator for an IPv4 /16, an IPv6 /56, or both.
    pub(super) fn new(networks: &[IpNet]) -> Self {
        Self { networks: networks.to_vec(), state: Mutex::default() }
    }

    /// Assigns a place to a pod on a node; `None` if the node has no free address.
    pub(super) fn take(&self, node: &str) -> Option<PodPlace> {
        let mut state = self.state.lock().expect("no holder of the lock panics");
        let next = u8::try_from(state.nodes.len()).unwrap_or(u8::MAX);
        let node = *state.nodes.entry(node.to_owned()).or_insert(next);
        let last = state.last.get(&node).copied().unwrap_or(1);
        let candidates = (last.saturating_add(1)..=254).chain(2..=last);
        let free = candidates.map(|pod| PodPlace { node, pod }).find(|place| !state.used.contains(place))?;
        state.last.insert(node, free.pod);
        state.used.insert(free);
        Some(free)
    }

    /// Releases a place.
    pub(super) fn give_back(&self, place: PodPlace) {
        self.state.lock().expect("no holder of the lock panics").used.remove(&place);
    }

    /// Returns the addresses of a place, one of each IP family.
    pub(super) fn of(&self, place: PodPlace) -> Vec<IpAddr> {
        let address = |network: &IpNet| match network.network() {
            IpAddr::V4(first) => {
                let [a, b, ..] = first.octets();
                IpAddr::V4(Ipv4Addr::new(a, b, place.node, place.pod))
            }
            IpAddr::V6(first) => {
                let node = u128::from(place.node) << 64;
                IpAddr::V6((u128::from(first) | node | u128::from(place.pod)).into())
            }
        };
        self.networks.iter().map(address).collect()
    }
}

impl PodPlace {
    /// Returns the name of the cluster's end of the pod's link.
    fn cluster_link(self) -> String {
        format!("pod{:02x}{:02x}", self.node, self.pod)
    }
}

/// The cluster's end of a pod's link, and the route by which the pod sends everything.
fn gateway(address: IpAddr) -> (IpNet, IpNet) {
    match address {
        IpAddr::V4(_) => (IpNet::from(IpAddr::V4(GATEWAY)), IpNet::V4(Ipv4Net::default())),
        IpAddr::V6(_) => (IpNet::from(IpAddr::V6(GATEWAY6)), IpNet::V6(Ipv6Net::default())),
    }
}

/// Links a pod's network namespace to that of the calling thread.
pub(super) fn attach(
    pod: &NetNamespace,
    place: PodPlace,
    addresses: &[IpAddr],
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let name = place.cluster_link();
    let mut outer = Links::open()?;
    if addresses.iter().any(IpAddr::is_ipv6) {
        pod.use_static_ipv6()?;
    }
    // A pod of the address that did not end cleanly may have left its link.
    let _ = outer.delete(&name);
    outer.add_veth(&name, POD_LINK, Some(pod))?;
    for address in addresses {
        outer.add_address(&name, gateway(*address).0)?;
    }
    outer.up(&name)?;
    let mut inner = Links::open_in(pod)?;
    inner.up("lo")?;
    for address in addresses {
        inner.add_address(POD_LINK, IpNet::from(*address))?;
    }
    inner.up(POD_LINK)?;
    for address in addresses {
        let (gateway, everywhere) = gateway(*address);
        inner.add_route(Route { to: everywhere, via: Via::Gateway(gateway.addr(), POD_LINK), source: None })?;
        outer.add_route(Route { to: IpNet::from(*address), via: Via::Link(&name), source: None })?;
    }
    // Container runtimes set this too: a server need not be root for a port below 1024.
    pod.set("ipv4/ip_unprivileged_port_start", "0")?;
    pod.set("ipv4/ping_group_range", "0 2147483647").or_else(|_| pod.set("ipv4/ping_group_range", "0 0"))?;
    Ok(())
}

/// Removes a pod's link. The kernel removes it with the pod's namespace as well, but later.
pub(super) fn detach(place: PodPlace) {
    if let Ok(mut links) = Links::open() {
        let _ = links.delete(&place.cluster_link());
    }
}

/// Makes addresses without a pod unreachable, so that connections to them are refused at once.
pub(super) fn refuse_unused(networks: &[IpNet]) -> Result<(), LinkError> {
    let mut links = Links::open()?;
    networks
        .iter()
        .try_for_each(|network| links.add_route(Route { to: network.trunc(), via: Via::Unreachable, source: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_unique_and_reused_late() {
        let addresses = PodAddresses::new(&["10.244.0.0/16".parse().unwrap(), "fd00:10:244:100::/56".parse().unwrap()]);
        let text = |place: Option<PodPlace>| {
            addresses.of(place.unwrap()).iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ")
        };
        let first = addresses.take("west-a");
        assert_eq!(text(first), "10.244.0.2 fd00:10:244:100::2");
        assert_eq!(text(addresses.take("west-b")), "10.244.1.2 fd00:10:244:101::2");
        addresses.give_back(first.unwrap());
        assert_eq!(text(addresses.take("west-a")), "10.244.0.3 fd00:10:244:100::3");
        let rest: BTreeSet<_> = std::iter::from_fn(|| addresses.take("west-a")).collect();
        assert_eq!(rest.len(), 252);
        assert!(rest.contains(&first.unwrap()) && !rest.contains(&PodPlace { node: 0, pod: 255 }));
        assert_eq!(PodPlace { node: 1, pod: 255 }.cluster_link(), "pod01ff");
    }
}
