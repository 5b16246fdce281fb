//! Links, addresses and routes over netlink (`rtnetlink(7)`), without the `ip` program.
//!
//! [`Links`] affects the network namespace in which it was opened. A call takes some microseconds and waits only for
//! the kernel, so that async code can call it directly.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use ipnet::IpNet;

use crate::namespace::{NamespaceError, NetNamespace};
use crate::netlink::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkMessage, NetlinkSocket, attributes};

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTNH_F_ONLINK: u32 = 4;

/// The hardware address of bridges: locally administered, so that it differs from those of devices.
const BRIDGE_ADDRESS: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

/// The error of an operation on links, addresses or routes.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {source}")]
pub struct LinkError {
    action: String,
    #[source]
    source: io::Error,
}

impl LinkError {
    fn new(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { action: action.into(), source: source.into() }
    }

    /// Returns whether the link, address or route does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(self.source.raw_os_error(), Some(libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL))
            || self.source.kind() == io::ErrorKind::NotFound
    }
}

/// The next hop of a route.
#[derive(Debug, Clone, Copy)]
pub enum Via<'a> {
    /// The destination is directly on a link.
    Link(&'a str),
    /// A gateway, which is assumed to be on the link even without a matching address ("onlink").
    Gateway(IpAddr, &'a str),
    /// Unreachable: connections fail at once with "no route to host".
    Unreachable,
}

/// A route.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// The destination network.
    pub to: IpNet,
    /// The next hop.
    pub via: Via<'a>,
    /// The preferred source address.
    pub source: Option<IpAddr>,
}

/// A netlink connection for the links of one network namespace.
#[derive(Debug)]
pub struct Links {
    socket: NetlinkSocket,
}

impl Links {
    /// Opens a connection for the calling thread's network namespace.
    ///
    /// # Errors
    /// Returns an error if no socket can be created.
    pub fn open() -> Result<Self, LinkError> {
        let socket = NetlinkSocket::open(None).map_err(|source| LinkError::new("open a netlink socket", source))?;
        Ok(Self { socket })
    }

    /// Opens a connection for another namespace.
    ///
    /// # Errors
    /// Returns an error if the namespace cannot be entered.
    pub fn open_in(namespace: &NetNamespace) -> Result<Self, LinkError> {
        namespace
            .run_in(Self::open)
            .map_err(|error: NamespaceError| LinkError::new("open a netlink socket", io::Error::other(error)))?
    }

    /// Returns the interface index of a link.
    ///
    /// # Errors
    /// Returns an error if the link does not exist.
    pub fn index(&mut self, name: &str) -> Result<u32, LinkError> {
        self.list()?
            .into_iter()
            .find(|(_, found)| found == name)
            .map(|(index, _)| index)
            .ok_or_else(|| LinkError::new(format!("find link {name}"), io::Error::from_raw_os_error(libc::ENODEV)))
    }

    /// Returns index and name of all links.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses.
    pub fn list(&mut self) -> Result<Vec<(u32, String)>, LinkError> {
        let mut links = Vec::new();
        let request = NetlinkMessage::new(libc::RTM_GETLINK, 0, &interface(0, 0, 0));
        self.socket
            .dump(request, |payload| {
                let Some(index) = payload.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes)
                else {
                    return;
                };
                let name = attributes(payload.get(16..).unwrap_or_default()).find(|(kind, _)| *kind == IFLA_IFNAME);
                if let Some((_, name)) = name {
                    let name = name.strip_suffix(&[0]).unwrap_or(name);
                    links.push((index, String::from_utf8_lossy(name).into_owned()));
                }
            })
            .map_err(|source| LinkError::new("list links", source))?;
        Ok(links)
    }

    /// Brings a link up.
    ///
    /// # Errors
    /// Returns an error if the link does not exist.
    pub fn up(&mut self, name: &str) -> Result<(), LinkError> {
        let up = libc::IFF_UP as u32;
        let mut request = NetlinkMessage::new(libc::RTM_NEWLINK, 0, &interface(0, up, up));
        request.attr_str(IFLA_IFNAME, name);
        self.request(request, || format!("bring up link {name}"))
    }

    /// Creates a pair of virtual links: `name` in this namespace, `peer` in this or another namespace.
    ///
    /// # Errors
    /// Returns an error if a name is in use or longer than 15 bytes.
    pub fn add_veth(&mut self, name: &str, peer: &str, peer_in: Option<&NetNamespace>) -> Result<(), LinkError> {
        let mut request = NetlinkMessage::new(libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &interface(0, 0, 0));
        request.attr_str(IFLA_IFNAME, name);
        request.nest(IFLA_LINKINFO, |info| {
            info.attr(IFLA_INFO_KIND, b"veth").nest(IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |other| {
                    other.raw(&interface(0, 0, 0)).attr_str(IFLA_IFNAME, peer);
                    if let Some(namespace) = peer_in {
                        use std::os::fd::AsFd;
                        other.attr(IFLA_NET_NS_FD, &namespace.as_fd().as_raw_fd().to_ne_bytes());
                    }
                });
            });
        });
        self.request(request, || format!("create link {name} with peer {peer}"))
    }

    /// Creates a bridge. Its hardware address is fixed: by default it would change to the lowest address of the attached
    /// links, and neighbours with the old address in their ARP cache could not reach the bridge for several seconds.
    ///
    /// # Errors
    /// Returns an error if the name is in use.
    pub fn add_bridge(&mut self, name: &str) -> Result<(), LinkError> {
        let mut request = NetlinkMessage::new(libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &interface(0, 0, 0));
        request.attr_str(IFLA_IFNAME, name).attr(IFLA_ADDRESS, &BRIDGE_ADDRESS);
        request.nest(IFLA_LINKINFO, |info| {
            info.attr(IFLA_INFO_KIND, b"bridge");
        });
        self.request(request, || format!("create bridge {name}"))
    }

    /// Attaches a link to a bridge.
    ///
    /// # Errors
    /// Returns an error if the link or the bridge does not exist.
    pub fn attach(&mut self, name: &str, bridge: &str) -> Result<(), LinkError> {
        let master = self.index(bridge)?;
        let mut request = NetlinkMessage::new(libc::RTM_NEWLINK, 0, &interface(0, 0, 0));
        request.attr_str(IFLA_IFNAME, name).attr(IFLA_MASTER, &master.to_ne_bytes());
        self.request(request, || format!("attach link {name} to bridge {bridge}"))
    }

    /// Moves a link to another namespace.
    ///
    /// # Errors
    /// Returns an error if the link does not exist.
    pub fn move_to(&mut self, name: &str, namespace: &NetNamespace) -> Result<(), LinkError> {
        use std::os::fd::AsFd;
        let mut request = NetlinkMessage::new(libc::RTM_NEWLINK, 0, &interface(0, 0, 0));
        request.attr_str(IFLA_IFNAME, name);
        request.attr(IFLA_NET_NS_FD, &namespace.as_fd().as_raw_fd().to_ne_bytes());
        self.request(request, || format!("move link {name} to another namespace"))
    }

    /// Sets the hardware address of a link.
    ///
    /// # Errors
    /// Returns an error if the link does not exist.
    pub fn set_hardware_address(&mut self, name: &str, address: [u8; 6]) -> Result<(), LinkError> {
        let mut request = NetlinkMessage::new(libc::RTM_NEWLINK, 0, &interface(0, 0, 0));
        request.attr_str(IFLA_IFNAME, name).attr(IFLA_ADDRESS, &address);
        self.request(request, || format!("set the hardware address of link {name}"))
    }

    /// Removes a link. Both links of a pair are removed.
    ///
    /// # Errors
    /// Returns an error if the link does not exist ([`LinkError::is_missing`]).
    pub fn delete(&mut self, name: &str) -> Result<(), LinkError> {
        let mut request = NetlinkMessage::new(libc::RTM_DELLINK, 0, &interface(0, 0, 0));
        request.attr_str(IFLA_IFNAME, name);
        self.request(request, || format!("remove link {name}"))
    }

    /// Adds an address with its network to a link. No error if the link already has it. An IPv6 address is usable at
    /// once, without duplicate address detection.
    ///
    /// # Errors
    /// Returns an error if the link does not exist.
    pub fn add_address(&mut self, link: &str, address: IpNet) -> Result<(), LinkError> {
        let request = self.address_request(libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, link, address)?;
        self.request(request, || format!("add address {address} to link {link}"))
    }

    /// Removes an address from a link.
    ///
    /// # Errors
    /// Returns an error if the link does not have the address ([`LinkError::is_missing`]).
    pub fn delete_address(&mut self, link: &str, address: IpNet) -> Result<(), LinkError> {
        let request = self.address_request(libc::RTM_DELADDR, 0, link, address)?;
        self.request(request, || format!("remove address {address} from link {link}"))
    }

    fn address_request(
        &mut self,
        kind: u16,
        flags: u16,
        link: &str,
        address: IpNet,
    ) -> Result<NetlinkMessage, LinkError> {
        let index = self.index(link)?;
        let ip = address.addr();
        let scope = if ip.is_loopback() { libc::RT_SCOPE_HOST } else { libc::RT_SCOPE_UNIVERSE };
        let [a, b, c, d] = index.to_ne_bytes();
        let mut request = NetlinkMessage::new(kind, flags, &[family(ip), address.prefix_len(), 0, scope, a, b, c, d]);
        let octets = octets(ip);
        request.attr(IFA_LOCAL, &octets).attr(IFA_ADDRESS, &octets);
        if ip.is_ipv6() {
            request.attr(IFA_FLAGS, &libc::IFA_F_NODAD.to_ne_bytes());
        }
        Ok(request)
    }

    /// Adds a route, replacing a route to the same network.
    ///
    /// # Errors
    /// Returns an error if the link does not exist or is down.
    pub fn add_route(&mut self, route: Route<'_>) -> Result<(), LinkError> {
        let request = self.route_request(libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route)?;
        self.request(request, || format!("add a route to {}", route.to))
    }

    /// Removes a route.
    ///
    /// # Errors
    /// Returns an error if the route does not exist ([`LinkError::is_missing`]).
    pub fn delete_route(&mut self, route: Route<'_>) -> Result<(), LinkError> {
        let request = self.route_request(libc::RTM_DELROUTE, 0, route)?;
        self.request(request, || format!("remove the route to {}", route.to))
    }

    fn route_request(&mut self, kind: u16, flags: u16, route: Route<'_>) -> Result<NetlinkMessage, LinkError> {
        let (link, gateway) = match route.via {
            Via::Link(link) => (Some(self.index(link)?), None),
            Via::Gateway(address, link) => (Some(self.index(link)?), Some(address)),
            Via::Unreachable => (None, None),
        };
        let action = if link.is_some() { libc::RTN_UNICAST } else { libc::RTN_UNREACHABLE };
        let scope = match route.via {
            Via::Link(_) if route.to.network().is_ipv4() => libc::RT_SCOPE_LINK,
            _ => libc::RT_SCOPE_UNIVERSE,
        };
        let flags_of_hop = if gateway.is_some() { RTNH_F_ONLINK } else { 0 };
        let address = route.to.network();
        let mut header =
            vec![family(address), route.to.prefix_len(), 0, 0, libc::RT_TABLE_MAIN, libc::RTPROT_STATIC, scope, action];
        header.extend_from_slice(&flags_of_hop.to_ne_bytes());
        let mut request = NetlinkMessage::new(kind, flags, &header);
        if route.to.prefix_len() > 0 {
            request.attr(RTA_DST, &octets(address));
        }
        if let Some(gateway) = gateway {
            request.attr(RTA_GATEWAY, &octets(gateway));
        }
        if let Some(link) = link {
            request.attr(RTA_OIF, &link.to_ne_bytes());
        }
        if let Some(source) = route.source {
            request.attr(RTA_PREFSRC, &octets(source));
        }
        Ok(request)
    }

    fn request(&mut self, request: NetlinkMessage, action: impl FnOnce() -> String) -> Result<(), LinkError> {
        self.socket.request(request).map_err(|source| LinkError::new(action(), source))
    }
}

/// `struct ifinfomsg`.
fn interface(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
