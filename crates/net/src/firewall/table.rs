//! nftables tables, replaced in one transaction.
//!
//! A batch adds, deletes and adds the table again, and then adds its contents. So it works whether or not the table
//! exists, and packets see either the old or the new table.

use std::io;

use rustix::net::netlink::NETFILTER;

use super::expression::Verdict;
use super::rule::NftRule;
use crate::netlink::{NLM_F_APPEND, NLM_F_CREATE, NetlinkMessage, NetlinkSocket};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_INET: u8 = 1;

const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_NEWSETELEM: u16 = 12;

const NFT_SET_MAP: u32 = 0x8;
/// The data type that marks a verdict map.
const NFT_DATA_VERDICT: u32 = 0xffff_ff00;
/// The maximum number of set elements per message: an attribute has at most 64 KiB, an element less than 150 bytes.
const ELEMENTS_PER_MESSAGE: usize = 256;

/// The hook of a base chain.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hook {
    Prerouting = 0,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// The type of a base chain.
#[derive(Debug, Clone, Copy)]
pub(super) enum ChainType {
    Nat,
    Filter,
}

/// The priority before connection tracking (`NF_IP_PRI_RAW`).
pub(super) const BEFORE_TRACKING: i32 = -300;
/// The priority of destination NAT (`NF_IP_PRI_NAT_DST`).
pub(super) const DESTINATION_NAT: i32 = -100;
/// The priority of source NAT (`NF_IP_PRI_NAT_SRC`).
pub(super) const SOURCE_NAT: i32 = 100;

/// The value of an element in a set or map.
#[derive(Debug, Clone)]
pub(super) enum ElementValue {
    None,
    Bytes(Vec<u8>),
    Verdict(Verdict),
}

/// A table of family `inet` under construction.
pub(super) struct NftTable {
    name: String,
    messages: Vec<NetlinkMessage>,
    sets: u32,
}

impl NftTable {
    /// Starts the replacement of a table.
    pub(super) fn replace(name: &str) -> Self {
        let mut table = Self { name: name.to_owned(), messages: Vec::new(), sets: 0 };
        for kind in [NFT_MSG_NEWTABLE, NFT_MSG_DELTABLE, NFT_MSG_NEWTABLE] {
            let flags = if kind == NFT_MSG_NEWTABLE { NLM_F_CREATE } else { 0 };
            let mut message = nft_message(kind, flags);
            message.attr_str(1, name);
            table.messages.push(message);
        }
        table
    }

    /// Starts the removal of a table, which need not exist.
    pub(super) fn remove(name: &str) -> Self {
        let mut table = Self::replace(name);
        table.messages.pop();
        table
    }

    /// Adds a base chain.
    pub(super) fn base_chain(&mut self, name: &str, chain_type: ChainType, hook: Hook, priority: i32) {
        let mut message = nft_message(NFT_MSG_NEWCHAIN, NLM_F_CREATE);
        message.attr_str(1, &self.name).attr_str(3, name);
        message.nest(4, |inner| {
            inner.attr_be32(1, hook as u32).attr_be32(2, priority as u32);
        });
        message.attr_str(
            7,
            match chain_type {
                ChainType::Nat => "nat",
                ChainType::Filter => "filter",
            },
        );
        self.messages.push(message);
    }

    /// Adds a chain that rules of other chains go to.
    pub(super) fn chain(&mut self, name: &str) {
        let mut message = nft_message(NFT_MSG_NEWCHAIN, NLM_F_CREATE);
        message.attr_str(1, &self.name).attr_str(3, name);
        self.messages.push(message);
    }

    /// Appends a rule to a chain.
    pub(super) fn rule(&mut self, chain: &str, rule: &NftRule) {
        let mut message = nft_message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
        message.attr_str(1, &self.name).attr_str(2, chain);
        message.nest(4, |list| rule.iter().for_each(|expression| expression.encode(list)));
        self.messages.push(message);
    }

    /// Adds a set, or a map if its elements have values, with its elements. The first element determines the type of
    /// the values.
    pub(super) fn set(&mut self, name: &str, key_length: usize, elements: &[(Vec<u8>, ElementValue)]) {
        self.sets += 1;
        let mut message = nft_message(NFT_MSG_NEWSET, NLM_F_CREATE);
        message.attr_str(1, &self.name).attr_str(2, name);
        let value = elements.first().map_or(&ElementValue::None, |(_, value)| value);
        message.attr_be32(3, if matches!(value, ElementValue::None) { 0 } else { NFT_SET_MAP });
        message.attr_be32(4, 0).attr_be32(5, key_length as u32);
        match value {
            ElementValue::None => {}
            ElementValue::Bytes(bytes) => {
                message.attr_be32(6, 0).attr_be32(7, bytes.len() as u32);
            }
            ElementValue::Verdict(_) => {
                message.attr_be32(6, NFT_DATA_VERDICT).attr_be32(7, 0);
            }
        }
        message.attr_be32(10, self.sets);
        self.messages.push(message);
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.elements(name, chunk);
        }
    }

    fn elements(&mut self, set: &str, elements: &[(Vec<u8>, ElementValue)]) {
        let mut message = nft_message(NFT_MSG_NEWSETELEM, NLM_F_CREATE);
        message.attr_str(1, &self.name).attr_str(2, set).attr_be32(4, self.sets);
        message.nest(3, |list| {
            for (key, value) in elements {
                list.nest(1, |element| {
                    nft_data(element, 1, key);
                    match value {
                        ElementValue::None => {}
                        ElementValue::Bytes(bytes) => nft_data(element, 2, bytes),
                        ElementValue::Verdict(verdict) => {
                            element.nest(2, |data| verdict.encode(data));
                        }
                    }
                });
            }
        });
        self.messages.push(message);
    }

    /// Sends the transaction to the network namespace of the calling thread.
    pub(super) fn commit(self) -> io::Result<()> {
        let mut socket = NetlinkSocket::open(Some(NETFILTER))?;
        let mut messages = Vec::with_capacity(self.messages.len() + 2);
        messages.push(batch_message(NFNL_MSG_BATCH_BEGIN));
        messages.extend(self.messages);
        let last = messages.len() - 1;
        messages.push(batch_message(NFNL_MSG_BATCH_END));
        socket.batch(messages, last)
    }
}

/// Appends a value as a nested attribute (`NFTA_DATA_VALUE`).
pub(super) fn nft_data(message: &mut NetlinkMessage, kind: u16, value: &[u8]) {
    message.nest(kind, |data| {
        data.attr(1, value);
    });
}

fn nft_message(kind: u16, flags: u16) -> NetlinkMessage {
    NetlinkMessage::new(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, &[NFPROTO_INET, 0, 0, 0])
}

fn batch_message(kind: u16) -> NetlinkMessage {
    let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    NetlinkMessage::new(kind, 0, &[NFPROTO_UNSPEC, 0, high, low])
}
