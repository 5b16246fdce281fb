//! The addresses of names: of endpoints of ServiceEntries that are outside of Kubernetes.
//!
//! A name is resolved while a service in use has it, or it is the host of requests to a wildcard of `DYNAMIC_DNS`, and again when its
//! answer expires. Addresses stay while it cannot be resolved: a
//! name server that is away takes nothing from what works.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::snapshot::MeshSnapshot;
use super::store::Published;

/// Addresses by name. A name without any could not be resolved.
pub type ResolvedNames = HashMap<Arc<str>, Arc<[IpAddr]>>;

/// An answer: the addresses, and how long they hold.
pub type Answered = io::Result<(Vec<IpAddr>, Duration)>;

/// The number of names that are resolved.
const MAX_NAMES: usize = 1024;
/// The number of addresses of one name.
const MAX_ADDRESSES: usize = 64;
/// The number of lookups at a time.
const MAX_LOOKUPS: usize = 16;
/// The shortest and the longest time until a name is resolved again, whatever its answer says.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// The longest time between attempts for a name that cannot be resolved; the first is the shortest interval, and each is twice
/// the one before.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A name that is resolved.
#[derive(Debug)]
struct Watched {
    addresses: Arc<[IpAddr]>,
    due: Instant,
    failures: u32,
    running: bool,
}

/// Resolves the names of the services in use, and publishes their addresses, while the proxy runs. `lookup` resolves a name.
/// Addresses of the family of `own` are used if a name has any.
pub async fn resolve<F: Future<Output = Answered>>(
    published: Arc<Published>,
    own: IpAddr,
    lookup: impl Fn(Arc<str>) -> F,
) {
    let mut watched: BTreeMap<Arc<str>, Watched> = BTreeMap::new();
    let mut running = FuturesUnordered::new();
    loop {
        let changed = published.changed();
        let names = names(&published.newest());
        let mut names: BTreeSet<Arc<str>> = names.into_iter().take(MAX_NAMES).collect();
        names.extend(published.dynamic.in_use());
        let before = watched.len();
        watched.retain(|name, _| names.contains(name));
        if watched.len() != before {
            publish(&published, &watched);
        }
        let now = Instant::now();
        for name in names {
            watched.entry(name).or_insert(Watched { addresses: Arc::default(), due: now, failures: 0, running: false });
        }
        for (name, of) in &mut watched {
            if running.len() < MAX_LOOKUPS && !of.running && of.due <= now {
                of.running = true;
                let (asked, name) = (lookup(name.clone()), name.clone());
                running.push(async move { (name, asked.await) });
            }
        }
        let free = running.len() < MAX_LOOKUPS;
        let next = watched.values().filter(|of| !of.running && free).map(|of| of.due).min();
        let due = async {
            match next {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            () = published.dynamic.added() => {}
            () = due => {}
            Some((name, answer)) = running.next() => {
                if let Some(of) = watched.get_mut(&name) && of.apply(&name, answer, own) {
                    publish(&published, &watched);
                }
            }
        }
    }
}

/// Returns the names of the endpoints of all services.
fn names(snapshot: &MeshSnapshot) -> BTreeSet<Arc<str>> {
    snapshot.services.values().flat_map(|service| service.names()).cloned().collect()
}

fn publish(published: &Published, watched: &BTreeMap<Arc<str>, Watched>) {
    // Names that wait for their first answer are unknown.
    let answered = watched.iter().filter(|(_, of)| !of.addresses.is_empty() || of.failures > 0);
    published.set_resolved(answered.map(|(name, of)| (name.clone(), of.addresses.clone())).collect());
}

impl Watched {
    /// Applies an answer. Returns whether what is published changes.
    fn apply(&mut self, name: &str, answer: Answered, own: IpAddr) -> bool {
        self.running = false;
        let reason = match answer {
            Ok((addresses, holds)) => {
                let usable = usable(&addresses, own);
                if !usable.is_empty() {
                    self.failures = 0;
                    self.due = Instant::now() + holds.clamp(INTERVALS.0, INTERVALS.1);
                    let changed = *self.addresses != *usable;
                    if changed {
                        self.addresses = usable.into();
                    }
                    return changed;
                }
                format!("its addresses are not used: {addresses:?}")
            }
            Err(error) => error.to_string(),
        };
        let first = self.failures == 0;
        let pause = INTERVALS.0 * 2_u32.saturating_pow(self.failures.min(8));
        (self.failures, self.due) = (self.failures.saturating_add(1), Instant::now() + pause.min(LONGEST_PAUSE));
        if first {
            let kept = self.addresses.len();
            tracing::warn!(name, reason, kept, "a host of a ServiceEntry cannot be resolved; its last addresses stay");
        }
        first && self.addresses.is_empty()
    }
}

/// Returns the addresses that are used, in order: of the own family, if there are any. A name outside of the mesh must not lead to
/// this pod or its node.
fn usable(addresses: &[IpAddr], own: IpAddr) -> Vec<IpAddr> {
    let outside = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => {
            !(ip.is_loopback() || ip.is_unspecified() || ip.is_link_local() || ip.is_multicast() || ip.is_broadcast())
        }
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unspecified() || ip.is_unicast_link_local() || ip.is_multicast()),
    };
    let mut all: Vec<IpAddr> = addresses.iter().map(IpAddr::to_canonical).filter(outside).collect();
    if all.iter().any(|ip| ip.is_ipv4() == own.is_ipv4()) {
        all.retain(|ip| ip.is_ipv4() == own.is_ipv4());
    }
    all.sort_unstable();
    all.dedup();
    all.truncate(MAX_ADDRESSES);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_of_this_pod_and_its_node_are_not_used() {
        let own: IpAddr = "10.0.0.1".parse().unwrap();
        let bad =
            ips(&["127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "::1", "fe80::1", "::ffff:127.0.0.1", "::"]);
        assert_eq!(usable(&bad, own), ips(&[]));
        let mixed = ips(&["2001:db8::1", "192.0.2.2", "192.0.2.1", "192.0.2.1", "127.0.0.1"]);
        assert_eq!(usable(&mixed, own), ips(&["192.0.2.1", "192.0.2.2"]));
        assert_eq!(usable(&mixed, "fd00::1".parse().unwrap()), ips(&["2001:db8::1"]));
        assert_eq!(usable(&ips(&["2001:db8::1"]), own), ips(&["2001:db8::1"]));
    }

    #[test]
    fn addresses_stay_while_a_name_cannot_be_resolved() {
        let own: IpAddr = "10.0.0.1".parse().unwrap();
        let mut name = Watched { addresses: Arc::default(), due: Instant::now(), failures: 0, running: true };
        let failed = || Err(io::ErrorKind::TimedOut.into());
        assert!(name.apply("a", failed(), own), "it is known to have none");
        assert!(!name.apply("a", failed(), own));
        let answer = |texts: &[&str]| Ok((ips(texts), Duration::from_secs(10)));
        assert!(name.apply("a", answer(&["192.0.2.1"]), own));
        assert!(!name.apply("a", answer(&["192.0.2.1"]), own));
        assert!(!name.apply("a", failed(), own) && !name.apply("a", answer(&["127.0.0.1"]), own));
        assert_eq!(*name.addresses, *ips(&["192.0.2.1"]));
        assert!(name.apply("a", answer(&["192.0.2.2"]), own));
        assert_eq!((name.failures, &*name.addresses), (0, &*ips(&["192.0.2.2"])));
    }
}
