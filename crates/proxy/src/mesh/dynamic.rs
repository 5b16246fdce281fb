//! The hosts of requests and connections to wildcards that are resolved (`DYNAMIC_DNS`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The number of hosts that are resolved at a time. The application may send requests to as many as it likes.
pub(super) const MAX_HOSTS: usize = 256;
/// How long a host is resolved after it was used last.
const KEPT: Duration = Duration::from_secs(300);
/// How long a host is resolved at least, even if others are to take its place.
const KEPT_AT_LEAST: Duration = Duration::from_secs(10);

/// The hosts, each with the time of its last use.
#[derive(Debug, Default)]
pub(super) struct DynamicHosts {
    used: Mutex<HashMap<Arc<str>, Instant>>,
    added: Notify,
}

impl DynamicHosts {
    /// Notes the use of a host. Returns whether it is resolved: it is not if too many others are in use.
    pub(super) fn mark(&self, host: &Arc<str>) -> bool {
        let now = Instant::now();
        let mut used = self.lock();
        if let Some(last) = used.get_mut(host) {
            *last = now;
            return true;
        }
        if used.len() >= MAX_HOSTS {
            let oldest = used.iter().min_by_key(|(_, last)| **last).map(|(host, last)| (host.clone(), *last));
            match oldest {
                Some((oldest, last)) if last + KEPT_AT_LEAST <= now => drop(used.remove(&oldest)),
                _ => return false,
            }
        }
        used.insert(host.clone(), now);
        drop(used);
        self.added.notify_one();
        true
    }

    /// Returns the hosts in use.
    pub(super) fn in_use(&self) -> Vec<Arc<str>> {
        let now = Instant::now();
        let mut used = self.lock();
        used.retain(|_, last| now < *last + KEPT);
        used.keys().cloned().collect()
    }

    /// Waits until a host was added.
    pub(super) async fn added(&self) {
        self.added.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Instant>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_number_of_hosts_is_bounded() {
        let hosts = DynamicHosts::default();
        let host = |number: usize| Arc::<str>::from(format!("{number}.example.com"));
        assert!((0..MAX_HOSTS).all(|number| hosts.mark(&host(number))));
        assert!(!hosts.mark(&host(MAX_HOSTS)), "all of them have just been used");
        tokio::time::advance(KEPT_AT_LEAST).await;
        assert!(hosts.mark(&host(1)) && hosts.mark(&host(MAX_HOSTS)));
        assert_eq!(hosts.in_use().len(), MAX_HOSTS);
        assert!(hosts.in_use().contains(&host(1)), "used since");
        tokio::time::advance(KEPT).await;
        assert!(hosts.in_use().is_empty());
    }
}
