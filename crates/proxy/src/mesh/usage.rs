//! What is no longer used is given up again, so that a proxy's memory follows what its pod talks to and not what it once did.
//!
//! A service counts as used when a connection or request goes to it, for as long as a connection to it is open, and when
//! its name is asked for. Workers say so when they look over their connections, not for each request.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wire::{Kind, name};

use super::{Place, Shared, Snapshot};

/// How long a service may be unused. Longer than clients keep a DNS answer or wait between two runs of what is periodic,
/// as coming back costs one question to the controller.
pub(super) const UNUSED: Duration = Duration::from_secs(300);
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(30);

/// When each service was last used.
#[derive(Debug, Default)]
pub(super) struct Usage {
    last: HashMap<Arc<str>, Instant>,
}

impl Usage {
    /// A service is used now.
    pub(super) fn used(&mut self, hostname: &Arc<str>, now: Instant) {
        self.last.insert(hostname.clone(), now);
    }

    /// The services among those known that were not used for `long`. One that is new here counts as used now.
    fn unused<'a>(
        &mut self,
        known: impl Iterator<Item = &'a Arc<str>>,
        long: Duration,
        now: Instant,
    ) -> HashSet<Arc<str>> {
        let last: HashMap<Arc<str>, Instant> =
            known.map(|hostname| (hostname.clone(), self.last.get(hostname).copied().unwrap_or(now))).collect();
        self.last = last;
        let old = self.last.iter().filter(|(_, last)| now.duration_since(**last) >= long);
        old.map(|(hostname, _)| hostname.clone()).collect()
    }
}

/// The subscriptions that only these services are behind.
fn names_of(services: &HashSet<Arc<str>>, snapshot: &Snapshot, place: &Place) -> Vec<(Kind, Box<str>)> {
    let mut names = Vec::new();
    for service in services.iter().filter_map(|hostname| snapshot.services.get(hostname)) {
        names.push((Kind::Service, Box::from(&*service.hostname)));
        names.push((Kind::Endpoint, name::endpoints(&service.hostname, &place.network).into()));
        let addresses = service.addresses.iter().map(|ip| (Kind::Service, name::address(&place.cluster, *ip).into()));
        names.extend(addresses);
    }
    let pods = snapshot.pods.iter().filter(|(_, of)| of.iter().all(|service| services.contains(&service.hostname)));
    names.extend(pods.map(|(ip, _)| (Kind::Service, name::address(&place.cluster, *ip).into())));
    names
}

/// Gives up what is not used, by `unsubscribe`, for as long as the proxy lives.
pub async fn give_up(shared: Arc<Shared>, place: Place, mut unsubscribe: impl FnMut(Kind, Box<str>)) {
    loop {
        tokio::time::sleep(LOOK).await;
        let snapshot = shared.newest();
        let now = tokio::time::Instant::now().into_std();
        let unused = shared.usage().unused(snapshot.services.keys(), UNUSED, now);
        if unused.is_empty() {
            continue;
        }
        tracing::debug!(services = unused.len(), "no longer used");
        for (kind, name) in names_of(&unused, &snapshot, &place) {
            unsubscribe(kind, name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut usage = Usage::default();
        let unused = |usage: &mut Usage, known: &[&Arc<str>], now| {
            let mut unused: Vec<_> = usage.unused(known.iter().copied(), UNUSED, now).into_iter().collect();
            unused.sort();
            unused
        };
        // What is seen for the first time has its time before it.
        assert!(unused(&mut usage, &[&a, &b], at(1000)).is_empty());
        assert!(unused(&mut usage, &[&a, &b], at(1299)).is_empty());
        usage.used(&a, at(1200));
        assert_eq!(unused(&mut usage, &[&a, &b], at(1300)), std::slice::from_ref(&b));
        // It is given up, and comes back as something new.
        assert!(unused(&mut usage, &[&a], at(1330)).is_empty());
        assert!(unused(&mut usage, &[&a, &b], at(1400)).is_empty());
        assert_eq!(unused(&mut usage, &[&a, &b], at(1500)), std::slice::from_ref(&a));
        assert_eq!(unused(&mut usage, &[&a, &b], at(1700)), [a, b]);
        assert!(unused(&mut usage, &[], at(2000)).is_empty());
        assert!(usage.last.is_empty(), "nothing is kept of what is not known");
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_all_names_of_what_is_not_used() {
        let place =
            Place { cluster: "west".into(), network: "net-west".into(), namespace: "default".into(), pod: "p".into() };
        let mut store = super::super::Store::new(place.clone(), |_| {});
        let shared = store.shared();
        let told = |name: &str, last: u8| {
            let body = wire::delta::Body::Service(wire::discovery::Service {
                hostname: name.into(),
                addresses: vec![wire::discovery::VirtualAddress {
                    cluster: "west".into(),
                    ip: vec![10, 96, 0, last].into(),
                }],
                ..Default::default()
            });
            // Both have been asked for by the address of a pod that serves both.
            let aliases = vec!["@west/10.244.0.9".to_owned(), format!("@west/10.244.0.{last}")];
            wire::delta::Changed { name: name.into(), aliases, body }
        };
        let changed = vec![told("a", 1), told("b", 2)];
        let update = wire::delta::Update { kind: Kind::Service, changed, removed: vec![] };
        wire::client::Store::apply(&mut store, update).unwrap();
        let (send, mut given_up) = tokio::sync::mpsc::unbounded_channel();
        let giving_up = tokio::spawn(give_up(shared.clone(), place, move |kind, name| {
            send.send((kind, name)).unwrap();
        }));

        let mut names = Vec::new();
        let used: Arc<str> = "a".into();
        // Used every ten seconds, as a worker says it.
        for _ in 0..40 {
            tokio::time::sleep(Duration::from_secs(10)).await;
            shared.used([&used]);
            while let Ok((kind, name)) = given_up.try_recv() {
                names.push(format!("{kind} {name}"));
            }
        }
        names.sort();
        names.dedup();
        let endpoint = format!("{} b@net-west", Kind::Endpoint);
        let service = |name: &str| format!("{} {name}", Kind::Service);
        let mut expected = vec![endpoint, service("b"), service("@west/10.244.0.2"), service("@west/10.96.0.2")];
        expected.sort();
        assert_eq!(names, expected, "and not the address that leads to a, too");

        let gone = wire::delta::Update { kind: Kind::Service, changed: vec![], removed: vec!["b".into()] };
        wire::client::Store::apply(&mut store, gone).unwrap();
        let snapshot = shared.newest();
        assert!(
            !snapshot.services.contains_key("b") && snapshot.pods.values().flatten().all(|of| &*of.hostname == "a")
        );
        giving_up.abort();
    }
}
