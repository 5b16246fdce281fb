//! Addresses of exported services: the clusterset addresses of those with a ServiceExport (KEP-1645), and the addresses of
//! others in clusters that have none for them, from 240.240.0.0/16, and in clusters that use IPv6 also from
//! 2001:2::f0f0:0/112.
//!
//! The address is a hash of the hostname, so it survives restarts and is the same at every primary. If two hostnames have
//! the same hash, the later one gets the next free address. 240.0.0.0/4 is reserved (RFC 1112, section 4), so no network
//! uses it; 2001:2::/48 is for benchmarks (RFC 5180). Istio allocates from the same ranges.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// The number of addresses: all of the range but the first and the last.
const USABLE: u32 = 65_534;

/// The allocated addresses.
#[derive(Debug, Default)]
pub struct Addresses {
    by_host: HashMap<Arc<str>, u16>,
    by_number: HashMap<u16, Arc<str>>,
}

impl Addresses {
    /// Returns the hostname's address, allocated until [`Addresses::release`], or `None` if all are allocated.
    pub fn of(&mut self, hostname: &Arc<str>) -> Option<Ipv4Addr> {
        if let Some(number) = self.by_host.get(hostname) {
            return Some(address(*number));
        }
        if self.by_number.len() as u32 >= USABLE {
            return None;
        }
        let hash = foldhash::quality::FixedState::with_seed(0x15_74).hash_one(hostname.as_bytes());
        let start = (hash % u64::from(USABLE)) as u32;
        let free =
            (0..USABLE).map(|step| ((start + step) % USABLE + 1) as u16).find(|n| !self.by_number.contains_key(n))?;
        self.by_host.insert(hostname.clone(), free);
        self.by_number.insert(free, hostname.clone());
        Some(address(free))
    }

    /// Releases the hostname's address.
    pub fn release(&mut self, hostname: &str) {
        if let Some(number) = self.by_host.remove(hostname) {
            self.by_number.remove(&number);
        }
    }
}

/// Returns the IPv6 address that belongs to an allocated address.
pub(crate) fn ipv6(allocated: Ipv4Addr) -> IpAddr {
    let [_, _, high, low] = allocated.octets();
    Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0xf0f0, u16::from_be_bytes([high, low])).into()
}

fn address(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(240, 240, high, low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_from_the_name_and_never_collide() {
        let names: Vec<Arc<str>> = (0..20_000).map(|i| format!("s{i}.default.svc.cluster.local").into()).collect();
        let mut one = Addresses::default();
        let mut taken = std::collections::HashSet::new();
        for name in &names {
            assert!(taken.insert(one.of(name).unwrap()), "{name} got an address that another has");
        }
        assert_eq!(one.of(&names[7]), one.of(&names[7]));
        assert_eq!(ipv6(Ipv4Addr::new(240, 240, 1, 2)).to_string(), "2001:2::f0f0:102");
        // A name alone gets the same address in another process, whatever came before it there.
        let mut other = Addresses::default();
        assert_eq!(other.of(&names[0]), one.of(&names[0]));
        one.release(&names[0]);
        assert_eq!(other.of(&names[0]), one.of(&names[0]));
    }

    #[test]
    fn a_full_range_gives_none() {
        let mut addresses = Addresses::default();
        for i in 0..USABLE {
            assert!(addresses.of(&format!("{i}").into()).is_some());
        }
        assert_eq!(addresses.of(&"one more".into()), None);
        addresses.release("5");
        assert!(addresses.of(&"one more".into()).is_some());
    }
}
