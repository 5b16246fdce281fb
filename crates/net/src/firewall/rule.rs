//! Rules: sequences of expressions, built from named parts.

use std::net::IpAddr;

use ipnet::IpNet;

use super::expression::{
    Expression, NETWORK_HEADER, NFPROTO_IPV4, NFPROTO_IPV6, NFT_META_IIFNAME, NFT_META_L4PROTO, NFT_META_MARK,
    NFT_META_NFPROTO, NFT_META_OIFNAME, NFT_META_SKUID, REGISTER, TRANSPORT_HEADER, Verdict,
};

/// The instructions of a rule, in order.
pub(super) type NftRule = Vec<Expression>;

/// Concatenates the parts of a rule.
pub(super) fn rule<const N: usize>(parts: [NftRule; N]) -> NftRule {
    parts.into_iter().flatten().collect()
}

fn meta_is(key: u32, negate: bool, value: &[u8]) -> NftRule {
    vec![
        Expression::Meta { key, register: REGISTER },
        Expression::Compare { register: REGISTER, negate, value: value.to_vec() },
    ]
}

/// Matches the IP version.
pub(super) fn version(nfproto: u8) -> NftRule {
    meta_is(NFT_META_NFPROTO, false, &[nfproto])
}

/// Matches the transport protocol by its IP protocol number.
pub(super) fn transport(number: u8) -> NftRule {
    meta_is(NFT_META_L4PROTO, false, &[number])
}

/// Matches the incoming interface.
pub(super) fn input_interface(name: &str) -> NftRule {
    meta_is(NFT_META_IIFNAME, false, &interface(name))
}

/// Matches the outgoing interface.
pub(super) fn output_interface(name: &str) -> NftRule {
    meta_is(NFT_META_OIFNAME, false, &interface(name))
}

fn interface(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let length = name.len().min(15);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}

/// Matches packets from sockets of a user.
pub(super) fn sender(uid: u32) -> NftRule {
    meta_is(NFT_META_SKUID, false, &uid.to_ne_bytes())
}

/// Matches the packet mark.
pub(super) fn packet_mark(mark: u32) -> NftRule {
    meta_is(NFT_META_MARK, false, &mark.to_ne_bytes())
}

/// Matches the source port.
pub(super) fn source_port(port: u16) -> NftRule {
    port_is(0, port)
}

/// Matches the destination port.
pub(super) fn destination_port(port: u16) -> NftRule {
    port_is(2, port)
}

fn port_is(offset: u32, port: u16) -> NftRule {
    vec![
        Expression::Payload { base: TRANSPORT_HEADER, offset, length: 2, register: REGISTER },
        Expression::Compare { register: REGISTER, negate: false, value: port.to_be_bytes().to_vec() },
    ]
}

/// An address of a packet.
#[derive(Clone, Copy)]
pub(super) enum AddressSide {
    Source,
    Destination,
}

/// Loads an address of the packet into a register.
pub(super) fn load_address(side: AddressSide, nfproto: u8, register: u32) -> Expression {
    let (offset, length) = match (nfproto, side) {
        (NFPROTO_IPV4, AddressSide::Source) => (12, 4),
        (NFPROTO_IPV4, AddressSide::Destination) => (16, 4),
        (_, AddressSide::Source) => (8, 16),
        (_, AddressSide::Destination) => (24, 16),
    };
    Expression::Payload { base: NETWORK_HEADER, offset, length, register }
}

/// Loads the transport protocol's number into a register.
pub(super) fn load_transport(register: u32) -> Expression {
    Expression::Meta { key: NFT_META_L4PROTO, register }
}

/// Loads the destination port into a register.
pub(super) fn load_port(register: u32) -> Expression {
    Expression::Payload { base: TRANSPORT_HEADER, offset: 2, length: 2, register }
}

/// Matches packets with an address in a network (with `negate`: not in the network). Implies the IP version.
pub(super) fn address_in(side: AddressSide, network: IpNet, negate: bool) -> NftRule {
    let nfproto = if network.network().is_ipv4() { NFPROTO_IPV4 } else { NFPROTO_IPV6 };
    let mut rule = version(nfproto);
    rule.push(load_address(side, nfproto, REGISTER));
    if network.prefix_len() != network.max_prefix_len() {
        rule.push(Expression::Mask { register: REGISTER, mask: octets(network.netmask()) });
    }
    rule.push(Expression::Compare { register: REGISTER, negate, value: octets(network.network()) });
    rule
}

/// Matches packets whose destination is not an address of this machine.
pub(super) fn not_local() -> NftRule {
    let local = u32::from(libc::RTN_LOCAL).to_ne_bytes().to_vec();
    vec![
        Expression::DestinationKind { register: REGISTER },
        Expression::Compare { register: REGISTER, negate: true, value: local },
    ]
}

/// Returns the bytes of an address in network byte order.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Redirects the packet to a port of this machine.
pub(super) fn redirect_to(port: u16) -> NftRule {
    vec![
        Expression::Immediate { register: REGISTER, value: port.to_be_bytes().to_vec() },
        Expression::Redirect { port_register: REGISTER },
    ]
}

/// Sets the conntrack zone, which separates the packet's connection from connections with the same addresses and ports
/// in other zones. Only effective before connection tracking ([`super::table::BEFORE_TRACKING`]).
pub(super) fn track_in_zone(zone: u16) -> NftRule {
    vec![
        Expression::Immediate { register: REGISTER, value: zone.to_ne_bytes().to_vec() },
        Expression::Zone { register: REGISTER },
    ]
}

/// Drops the packet.
pub(super) fn drop_packet() -> NftRule {
    vec![Expression::Verdict(Verdict::Drop)]
}

/// Returns from the chain.
pub(super) fn return_from_chain() -> NftRule {
    vec![Expression::Verdict(Verdict::Return)]
}
