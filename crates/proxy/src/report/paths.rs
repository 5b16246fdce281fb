//! The paths to other clusters in the report to the controller, and the handshakes that prove them.
//!
//! An outcome of real traffic is the best proof, so a handshake is made only if there was no success for an interval: one TLS
//! handshake with a pod through the cluster's gateway, of a service that the proxy holds endpoints of, another one each time.
//! A proxy so makes at most one handshake per interval and cluster, and one per second or so while a path is in doubt.
//! Endpoints of another cluster on the own network are reached directly, and their outcomes alone count.

use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use identity::Identity;
use identity::alpn::{self, Alpn};
use rand::random_range;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};
use wire::discovery::PathReport;

use super::ControllerReport;
use crate::mesh::{
    ClusterPath, ConnectTimeouts, MeshSnapshot, Paths, Protocol, Published, Reach, Service, TrafficPolicy,
};
use crate::upstream::connect::{self, DialOptions};
use crate::upstream::target::targets;
use crate::upstream::{ClusterKey, Target};

/// How often paths are looked at.
const TICK: Duration = Duration::from_millis(500);
/// The time between the handshakes of a path that is in doubt.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest wait for a handshake, unless those before took a third of it: half of what works between continents.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// The number of services among which those with endpoints in other clusters are looked for at one time.
const MAX_SERVICES: usize = 512;

/// How handshakes are made.
#[derive(Debug, Clone)]
pub struct PathProbe {
    /// The identity of the proxy.
    pub identity: Identity,
    /// The firewall mark of the proxy's own connections; `None` without capture.
    pub mark: Option<u32>,
}

/// Reports the paths to other clusters for as long as the proxy runs. Must be called within a [`tokio::task::LocalSet`].
pub async fn report_paths(published: Arc<Published>, probe: PathProbe, report: ControllerReport) {
    // Proxies that start together do not make their handshakes together.
    sleep(published.newest().settings.path_interval.mul_f64(random_range(0.0..1.0))).await;
    let (mut known, mut ticks) = (KnownPaths::default(), interval(TICK));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (snapshot, now) = (published.newest(), Instant::now());
        for (path, target) in known.due(&snapshot, now) {
            let handshake = handshake(probe.clone(), path.path.clone(), target, path.patience());
            path.handshake = Some(tokio::task::spawn_local(handshake));
        }
        if let Some(paths) = known.report(snapshot.settings.path_interval, now) {
            report.update(|report| report.paths = paths);
        }
    }
}

/// Makes a handshake, and notes its outcome. Returns how long it took if it succeeded.
async fn handshake(probe: PathProbe, path: Arc<ClusterPath>, to: ProbeTarget, patience: Duration) -> Option<Duration> {
    let timeouts = ConnectTimeouts { direct: patience, through_gateway: patience };
    let policy = Rc::new(TrafficPolicy::default());
    let dial = DialOptions { policy, limits: None, client: None, identity: probe.identity, mark: probe.mark, timeouts };
    let began = Instant::now();
    match connect::open(&to.target, to.alpn, &dial).await {
        Ok(_) => {
            path.succeeded(Instant::now());
            Some(began.elapsed())
        }
        Err(error) => {
            tracing::debug!(%error, cluster = %path.cluster(), gateway = %to.target.address, "a path fails a handshake");
            // A request may have succeeded since.
            if path.success_age(Instant::now()).is_none_or(|age| age >= began.elapsed()) {
                path.failed(Instant::now());
            }
            None
        }
    }
}

/// Where a handshake goes.
#[derive(Debug)]
struct ProbeTarget {
    target: Arc<Target>,
    alpn: Alpn,
}

/// What is known of all paths.
#[derive(Debug, Default)]
struct KnownPaths {
    paths: BTreeMap<Arc<str>, KnownPath>,
    /// When services were last looked at.
    looked: Option<Instant>,
}

#[derive(Debug)]
struct KnownPath {
    path: Arc<ClusterPath>,
    /// The handshake in progress.
    handshake: Option<JoinHandle<Option<Duration>>>,
    /// When the next handshake may be made.
    next: Instant,
    /// How long the last successful handshake took.
    took: Option<Duration>,
    /// What was last reported, and when.
    reported: (PathReport, Option<Instant>),
}

impl KnownPath {
    fn new(path: Arc<ClusterPath>, now: Instant) -> Self {
        let reported = (PathReport { cluster: path.cluster().to_string(), ..PathReport::default() }, None);
        KnownPath { path, handshake: None, next: now, took: None, reported }
    }

    /// Returns how long a handshake may take.
    fn patience(&self) -> Duration {
        HANDSHAKE.max(self.took.unwrap_or_default() * 3)
    }

    /// Returns whether a handshake is due.
    fn is_due(&self, interval: Duration, now: Instant) -> bool {
        let proven = || !self.path.is_doubtful() && self.path.success_age(now).is_some_and(|age| age < interval);
        self.handshake.is_none() && now >= self.next && !proven()
    }

    /// Takes the result of a handshake that has ended.
    fn finish(&mut self) {
        if let Some(Some(Ok(Some(took)))) = self.handshake.take().map(FutureExt::now_or_never) {
            self.took = Some(took);
        }
        if self.path.is_doubtful() {
            self.next = self.next.min(Instant::now() + AGAIN);
        }
    }

    /// Counts an outcome if one is to be reported.
    fn update(&mut self, interval: Duration, now: Instant) {
        let (report, at) = &mut self.reported;
        let failing = self.path.is_failing(now);
        let since = at.map(|at| now.saturating_duration_since(at));
        let fresh = failing || self.path.success_age(now).is_some_and(|age| age < since.unwrap_or(interval));
        if (failing != report.failing && (failing || fresh)) || (fresh && since.is_none_or(|since| since >= interval)) {
            report.checks += 1;
            report.failing = failing;
            *at = Some(now);
        }
    }
}

impl KnownPaths {
    /// Returns the paths of which a handshake is due, each with where it goes.
    fn due(&mut self, snapshot: &MeshSnapshot, now: Instant) -> Vec<(&mut KnownPath, ProbeTarget)> {
        let interval = snapshot.settings.path_interval;
        if self.looked.is_none_or(|at| now.saturating_duration_since(at) >= interval) {
            self.looked = Some(now);
            remote_clusters(snapshot).iter().for_each(|cluster| drop(snapshot.paths.to(cluster)));
        }
        self.follow(&snapshot.paths, now);
        let mut due = Vec::new();
        for known in self.paths.values_mut() {
            if known.handshake.as_ref().is_some_and(JoinHandle::is_finished) {
                known.finish();
            }
            if !known.is_due(interval, now) {
                continue;
            }
            let pause = if known.path.is_doubtful() { AGAIN } else { interval };
            known.next = now + pause.mul_f64(random_range(0.9..1.1));
            if let Some(target) = probe_target(snapshot, known.path.cluster()) {
                due.push((known, target));
            }
        }
        due
    }

    fn follow(&mut self, paths: &Paths, now: Instant) {
        for path in paths.all() {
            self.paths.entry(path.cluster().clone()).or_insert_with(|| KnownPath::new(path, now));
        }
    }

    /// Returns the paths as they are to be reported; `None` if there is nothing new.
    fn report(&mut self, interval: Duration, now: Instant) -> Option<Vec<PathReport>> {
        let checks = |of: &Self| of.paths.values().map(|known| known.reported.0.checks).sum::<u64>();
        let before = checks(self);
        self.paths.values_mut().for_each(|known| known.update(interval, now));
        let reported = || self.paths.values().map(|known| &known.reported.0).filter(|report| report.checks > 0);
        (checks(self) != before).then(|| reported().cloned().collect())
    }
}

/// Returns services in a random order, but neighbours after each other, within a bound.
fn some_services(snapshot: &MeshSnapshot) -> impl Iterator<Item = &Arc<Service>> {
    let start = random_range(0..snapshot.services.len().max(1));
    let all = || snapshot.services.values();
    all().skip(start).chain(all().take(start)).take(MAX_SERVICES)
}

/// Returns the other clusters of which the proxy holds endpoints behind gateways.
fn remote_clusters(snapshot: &MeshSnapshot) -> HashSet<Arc<str>> {
    let Some(own) = &snapshot.own else { return HashSet::new() };
    let endpoints = some_services(snapshot).flat_map(|service| service.endpoints());
    let remote = endpoints.filter(|of| matches!(of.reach, Reach::Gateways(_)) && of.cluster != own.cluster);
    remote.map(|endpoint| endpoint.cluster.clone()).collect()
}

/// Returns a target of a handshake with a pod of a cluster behind its gateway. A port of HTTP is preferred: behind others, the
/// pod's sidecar connects to its application at once.
fn probe_target(snapshot: &MeshSnapshot, cluster: &Arc<str>) -> Option<ProbeTarget> {
    let has = |service: &&Arc<Service>| {
        service.endpoints().iter().any(|of| of.cluster == *cluster && matches!(of.reach, Reach::Gateways(_)))
    };
    let mut other = None;
    for service in some_services(snapshot).filter(has) {
        for port in service.ports.iter() {
            let (alpn, is_http) = match port.protocol {
                Protocol::Http | Protocol::Unknown => (alpn::CLIENT_HTTP1, true),
                Protocol::Http2 | Protocol::Grpc => (alpn::CLIENT_HTTP2, true),
                _ => (alpn::CLIENT_TCP, false),
            };
            if !is_http && other.is_some() {
                continue;
            }
            let all = targets(service, &ClusterKey::of(service, port.number, ""), snapshot);
            let mut through: Vec<Arc<Target>> = all
                .into_iter()
                .map(|candidate| candidate.target)
                .filter(|target| target.remote && target.cluster == *cluster)
                .collect();
            if through.is_empty() {
                continue;
            }
            let target = through.swap_remove(random_range(0..through.len()));
            let found = Some(ProbeTarget { target, alpn });
            if is_http {
                return found;
            }
            other = found;
        }
    }
    other
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn path() -> (KnownPaths, Arc<ClusterPath>, Instant) {
        let (paths, now) = (Paths::default(), Instant::now());
        let path = paths.to(&"east".into()).unwrap();
        let mut known = KnownPaths::default();
        known.follow(&paths, now);
        (known, path, now)
    }

    fn reported(known: &mut KnownPaths, now: Instant) -> Option<(u64, bool)> {
        known.report(INTERVAL, now).map(|paths| (paths[0].checks, paths[0].failing))
    }

    #[test]
    fn a_success_is_reported_once_in_an_interval_and_a_failure_at_once() {
        let (mut known, path, now) = path();
        let at = |ms: u64| now + Duration::from_millis(ms);
        assert_eq!(reported(&mut known, at(0)), None, "nothing is known yet");
        path.succeeded(at(100));
        assert_eq!(reported(&mut known, at(500)), Some((1, false)));
        path.succeeded(at(1_000));
        assert_eq!(reported(&mut known, at(1_500)), None);
        assert_eq!(reported(&mut known, at(6_000)), Some((2, false)), "there was a success since the last report");
        assert_eq!(reported(&mut known, at(12_000)), None, "there was none");
        path.failed(at(12_000));
        path.failed(at(12_500));
        assert_eq!(reported(&mut known, at(13_000)), Some((3, true)));
        assert_eq!(reported(&mut known, at(14_000)), None);
        assert_eq!(reported(&mut known, at(18_000)), Some((4, true)), "it still fails");
        path.succeeded(at(18_500));
        assert_eq!(reported(&mut known, at(18_600)), Some((5, false)));
    }

    #[test]
    fn a_handshake_is_made_without_a_recent_success_and_soon_again_after_a_failure() {
        let (mut known, path, now) = path();
        let at = |ms: u64| now + Duration::from_millis(ms);
        let known = known.paths.values_mut().next().unwrap();
        assert!(known.is_due(INTERVAL, at(0)), "there was no success yet");
        path.succeeded(at(0));
        assert!(!known.is_due(INTERVAL, at(4_000)), "an outcome replaces it");
        assert!(known.is_due(INTERVAL, at(5_100)));
        known.next = at(10_000);
        assert!(!known.is_due(INTERVAL, at(9_000)));
        path.failed(at(10_500));
        path.succeeded(at(10_600));
        assert!(!known.is_due(INTERVAL, at(10_700)));
        path.failed(at(10_800));
        assert!(known.is_due(INTERVAL, at(10_900)), "a failure since the last success puts the path in doubt");
        assert_eq!(known.patience(), HANDSHAKE);
        known.took = Some(Duration::from_secs(2));
        assert_eq!(known.patience(), Duration::from_secs(6));
    }

    #[test]
    fn clusters_behind_gateways_are_looked_for_with_a_target_for_each() {
        let snapshot = MeshSnapshot::default();
        assert!(remote_clusters(&snapshot).is_empty(), "the own cluster is not known yet");
        assert!(probe_target(&snapshot, &"east".into()).is_none());
    }
}
