//! What a FederationPolicy has proxies enforce: who may call a port of the application, and from where the gateways of a cluster
//! accept connections to an export.

use std::net::IpAddr;
use std::sync::Arc;

use identity::Peer;

/// The clusters whose workloads may call a port of the application.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Callers {
    /// Their names.
    pub clusters: Box<[Arc<str>]>,
    /// Whether plaintext, which proves no cluster, is accepted as well.
    pub plaintext: bool,
}

impl Callers {
    /// Returns whether a caller may call; `None`: in plaintext, or with TLS of the application's own. The cluster of a caller is
    /// the one whose intermediate issued its certificate. One whose cluster is not known may not call.
    pub fn include(&self, caller: Option<&Peer>) -> bool {
        match caller {
            None => self.plaintext,
            Some(peer) => peer.cluster.as_ref().is_some_and(|cluster| self.clusters.contains(cluster)),
        }
    }
}

/// From where gateways accept connections to an export.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceAddresses {
    /// The ranges of addresses, the smallest first, of one size first those that are permitted.
    ranges: Box<[(AddressRange, Verdict)]>,
    /// What becomes of an address in none of them.
    otherwise: Verdict,
}

/// Whether connections from an address are accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    #[default]
    Permitted,
    Refused,
}

/// Addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    /// The first address.
    pub ip: IpAddr,
    /// The number of bits.
    pub length: u8,
}

impl AddressRange {
    /// Returns whether an address is in the range.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let same = |one: u128, other: u128, bits: u32| {
            let rest = bits.saturating_sub(self.length.into());
            rest >= bits || one >> rest == other >> rest
        };
        match (self.ip, ip) {
            (IpAddr::V4(one), IpAddr::V4(other)) => same(u32::from(one).into(), u32::from(other).into(), 32),
            (IpAddr::V6(one), IpAddr::V6(other)) => same(one.into(), other.into(), 128),
            _ => false,
        }
    }
}

impl SourceAddresses {
    /// Creates the rules of permitted and refused ranges. `permitted_only`: other addresses are refused.
    pub fn new(permitted: Vec<AddressRange>, refused: Vec<AddressRange>, permitted_only: bool) -> Self {
        let permitted = permitted.into_iter().map(|range| (range, Verdict::Permitted));
        let mut ranges: Vec<_> = permitted.chain(refused.into_iter().map(|range| (range, Verdict::Refused))).collect();
        ranges.sort_by_key(|(range, verdict)| (std::cmp::Reverse(range.length), *verdict));
        let otherwise = if permitted_only { Verdict::Refused } else { Verdict::Permitted };
        SourceAddresses { ranges: ranges.into(), otherwise }
    }

    /// Returns whether connections from an address are accepted: the smallest range that it is in decides.
    pub fn permit(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let found = self.ranges.iter().find(|(range, _)| range.contains(ip));
        found.map_or(self.otherwise, |(_, verdict)| *verdict) == Verdict::Permitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_s_cluster_is_proven_or_refused() {
        let callers = |plaintext| Callers { clusters: ["east".into(), "central".into()].into(), plaintext };
        let id: identity::SpiffeId = "spiffe://cluster.local/ns/default/sa/frontend".parse().unwrap();
        let peer = |cluster: Option<&str>| Peer { id: id.clone(), cluster: cluster.map(Arc::from) };
        for (caller, expected) in [
            (Some(peer(Some("east"))), true),
            (Some(peer(Some("central"))), true),
            (Some(peer(Some("west"))), false),
            (Some(peer(Some("eas"))), false),
            (Some(peer(None)), false),
            (None, false),
        ] {
            assert_eq!(callers(false).include(caller.as_ref()), expected, "{caller:?}");
        }
        assert!(callers(true).include(None) && !callers(true).include(Some(&peer(None))));
        assert!(!Callers::default().include(Some(&peer(Some("east")))));
    }

    #[test]
    fn the_smallest_range_decides_about_an_address() {
        let range = |ip: &str, length| AddressRange { ip: ip.parse().unwrap(), length };
        let sources = |only| {
            SourceAddresses::new(
                vec![range("198.51.100.0", 24), range("2001:db8::", 32)],
                vec![range("198.51.0.0", 16), range("198.51.100.7", 32), range("203.0.113.1", 32)],
                only,
            )
        };
        for (ip, expected, only) in [
            ("198.51.100.1", true, true),
            ("::ffff:198.51.100.1", true, true),
            ("198.51.100.7", false, false),
            ("198.51.7.7", false, false),
            ("203.0.113.1", false, false),
            ("203.0.113.2", true, false),
            ("2001:db8::7", true, true),
            ("2001:db9::7", true, false),
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!((sources(false).permit(ip), sources(true).permit(ip)), (expected, only), "{ip}");
        }
        let tie = SourceAddresses::new(vec![range("10.0.0.0", 8)], vec![range("10.0.0.0", 8)], true);
        assert!(tie.permit("10.1.1.1".parse().unwrap()), "clusters behind one address");
        assert!(SourceAddresses::new(vec![range("0.0.0.0", 0)], Vec::new(), true).permit("8.8.8.8".parse().unwrap()));
    }
}
