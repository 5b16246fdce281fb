//! The rules that bring a pod's traffic to its sidecar.

use ipnet::IpNet;

use super::expression::{
    NFPROTO_IPV4, NFPROTO_IPV6, Rule, Side, address_in, from_port, give_back, leaves_by, marked, redirect_to, rule,
    sent_by_user, to_port, track_in, transport, version,
};
use super::table::{BEFORE_TRACKING, DESTINATION_NAT, Hook, Kind, Table};
use super::{FirewallError, TCP, UDP};
use crate::{PROXY_MARK, PROXY_UID};

const TABLE: &str = "isthmus-capture";

/// Ports of the pod that are the sidecar's own or are never its business, as Istio leaves them alone: merged metrics,
/// health, metrics, capture, DNS and SSH.
const NEVER_INBOUND: [u16; 6] = [15020, 15021, 15090, 15006, 15053, 22];

/// The zone in which the kernel tracks the sidecar's own DNS questions; everything else is in zone 0.
const DNS_ZONE: u16 = 1;

/// What is captured in a pod, and for which ports of its sidecar.
///
/// The semantics are those of Istio's `istio-init` (`tools/istio-iptables`). The sidecar's own traffic is told apart
/// by its user **or** by the mark on its sockets: in a user namespace there is just one user.
#[derive(Debug, Clone)]
pub struct Capture {
    /// Where outgoing TCP connections go.
    pub outbound_port: u16,
    /// Where incoming TCP connections go.
    pub inbound_port: u16,
    /// Where DNS questions (TCP and UDP to port 53) go. The server must be bound to 127.0.0.1 (and ::1), not to the
    /// wildcard: an answer from another source address does not match the question. `None` leaves DNS alone.
    pub dns_port: Option<u16>,
    /// The user that the sidecar runs as.
    pub proxy_uid: u32,
    /// The mark (`SO_MARK`) on the sidecar's outgoing sockets.
    pub proxy_mark: u32,
    /// Ports of the pod whose connections go straight to the application.
    pub exclude_inbound_ports: Vec<u16>,
    /// Destination ports that leave the pod directly.
    pub exclude_outbound_ports: Vec<u16>,
    /// Destinations that are reached directly.
    pub exclude_outbound_cidrs: Vec<IpNet>,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            outbound_port: 15001,
            inbound_port: 15006,
            dns_port: Some(15053),
            proxy_uid: PROXY_UID,
            proxy_mark: PROXY_MARK,
            exclude_inbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            exclude_outbound_cidrs: Vec::new(),
        }
    }
}

/// Installs capture in the calling thread's network namespace, replacing what an earlier call installed.
///
/// # Errors
/// When the kernel refuses the table: without `CAP_NET_ADMIN` over the namespace, or without nftables.
pub fn install_capture(capture: &Capture) -> Result<(), FirewallError> {
    let mut table = Table::replace(TABLE);
    table.base_chain("outbound", Kind::Nat, Hook::Output, DESTINATION_NAT);
    table.base_chain("inbound", Kind::Nat, Hook::Prerouting, DESTINATION_NAT);
    outbound(capture).iter().for_each(|rule| table.rule("outbound", rule));
    inbound(capture).iter().for_each(|rule| table.rule("inbound", rule));
    if capture.dns_port.is_some() {
        table.base_chain("questions", Kind::Filter, Hook::Output, BEFORE_TRACKING);
        table.base_chain("answers", Kind::Filter, Hook::Prerouting, BEFORE_TRACKING);
        questions(capture).iter().for_each(|rule| table.rule("questions", rule));
        table.rule("answers", &rule([transport(UDP), from_port(53), track_in(DNS_ZONE)]));
    }
    table.commit().map_err(|source| FirewallError::new("install the capture of this pod's traffic", source))
}

/// Removes capture from the calling thread's network namespace; fine if there is none.
///
/// # Errors
/// As [`install_capture`].
pub fn remove_capture() -> Result<(), FirewallError> {
    Table::remove(TABLE).commit().map_err(|source| FirewallError::new("remove the capture", source))
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a constant network")
}

/// The output chain. Order matters: traffic over `lo` first, then the sidecar's own, then DNS, exclusions, the rest.
fn outbound(capture: &Capture) -> Vec<Rule> {
    let lo = || leaves_by("lo");
    let sidecar = [sent_by_user(capture.proxy_uid), marked(capture.proxy_mark)];
    let loopback = [net("127.0.0.0/8"), net("::1/128")];
    let mut rules = Vec::new();

    // The sidecar handing an inbound connection to the application, from its well-known source.
    for source in [net("127.0.0.6/32"), net("::6/128")] {
        rules.push(rule([lo(), address_in(Side::Source, source, false), give_back()]));
    }
    // The sidecar calling its own pod (the application called its own service): in by the front door.
    for who in &sidecar {
        for here in loopback {
            rules.push(rule([
                who.clone(),
                lo(),
                transport(TCP),
                address_in(Side::Destination, here, true),
                redirect_to(capture.inbound_port),
            ]));
        }
    }
    for who in sidecar {
        rules.push(rule([who, give_back()]));
    }
    if let Some(port) = capture.dns_port {
        for protocol in [UDP, TCP] {
            rules.push(rule([transport(protocol), to_port(53), redirect_to(port)]));
        }
    }
    // The application calling itself by the pod's address.
    rules.push(rule([lo(), give_back()]));
    for here in loopback {
        rules.push(rule([address_in(Side::Destination, here, false), give_back()]));
    }
    for port in &capture.exclude_outbound_ports {
        rules.push(rule([transport(TCP), to_port(*port), give_back()]));
    }
    for network in &capture.exclude_outbound_cidrs {
        rules.push(rule([address_in(Side::Destination, *network, false), give_back()]));
    }
    rules.push(rule([transport(TCP), redirect_to(capture.outbound_port)]));
    rules
}

/// Of the sidecar's own questions over UDP. The kernel keeps to what it decided on a pair of addresses and ports for half a
/// minute after its last packet. Without a zone of their own, a question of the application's from a port that the sidecar
/// passed one on from would leave the pod uncaptured, and one of the sidecar's from a port of the application's would come
/// back to it.
fn questions(capture: &Capture) -> [Rule; 2] {
    [sent_by_user(capture.proxy_uid), marked(capture.proxy_mark)]
        .map(|who| rule([transport(UDP), to_port(53), who, track_in(DNS_ZONE)]))
}

fn inbound(capture: &Capture) -> Vec<Rule> {
    let mut rules = Vec::new();
    for port in NEVER_INBOUND.iter().chain(&capture.exclude_inbound_ports).chain([&capture.inbound_port]) {
        rules.push(rule([transport(TCP), to_port(*port), give_back()]));
    }
    for nfproto in [NFPROTO_IPV4, NFPROTO_IPV6] {
        rules.push(rule([version(nfproto), transport(TCP), redirect_to(capture.inbound_port)]));
    }
    rules
}
