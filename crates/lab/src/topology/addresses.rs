//! The addresses of a lab. All of them follow from a cluster's index and IP families, so that every process of a lab
//! computes the same.
//!
//! IPv4 addresses between clusters are of TEST-NET-3 (RFC 5737), IPv6 addresses of the range for documentation (RFC
//! 3849); ranges inside of a cluster are private (RFC 1918, RFC 4193).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::model::{Cluster, Topology};

/// Port of the API server for other clusters.
pub const API_PORT: u16 = 6443;

/// Host of the issuers of tokens on the bridge, after the LoadBalancer addresses of nine clusters.
const ISSUERS_HOST: u8 = 100;
/// Host of the first server outside of the mesh on the bridge.
const EXTERNAL_HOST: u8 = 101;

/// An IP family, by its name in `Service.spec.ipFamilies`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum IpFamily {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl fmt::Display for IpFamily {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl IpFamily {
    /// Every family.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Returns the family of a name, as in `Service.spec.ipFamilies`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.to_string() == name)
    }

    /// Reports whether an address is of the family.
    #[must_use]
    pub fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }

    /// Returns the family of a range.
    #[must_use]
    pub fn of(range: IpNet) -> Self {
        match range {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// Returns the range of ClusterIPs, the same in every cluster.
    #[must_use]
    pub fn services(self) -> IpNet {
        match self {
            Self::V4 => v4([10, 96, 0, 0], 16),
            Self::V6 => v6([0xfd00, 0x10, 0x96, 0, 0], 0, 112),
        }
    }

    /// Returns the address of the API server inside of every cluster: the first ClusterIP.
    #[must_use]
    pub fn api_server(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 96, 0, 1).into(),
            Self::V6 => v6([0xfd00, 0x10, 0x96, 0, 0], 1, 128).addr(),
        }
    }

    /// Returns the address of the DNS server inside of every cluster.
    #[must_use]
    pub fn dns(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 96, 0, 10).into(),
            Self::V6 => v6([0xfd00, 0x10, 0x96, 0, 0], 10, 128).addr(),
        }
    }

    /// Returns the address of a host on the bridge between clusters, with the bridge's prefix. The last part of an IPv6
    /// address reads like that of the IPv4 address.
    #[must_use]
    pub fn on_bridge(self, host: u8) -> IpNet {
        match self {
            Self::V4 => v4([203, 0, 113, host], 24),
            Self::V6 => v6([0x2001, 0xdb8, 0x113, 0, 0], as_written(host), 64),
        }
    }

    /// Returns the address of the lab's issuers of tokens on the bridge between clusters, outside of every cluster.
    #[must_use]
    pub fn issuers(self) -> IpNet {
        self.on_bridge(ISSUERS_HOST)
    }

    /// Returns the address of a server outside of the mesh on the bridge between clusters, by its index.
    #[must_use]
    pub fn external(self, index: u8) -> IpNet {
        self.on_bridge(EXTERNAL_HOST + index)
    }

    /// Returns the address of a cluster on the link between the clusters of one network, with the link's prefix.
    #[must_use]
    pub fn on_shared_network(self, host: u8) -> IpNet {
        match self {
            Self::V4 => v4([192, 0, 2, host], 24),
            Self::V6 => v6([0x2001, 0xdb8, 0x2, 0, 0], as_written(host), 64),
        }
    }

    /// Returns the default range of pod addresses.
    #[must_use]
    pub fn default_pods(self) -> IpNet {
        match self {
            Self::V4 => v4([10, 244, 0, 0], 16),
            Self::V6 => v6([0xfd00, 0x10, 0x244, 0, 0], 0, 56),
        }
    }

    /// Returns the length of a cluster's range of pod addresses: a /24 or a /64 for each of 256 nodes.
    #[must_use]
    pub fn pods_prefix(self) -> u8 {
        match self {
            Self::V4 => 16,
            Self::V6 => 56,
        }
    }
}

/// Returns the number whose hexadecimal form reads like the decimal form of `number`.
fn as_written(number: u8) -> u16 {
    let number = u16::from(number);
    number / 100 * 256 + number / 10 % 10 * 16 + number % 10
}

fn v4(octets: [u8; 4], length: u8) -> IpNet {
    Ipv4Net::new(octets.into(), length).expect("the prefix length is a constant within 32").into()
}

fn v6([a, b, c, d, e]: [u16; 5], last: u16, length: u8) -> IpNet {
    let address = Ipv6Addr::new(a, b, c, d, e, 0, 0, last);
    Ipv6Net::new(address, length).expect("the prefix length is a constant within 128").into()
}

/// Returns the range of the same length that is `steps` ranges after `range`; `None` at the end of the address space.
pub(super) fn following(range: IpNet, steps: usize) -> Option<IpNet> {
    let steps = u128::try_from(steps).ok()?;
    match range {
        IpNet::V4(range) => {
            let step = u32::try_from(steps).ok()?.checked_shl(u32::from(32 - range.prefix_len()))?;
            let first = u32::from(range.network()).checked_add(step)?;
            Ipv4Net::new(first.into(), range.prefix_len()).ok().map(IpNet::V4)
        }
        IpNet::V6(range) => {
            let step = steps.checked_shl(u32::from(128 - range.prefix_len()))?;
            let first = u128::from(range.network()).checked_add(step)?;
            Ipv6Net::new(first.into(), range.prefix_len()).ok().map(IpNet::V6)
        }
    }
}

/// Reports whether two ranges have an address in common.
#[must_use]
pub(super) fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

impl Topology {
    /// Reports whether a cluster has the family.
    #[must_use]
    pub fn has_family(&self, family: IpFamily) -> bool {
        self.clusters.iter().any(|cluster| cluster.ip_families.contains(&family))
    }

    /// Returns the addresses of the issuers of tokens, one of each family that a cluster has.
    #[must_use]
    pub fn issuer_addresses(&self) -> Vec<IpAddr> {
        let families = IpFamily::ALL.into_iter().filter(|family| self.has_family(*family));
        families.map(|family| family.issuers().addr()).collect()
    }
}

impl Cluster {
    /// Returns the cluster's first family: that of its API server and gateway for other clusters, and of Services that
    /// request none.
    #[must_use]
    pub fn first_family(&self) -> IpFamily {
        self.ip_families.first().copied().unwrap_or(IpFamily::V4)
    }

    /// Returns the cluster's own addresses on the bridge between clusters, one of each family.
    #[must_use]
    pub fn uplinks(&self) -> Vec<IpAddr> {
        self.ip_families.iter().map(|family| family.on_bridge(1 + self.index).addr()).collect()
    }

    /// Returns the cluster's own address on the bridge between clusters, of its first family.
    #[must_use]
    pub fn uplink(&self) -> IpAddr {
        self.first_family().on_bridge(1 + self.index).addr()
    }

    /// Returns the URL of the cluster's API server for other clusters.
    #[must_use]
    pub fn server(&self) -> String {
        format!("https://{}", SocketAddr::new(self.uplink(), API_PORT))
    }

    /// Returns the LoadBalancer addresses of the cluster, ten in a row of each family.
    #[must_use]
    pub fn load_balancer_pool(&self) -> Vec<IpAddr> {
        let first = 10 * (self.index + 1);
        let hosts = |family: &IpFamily| (first..first + 10).map(|host| family.on_bridge(host).addr()).collect();
        self.ip_families.iter().flat_map(|family| -> Vec<IpAddr> { hosts(family) }).collect()
    }

    /// Returns all addresses of the cluster on the bridge between clusters.
    #[must_use]
    pub fn on_bridge(&self) -> Vec<IpAddr> {
        [self.uplinks(), self.load_balancer_pool()].concat()
    }

    /// Returns the address of the cluster's east-west gateway, of the cluster's first family.
    #[must_use]
    pub fn gateway(&self) -> IpAddr {
        self.first_family().on_bridge(10 * (self.index + 1)).addr()
    }

    /// Returns the address of the cluster's ingress gateway, of the cluster's first family.
    #[must_use]
    pub fn ingress_address(&self) -> IpAddr {
        self.first_family().on_bridge(10 * (self.index + 1) + 1).addr()
    }

    /// Returns the cluster's address of a family on the link between the clusters of its network.
    #[must_use]
    pub fn on_shared_network(&self, family: IpFamily) -> IpNet {
        family.on_shared_network(1 + self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_read_alike() {
        let text = |family: IpFamily, host| family.on_bridge(host).to_string();
        assert_eq!([text(IpFamily::V4, 254), text(IpFamily::V6, 254)], ["203.0.113.254/24", "2001:db8:113::254/64"]);
        assert_eq!([text(IpFamily::V4, 10), text(IpFamily::V6, 10)], ["203.0.113.10/24", "2001:db8:113::10/64"]);
        assert_eq!(IpFamily::V6.api_server().to_string(), "fd00:10:96::1");
        assert_eq!(IpFamily::V6.dns().to_string(), "fd00:10:96::a");
        for family in IpFamily::ALL {
            assert!(family.services().contains(&family.api_server()) && family.services().contains(&family.dns()));
            assert_eq!(family.default_pods().prefix_len(), family.pods_prefix());
        }
    }

    #[test]
    fn ranges_follow_each_other() {
        let after = |range: &str, steps| following(range.parse().expect("a range"), steps).map(|net| net.to_string());
        assert_eq!(after("10.244.0.0/16", 0).as_deref(), Some("10.244.0.0/16"));
        assert_eq!(after("10.244.0.0/16", 2).as_deref(), Some("10.246.0.0/16"));
        assert_eq!(after("fd00:10:244::/56", 1).as_deref(), Some("fd00:10:244:100::/56"));
        assert_eq!(after("255.255.0.0/16", 1), None);
        assert_eq!(after("ffff:ffff:ffff:ff00::/56", 1), None);
        let net = |text: &str| text.parse::<IpNet>().expect("a range");
        assert!(overlap(net("10.0.0.0/8"), net("10.244.0.0/16")) && overlap(net("fd00::1/128"), net("fd00::/8")));
        assert!(!overlap(net("10.244.0.0/16"), net("10.245.0.0/16")) && !overlap(net("::/0"), net("0.0.0.0/0")));
    }
}
