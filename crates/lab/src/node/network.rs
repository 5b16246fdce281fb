//! Pod addresses and links: each pod has a link of its own to the cluster's network, routed, not bridged.
//!
//! A pod has a single address (`/32`) and sends all traffic to 169.254.1.1, which the other end of its link answers
//! for. So all traffic of a pod, also to neighbouring pods, passes the packet rules of the cluster's network, where
//! Service addresses are rewritten.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;

use ipnet::{IpNet, Ipv4Net};
use net::link::{Links, Route, Via};
use net::namespace::NetNamespace;

/// The gateway of every pod: the address of the cluster's end of each pod's link.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Name of the pod's end of its link.
const POD_LINK: &str = "eth0";

/// The pod addresses of one cluster: a /24 per node, in the order in which nodes appear.
#[derive(Debug)]
pub(super) struct PodAddresses {
    network: Ipv4Net,
    state: Mutex<AddressState>,
}

#[derive(Debug, Default)]
struct AddressState {
    nodes: BTreeMap<String, u8>,
    used: BTreeSet<Ipv4Addr>,
    /// Last host part assigned per node: an address is used again as late as possible.
    last: BTreeMap<u8, u8>,
}

impl PodAddresses {
    /// Creates an allocator for a /16.
    pub(super) fn new(network: Ipv4Net) -> Self {
        Self { network, state: Mutex::default() }
    }

    /// Assigns an address to a pod on a node; `None` if the node has no free address.
    pub(super) fn take(&self, node: &str) -> Option<Ipv4Addr> {
        let mut state = self.state.lock().expect("no holder of the lock panics");
        let next = u8::try_from(state.nodes.len()).unwrap_or(u8::MAX);
        let third = *state.nodes.entry(node.to_owned()).or_insert(next);
        let last = state.last.get(&third).copied().unwrap_or(1);
        let [a, b, ..] = self.network.network().octets();
        let candidates = (last.saturating_add(1)..=254).chain(2..=last);
        let free = candidates.map(|fourth| Ipv4Addr::new(a, b, third, fourth)).find(|ip| !state.used.contains(ip))?;
        state.last.insert(third, free.octets()[3]);
        state.used.insert(free);
        Some(free)
    }

    /// Releases an address.
    pub(super) fn give_back(&self, address: Ipv4Addr) {
        self.state.lock().expect("no holder of the lock panics").used.remove(&address);
    }
}

/// Returns the name of the cluster's end of a pod's link: the last two parts of the pod's address, which are unique in
/// a cluster.
fn cluster_link(address: Ipv4Addr) -> String {
    let [.., third, fourth] = address.octets();
    format!("pod{third:02x}{fourth:02x}")
}

/// Links a pod's network namespace to that of the calling thread.
pub(super) fn attach(pod: &NetNamespace, address: Ipv4Addr) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let name = cluster_link(address);
    let mut outer = Links::open()?;
    // A pod of the address that did not end cleanly may have left its link.
    let _ = outer.delete(&name);
    outer.add_veth(&name, POD_LINK, Some(pod))?;
    outer.add_address(&name, host(GATEWAY))?;
    outer.up(&name)?;
    let mut inner = Links::open_in(pod)?;
    inner.up("lo")?;
    inner.add_address(POD_LINK, host(address))?;
    inner.up(POD_LINK)?;
    let everywhere = IpNet::V4(Ipv4Net::default());
    inner.add_route(Route { to: everywhere, via: Via::Gateway(IpAddr::V4(GATEWAY), POD_LINK), source: None })?;
    outer.add_route(Route { to: host(address), via: Via::Link(&name), source: None })?;
    // Container runtimes set this too: a server need not be root for a port below 1024.
    pod.set("ipv4/ip_unprivileged_port_start", "0")?;
    pod.set("ipv4/ping_group_range", "0 2147483647").or_else(|_| pod.set("ipv4/ping_group_range", "0 0"))?;
    Ok(())
}

/// Removes a pod's link. The kernel removes it with the pod's namespace as well, but later.
pub(super) fn detach(address: Ipv4Addr) {
    if let Ok(mut links) = Links::open() {
        let _ = links.delete(&cluster_link(address));
    }
}

/// Makes addresses without a pod unreachable, so that connections to them are refused at once.
pub(super) fn refuse_unused(network: Ipv4Net) -> Result<(), net::link::LinkError> {
    Links::open()?.add_route(Route { to: IpNet::V4(network), via: Via::Unreachable, source: None })
}

fn host(address: Ipv4Addr) -> IpNet {
    IpNet::from(IpAddr::V4(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_unique_and_reused_late() {
        let addresses = PodAddresses::new("10.244.0.0/16".parse().unwrap());
        let first = addresses.take("west-a").unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 244, 0, 2));
        assert_eq!(addresses.take("west-b"), Some(Ipv4Addr::new(10, 244, 1, 2)));
        addresses.give_back(first);
        assert_eq!(addresses.take("west-a"), Some(Ipv4Addr::new(10, 244, 0, 3)));
        let rest: BTreeSet<_> = std::iter::from_fn(|| addresses.take("west-a")).collect();
        assert_eq!(rest.len(), 252);
        assert!(rest.contains(&first) && !rest.contains(&Ipv4Addr::new(10, 244, 0, 255)));
        assert_eq!(cluster_link(Ipv4Addr::new(10, 244, 1, 255)), "pod01ff");
    }
}
