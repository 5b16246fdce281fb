//! Addresses that belong to names of the cluster's domain, as the cluster's own DNS answered.
//!
//! While the controller cannot be reached, they tell a service of the mesh that has not been used before from a destination
//! outside: traffic to the former must not leave in plaintext.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The maximum number of addresses; the oldest are forgotten.
const MAX: usize = 4096;

/// The addresses of the cluster's domain.
#[derive(Debug, Default)]
pub(super) struct DomainAddresses(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    all: HashSet<IpAddr>,
    by_age: VecDeque<IpAddr>,
}

impl DomainAddresses {
    pub(super) fn note(&self, address: IpAddr) {
        let mut known = self.known();
        if known.all.insert(address) {
            known.by_age.push_back(address);
        }
        if known.by_age.len() > MAX
            && let Some(oldest) = known.by_age.pop_front()
        {
            known.all.remove(&oldest);
        }
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.known().all.contains(&address)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn the_newest_addresses_are_known() {
        let domain = DomainAddresses::default();
        let address = |number: u32| IpAddr::V4(Ipv4Addr::from_bits(number));
        (0..=MAX as u32).for_each(|number| domain.note(address(number)));
        domain.note(address(MAX as u32));
        assert!(!domain.contains(address(0)) && domain.contains(address(1)) && domain.contains(address(MAX as u32)));
        assert_eq!(domain.known().all.len(), MAX);
    }
}
