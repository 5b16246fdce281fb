//! Capture: rules that redirect a pod's connections to its sidecar.

use std::net::IpAddr;

use ipnet::IpNet;

use super::expression::{NFPROTO_IPV4, NFPROTO_IPV6};
use super::rule::{
    AddressSide, NftRule, address_in, destination_port, output_interface, packet_mark, redirect_to, return_from_chain,
    rule, sender, source_port, track_in_zone, transport, version,
};
use super::table::{BEFORE_TRACKING, ChainType, DESTINATION_NAT, Hook, NftTable};
use super::{FirewallError, TCP, UDP};
use crate::link::Links;
use crate::socket::INBOUND_SOURCE_V6;
use crate::{PROXY_MARK, PROXY_UID};

const TABLE: &str = "isthmus-capture";

/// Ports that are never captured inbound, as in Istio: the sidecar's own ports (merged metrics, health, metrics,
/// capture, DNS) and SSH.
const NEVER_INBOUND: [u16; 6] = [15020, 15021, 15090, 15006, 15053, 22];

/// The conntrack zone of the sidecar's own DNS queries. All other traffic is in zone 0.
const DNS_ZONE: u16 = 1;

/// The capture rules of a pod.
///
/// The semantics are those of Istio's `istio-init` (`tools/istio-iptables`). The sidecar's own traffic is recognised by
/// its user **or** by the mark of its sockets, since a user namespace has a single user.
#[derive(Debug, Clone)]
pub struct Capture {
    /// The sidecar's port for outbound connections.
    pub outbound_port: u16,
    /// The sidecar's port for inbound connections.
    pub inbound_port: u16,
    /// The sidecar's port for DNS queries (TCP and UDP to port 53 of `dns_servers`). Its DNS server must be bound to 127.0.0.1
    /// (and ::1), not to the wildcard address: a response from another source address does not match the query. `None`
    /// disables the capture of DNS.
    pub dns_port: Option<u16>,
    /// The pod's own DNS servers. Queries to others are not captured: their answers may differ.
    pub dns_servers: Vec<IpAddr>,
    /// The user that the sidecar runs as.
    pub proxy_uid: u32,
    /// The mark (`SO_MARK`) of the sidecar's outgoing sockets.
    pub proxy_mark: u32,
    /// Ports of the pod that are not captured inbound.
    pub exclude_inbound_ports: Vec<u16>,
    /// Destination ports that are not captured outbound.
    pub exclude_outbound_ports: Vec<u16>,
    /// Destination networks that are not captured outbound.
    pub exclude_outbound_cidrs: Vec<IpNet>,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            outbound_port: 15001,
            inbound_port: 15006,
            dns_port: Some(15053),
            dns_servers: Vec::new(),
            proxy_uid: PROXY_UID,
            proxy_mark: PROXY_MARK,
            exclude_inbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            exclude_outbound_cidrs: Vec::new(),
        }
    }
}

/// Installs capture in the network namespace of the calling thread, replacing earlier capture rules. If the namespace has
/// IPv6, `lo` gets the source address of the sidecar's connections to the application, as from Istio's `istio-init`:
/// without it the rules could not tell them from others.
///
/// # Errors
/// Returns an error if the process lacks `CAP_NET_ADMIN` over the namespace, or the kernel lacks nftables.
pub fn install_capture(capture: &Capture) -> Result<(), FirewallError> {
    let mut table = NftTable::replace(TABLE);
    table.base_chain("outbound", ChainType::Nat, Hook::Output, DESTINATION_NAT);
    table.base_chain("inbound", ChainType::Nat, Hook::Prerouting, DESTINATION_NAT);
    outbound(capture).iter().for_each(|rule| table.rule("outbound", rule));
    inbound(capture).iter().for_each(|rule| table.rule("inbound", rule));
    if capture.dns_port.is_some() {
        table.base_chain("questions", ChainType::Filter, Hook::Output, BEFORE_TRACKING);
        table.base_chain("answers", ChainType::Filter, Hook::Prerouting, BEFORE_TRACKING);
        questions(capture).iter().for_each(|rule| table.rule("questions", rule));
        table.rule("answers", &rule([transport(UDP), source_port(53), track_in_zone(DNS_ZONE)]));
    }
    if has_ipv6() {
        Links::open()
            .and_then(|mut links| links.add_address("lo", IpNet::from(INBOUND_SOURCE_V6)))
            .map_err(|source| FirewallError::new("install the capture rules", std::io::Error::other(source)))?;
    }
    table.commit().map_err(|source| FirewallError::new("install the capture rules", source))
}

/// Reports whether `lo` of the calling thread's network namespace can have IPv6 addresses.
fn has_ipv6() -> bool {
    std::fs::read("/proc/sys/net/ipv6/conf/lo/disable_ipv6").is_ok_and(|value| value.trim_ascii() == b"0")
}

/// Removes capture from the network namespace of the calling thread. No error if it is not installed.
///
/// # Errors
/// Returns an error in the cases of [`install_capture`].
pub fn remove_capture() -> Result<(), FirewallError> {
    NftTable::remove(TABLE).commit().map_err(|source| FirewallError::new("remove the capture rules", source))
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a constant network")
}

/// Returns the output chain. The order matters: traffic over `lo`, the sidecar's own traffic, DNS, exclusions, all
/// other traffic.
fn outbound(capture: &Capture) -> Vec<NftRule> {
    let lo = || output_interface("lo");
    let sidecar = [sender(capture.proxy_uid), packet_mark(capture.proxy_mark)];
    let loopback = [net("127.0.0.0/8"), net("::1/128")];
    let mut rules = Vec::new();

    // Inbound connections from the sidecar to the application, recognised by their source address.
    for source in [net("127.0.0.6/32"), net("::6/128")] {
        rules.push(rule([lo(), address_in(AddressSide::Source, source, false), return_from_chain()]));
    }
    // Connections of the sidecar to its own pod, when the application calls its own service: they are captured inbound.
    for who in &sidecar {
        for here in loopback {
            rules.push(rule([
                who.clone(),
                lo(),
                transport(TCP),
                address_in(AddressSide::Destination, here, true),
                redirect_to(capture.inbound_port),
            ]));
        }
    }
    for who in sidecar {
        rules.push(rule([who, return_from_chain()]));
    }
    if let Some(port) = capture.dns_port {
        for (server, protocol) in capture.dns_servers.iter().flat_map(|server| [(*server, UDP), (*server, TCP)]) {
            let to_server = address_in(AddressSide::Destination, server.into(), false);
            rules.push(rule([to_server, transport(protocol), destination_port(53), redirect_to(port)]));
        }
    }
    // Connections of the application to itself by the pod's address.
    rules.push(rule([lo(), return_from_chain()]));
    for here in loopback {
        rules.push(rule([address_in(AddressSide::Destination, here, false), return_from_chain()]));
    }
    for port in &capture.exclude_outbound_ports {
        rules.push(rule([transport(TCP), destination_port(*port), return_from_chain()]));
    }
    for network in &capture.exclude_outbound_cidrs {
        rules.push(rule([address_in(AddressSide::Destination, *network, false), return_from_chain()]));
    }
    rules.push(rule([transport(TCP), redirect_to(capture.outbound_port)]));
    rules
}

/// Returns the rules that track the sidecar's own UDP queries in a zone of their own. Connection tracking keeps its NAT
/// decision for a pair of addresses and ports for half a minute after the last packet, and ports are reused. In a
/// common zone, a query of the application from a port that the sidecar has used would leave the pod uncaptured, and a
/// query of the sidecar from a port that the application has used would return to the sidecar.
fn questions(capture: &Capture) -> [NftRule; 2] {
    [sender(capture.proxy_uid), packet_mark(capture.proxy_mark)]
        .map(|who| rule([transport(UDP), destination_port(53), who, track_in_zone(DNS_ZONE)]))
}

fn inbound(capture: &Capture) -> Vec<NftRule> {
    let mut rules = Vec::new();
    for port in NEVER_INBOUND.iter().chain(&capture.exclude_inbound_ports).chain([&capture.inbound_port]) {
        rules.push(rule([transport(TCP), destination_port(*port), return_from_chain()]));
    }
    for nfproto in [NFPROTO_IPV4, NFPROTO_IPV6] {
        rules.push(rule([version(nfproto), transport(TCP), redirect_to(capture.inbound_port)]));
    }
    rules
}
