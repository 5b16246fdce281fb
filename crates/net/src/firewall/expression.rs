//! Expressions of rules: the instructions of the kernel's nftables virtual machine, and their netlink encoding.
//!
//! Each instruction loads into, compares, or acts on registers (`linux/netfilter/nf_tables.h`, `enum nft_registers`).
//! The rules use register 1 (16 bytes, the same storage as the 4-byte registers 8 to 11) and the 4-byte registers after
//! it.

use super::table::nft_data;
use crate::netlink::NetlinkMessage;

/// The first 16-byte register; the same storage as the 4-byte registers 8 to 11.
pub(super) const REGISTER: u32 = 1;
/// The first 4-byte register.
pub(super) const REGISTER32: u32 = 8;

pub(super) const NFPROTO_IPV4: u8 = 2;
pub(super) const NFPROTO_IPV6: u8 = 10;

const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_LIST_ELEM: u16 = 1;

pub(super) const NFT_META_MARK: u32 = 3;
pub(super) const NFT_META_IIFNAME: u32 = 6;
pub(super) const NFT_META_OIFNAME: u32 = 7;
pub(super) const NFT_META_SKUID: u32 = 10;
pub(super) const NFT_META_NFPROTO: u32 = 15;
pub(super) const NFT_META_L4PROTO: u32 = 16;

const NFT_CT_ZONE: u32 = 17;

const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_OF_DESTINATION: u32 = 1 << 1;

pub(super) const NETWORK_HEADER: u32 = 1;
pub(super) const TRANSPORT_HEADER: u32 = 2;

const VERDICT_DROP: i32 = 0;
const VERDICT_GOTO: i32 = -4;
const VERDICT_RETURN: i32 = -5;

/// An instruction.
#[derive(Debug, Clone)]
pub(super) enum Expression {
    /// Loads packet metadata into a register.
    Meta { key: u32, register: u32 },
    /// Loads bytes of a header into a register.
    Payload { base: u32, offset: u32, length: u32, register: u32 },
    /// Ends the rule unless the register equals (or, `negate`, differs from) the bytes.
    Compare { register: u32, negate: bool, value: Vec<u8> },
    /// ANDs the register with a mask.
    Mask { register: u32, mask: Vec<u8> },
    /// Loads a constant.
    Immediate { register: u32, value: Vec<u8> },
    /// Ends the rule unless the register is in a set; a map's value goes to `into`.
    Lookup { set: String, register: u32, into: Option<u32> },
    /// Loads the type of the destination address (`RTN_…`), in host byte order.
    DestinationKind { register: u32 },
    /// Loads a uniformly distributed random number below `below`, in host byte order.
    Random { below: u32, register: u32 },
    /// Sets the conntrack zone of the packet to the value in the register (2 bytes, in host byte order).
    Zone { register: u32 },
    /// Redirects the packet to this machine, to the port in the register.
    Redirect { port_register: u32 },
    /// Rewrites the destination to the address and port in registers.
    DestinationNat { family: u8, address_register: u32, port_register: u32 },
    /// Rewrites the source to the address of the outgoing link.
    Masquerade,
    /// Rejects the packet with a TCP reset or with "port unreachable".
    Reject { tcp: bool },
    /// Continues in another chain, or ends the evaluation.
    Verdict(Verdict),
}

/// The verdict of a rule.
#[derive(Debug, Clone)]
pub(super) enum Verdict {
    Drop,
    Return,
    Goto(String),
}

impl Verdict {
    pub(super) fn encode(&self, message: &mut NetlinkMessage) {
        let (code, chain) = match self {
            Self::Drop => (VERDICT_DROP, None),
            Self::Return => (VERDICT_RETURN, None),
            Self::Goto(chain) => (VERDICT_GOTO, Some(chain)),
        };
        message.nest(2, |verdict| {
            verdict.attr_be32(1, code as u32);
            if let Some(chain) = chain {
                verdict.attr_str(2, chain);
            }
        });
    }
}

impl Expression {
    fn name(&self) -> &'static str {
        match self {
            Self::Meta { .. } => "meta",
            Self::Payload { .. } => "payload",
            Self::Compare { .. } => "cmp",
            Self::Mask { .. } => "bitwise",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::Lookup { .. } => "lookup",
            Self::DestinationKind { .. } => "fib",
            Self::Random { .. } => "numgen",
            Self::Zone { .. } => "ct",
            Self::Redirect { .. } => "redir",
            Self::DestinationNat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Reject { .. } => "reject",
        }
    }

    /// Appends this instruction to a rule's expression list.
    pub(super) fn encode(&self, rule: &mut NetlinkMessage) {
        rule.nest(NFTA_LIST_ELEM, |element| {
            element.attr_str(NFTA_EXPR_NAME, self.name());
            element.nest(NFTA_EXPR_DATA, |data| self.encode_data(data));
        });
    }

    fn encode_data(&self, data: &mut NetlinkMessage) {
        match self {
            Self::Meta { key, register } => {
                data.attr_be32(1, *register).attr_be32(2, *key);
            }
            Self::Payload { base, offset, length, register } => {
                data.attr_be32(1, *register).attr_be32(2, *base).attr_be32(3, *offset).attr_be32(4, *length);
            }
            Self::Compare { register, negate, value } => {
                data.attr_be32(1, *register).attr_be32(2, u32::from(*negate));
                nft_data(data, 3, value);
            }
            Self::Mask { register, mask } => {
                data.attr_be32(1, *register).attr_be32(2, *register).attr_be32(3, mask.len() as u32);
                nft_data(data, 4, mask);
                nft_data(data, 5, &vec![0; mask.len()]);
            }
            Self::Immediate { register, value } => {
                data.attr_be32(1, *register);
                nft_data(data, 2, value);
            }
            Self::Verdict(verdict) => {
                data.attr_be32(1, 0);
                data.nest(2, |inner| verdict.encode(inner));
            }
            Self::Lookup { set, register, into } => {
                data.attr_str(1, set).attr_be32(2, *register);
                if let Some(into) = into {
                    data.attr_be32(3, *into);
                }
            }
            Self::DestinationKind { register } => {
                data.attr_be32(1, *register).attr_be32(2, FIB_ADDRESS_TYPE).attr_be32(3, FIB_OF_DESTINATION);
            }
            Self::Random { below, register } => {
                data.attr_be32(1, *register).attr_be32(2, *below).attr_be32(3, 1);
            }
            Self::Zone { register } => {
                data.attr_be32(2, NFT_CT_ZONE).attr_be32(4, *register);
            }
            Self::Redirect { port_register } => {
                data.attr_be32(1, *port_register);
            }
            Self::DestinationNat { family, address_register, port_register } => {
                data.attr_be32(1, 1).attr_be32(2, u32::from(*family));
                data.attr_be32(3, *address_register).attr_be32(5, *port_register);
            }
            Self::Masquerade => {}
            Self::Reject { tcp: true } => {
                data.attr_be32(1, 1);
            }
            Self::Reject { tcp: false } => {
                data.attr_be32(1, 2).attr(2, &[1]);
            }
        }
    }
}
