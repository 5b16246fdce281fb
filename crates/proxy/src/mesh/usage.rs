//! Unused services: the proxy unsubscribes from services that its pod no longer uses, so that its memory follows what the pod
//! talks to.
//!
//! A service is used while a connection or request goes to it, while a connection to it is open, and when its name is
//! resolved. Workers mark used services when they sweep their connections, not for each request.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wire::{Kind, name};

use super::{MeshSnapshot, ProxyLocation, Published};

/// How long a service stays subscribed to without use: longer than clients cache a DNS answer or wait between periodic
/// requests. Using the service again costs one request to the controller.
pub(super) const UNUSED: Duration = Duration::from_secs(300);
/// How often unused services are looked for.
const INTERVAL: Duration = Duration::from_secs(30);

/// The time of each service's last use.
#[derive(Debug, Default)]
pub(super) struct Usage {
    last: HashMap<Arc<str>, Instant>,
}

impl Usage {
    /// Marks a service as used at `now`.
    pub(super) fn mark(&mut self, hostname: &Arc<str>, now: Instant) {
        self.last.insert(hostname.clone(), now);
    }

    /// Returns the services among `known` that have not been used for `long`. A service that is new counts as used now.
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

/// Returns the names of the subscriptions that only these services need.
fn subscriptions_of(
    services: &HashSet<Arc<str>>,
    snapshot: &MeshSnapshot,
    location: &ProxyLocation,
) -> Vec<(Kind, Box<str>)> {
    let mut names = Vec::new();
    for service in services.iter().filter_map(|hostname| snapshot.services.get(hostname)) {
        names.push((Kind::Service, Box::from(&*service.hostname)));
        names.push((Kind::Endpoint, name::endpoints(&service.hostname, &location.network).into()));
        names.push((Kind::DestinationPolicy, Box::from(&*service.hostname)));
        names.push((Kind::RouteTable, Box::from(&*service.hostname)));
        let addresses =
            service.addresses.iter().map(|ip| (Kind::Service, name::address(&location.cluster, *ip).into()));
        names.extend(addresses);
    }
    let pods = snapshot.pods.iter().filter(|(_, of)| of.iter().all(|service| services.contains(&service.hostname)));
    names.extend(pods.map(|(ip, _)| (Kind::Service, name::address(&location.cluster, *ip).into())));
    names
}

/// Calls `unsubscribe` for the subscriptions of unused services, while the proxy runs.
pub async fn release_unused(
    published: Arc<Published>,
    location: ProxyLocation,
    mut unsubscribe: impl FnMut(Kind, Box<str>),
) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let snapshot = published.newest();
        let now = tokio::time::Instant::now().into_std();
        // The server that policies ask.
        let asked = snapshot.authorization.as_ref().and_then(|policies| policies.provider());
        published.mark_used(asked.map(|provider| &provider.hostname));
        let listed = snapshot.scope.iter().flat_map(|scope| scope.prefetched());
        published.mark_used(listed.filter_map(|host| snapshot.services.get(host)).map(|service| &service.hostname));
        let unused = published.usage().unused(snapshot.services.keys(), UNUSED, now);
        if unused.is_empty() {
            continue;
        }
        tracing::debug!(services = unused.len(), "unsubscribing from unused services");
        for (kind, name) in subscriptions_of(&unused, &snapshot, &location) {
            unsubscribe(kind, name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_services_that_are_not_used_are_unused() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut usage = Usage::default();
        let unused = |usage: &mut Usage, known: &[&Arc<str>], now| {
            let mut unused: Vec<_> = usage.unused(known.iter().copied(), UNUSED, now).into_iter().collect();
            unused.sort();
            unused
        };
        // A new service counts as used.
        assert!(unused(&mut usage, &[&a, &b], at(1000)).is_empty());
        assert!(unused(&mut usage, &[&a, &b], at(1299)).is_empty());
        usage.mark(&a, at(1200));
        assert_eq!(unused(&mut usage, &[&a, &b], at(1300)), std::slice::from_ref(&b));
        // A released service that returns is new.
        assert!(unused(&mut usage, &[&a], at(1330)).is_empty());
        assert!(unused(&mut usage, &[&a, &b], at(1400)).is_empty());
        assert_eq!(unused(&mut usage, &[&a, &b], at(1500)), std::slice::from_ref(&a));
        assert_eq!(unused(&mut usage, &[&a, &b], at(1700)), [a, b]);
        assert!(unused(&mut usage, &[], at(2000)).is_empty());
        assert!(usage.last.is_empty(), "unknown services are forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn releases_all_subscriptions_of_an_unused_service() {
        let location = ProxyLocation {
            cluster: "west".into(),
            network: "net-west".into(),
            namespace: "default".into(),
            pod: "p".into(),
            ip: [10, 244, 0, 1].into(),
        };
        let mut store = super::super::MeshStore::new(location.clone(), |_| {});
        let published = store.published();
        let service = |name: &str, last: u8| {
            let body = wire::delta::Body::Service(wire::discovery::Service {
                hostname: name.into(),
                addresses: vec![wire::discovery::VirtualAddress {
                    cluster: "west".into(),
                    ip: vec![10, 96, 0, last].into(),
                }],
                ..Default::default()
            });
            // Both services were looked up by the address of a pod that serves both.
            let aliases = vec!["@west/10.244.0.9".to_owned(), format!("@west/10.244.0.{last}")];
            wire::delta::Changed { name: name.into(), aliases, body }
        };
        let changed = vec![service("a", 1), service("b", 2)];
        let update = wire::delta::Update { kind: Kind::Service, changed, removed: vec![] };
        wire::client::Store::apply(&mut store, update).unwrap();
        let (send, mut released) = tokio::sync::mpsc::unbounded_channel();
        let releasing = tokio::spawn(release_unused(published.clone(), location, move |kind, name| {
            send.send((kind, name)).unwrap();
        }));

        let mut names = Vec::new();
        let used: Arc<str> = "a".into();
        // A worker marks the service as used every ten seconds.
        for _ in 0..40 {
            tokio::time::sleep(Duration::from_secs(10)).await;
            published.mark_used([&used]);
            while let Ok((kind, name)) = released.try_recv() {
                names.push(format!("{kind} {name}"));
            }
        }
        names.sort();
        names.dedup();
        let endpoint = format!("{} b@net-west", Kind::Endpoint);
        let named = |name: &str| format!("{} {name}", Kind::Service);
        let mut expected = vec![
            endpoint,
            format!("{} b", Kind::RouteTable),
            format!("{} b", Kind::DestinationPolicy),
            named("b"),
            named("@west/10.244.0.2"),
            named("@west/10.96.0.2"),
        ];
        expected.sort();
        assert_eq!(names, expected, "the address that `a` has as well stays subscribed");

        let removal = wire::delta::Update { kind: Kind::Service, changed: vec![], removed: vec!["b".into()] };
        wire::client::Store::apply(&mut store, removal).unwrap();
        let snapshot = published.newest();
        assert!(
            !snapshot.services.contains_key("b")
                && snapshot.pods.values().flat_map(|services| services.iter()).all(|of| &*of.hostname == "a")
        );
        releasing.abort();
    }
}
