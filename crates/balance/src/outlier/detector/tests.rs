//! Tests of outlier detection as configured.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Ejects after two server errors, of any share of the endpoints.
const POLICY: OutlierPolicy = OutlierPolicy {
    consecutive_5xx: 2,
    consecutive_gateway_errors: 0,
    split_local_origin: false,
    consecutive_local_origin_failures: 5,
    interval: Duration::from_secs(10),
    base_ejection_time: Duration::from_secs(30),
    max_ejection_percent: 100,
    min_health_percent: 0,
};

fn detector(policy: OutlierPolicy, hosts: usize, start: Instant) -> (Detector, Vec<Arc<Host>>) {
    let detector = Detector::new(policy, EjectionCounts::default(), start);
    let names: Vec<Arc<str>> = (0..hosts).map(|at| at.to_string().into()).collect();
    let hosts = detector.replace(names.iter());
    (detector, hosts)
}

fn counts(detector: &Detector) -> &EjectionCounts {
    detector.counts()
}

#[test]
fn each_kind_of_failure_counts_as_in_envoy() {
    use Outcome::{ConnectFailure as C, GatewayError as G, NoResponse as N, ServerError as E, Success as S};
    let both = OutlierPolicy { consecutive_5xx: 3, consecutive_gateway_errors: 2, ..POLICY };
    let split = OutlierPolicy { split_local_origin: true, consecutive_local_origin_failures: 2, ..both };
    let off = OutlierPolicy { consecutive_5xx: 0, ..POLICY };
    let (server, gateway, local) = (Cause::ServerErrors, Cause::GatewayErrors, Cause::LocalOrigin);
    let table: [(OutlierPolicy, &[Outcome], Option<Cause>); 20] = [
        (both, &[E, E], None),
        (both, &[E, E, E], Some(server)),
        (both, &[E, E, S, E], None),
        (both, &[E, G, G], Some(gateway)),
        (both, &[G, E, G], Some(server)),
        (both, &[G, G], Some(gateway)),
        (both, &[C, C], Some(gateway)),
        (both, &[C, N], Some(gateway)),
        (both, &[G, S, G], None),
        (split, &[C, C], Some(local)),
        (split, &[C, S, C], None),
        (split, &[C, E, C], None),
        (split, &[C, N, C], Some(local)),
        (split, &[N, N, N, N], None),
        (split, &[G, C, G], Some(gateway)),
        (split, &[E, C, E, C, E], Some(server)),
        (OutlierPolicy { consecutive_local_origin_failures: 0, ..split }, &[C, C, C, C], None),
        (off, &[E, G, C, N, E, G], None),
        (POLICY, &[C, N], Some(server)),
        (POLICY, &[G, E], Some(server)),
    ];
    for (policy, outcomes, expected) in table {
        let start = Instant::now();
        let (detector, hosts) = detector(policy, 2, start);
        for outcome in outcomes {
            detector.report(&hosts[0], *outcome, start);
        }
        assert_eq!(hosts[0].is_ejected(), expected.is_some(), "{policy:?} {outcomes:?}");
        for cause in Cause::ALL {
            let times = u64::from(expected == Some(cause));
            assert_eq!(counts(&detector).enforced(cause), times, "{policy:?} {outcomes:?} {cause:?}");
            assert_eq!(counts(&detector).detected(cause), times, "{policy:?} {outcomes:?} {cause:?}");
        }
        assert_eq!(counts(&detector).active(), u64::from(expected.is_some()));
        assert!(!hosts[1].is_ejected());
    }
}

fn eject(detector: &Detector, host: &Host, now: Instant) {
    for _ in 0..detector.policy().consecutive_5xx {
        detector.report(host, Outcome::ServerError, now);
    }
}

#[test]
fn the_share_of_ejected_endpoints_is_bounded() {
    // Envoy: `100 * (ejected + 1) / hosts <= max_ejection_percent`.
    for (percent, hosts, ejected) in
        [(10, 1, 0), (10, 9, 0), (10, 10, 1), (10, 19, 1), (10, 20, 2), (50, 3, 1), (100, 3, 3), (200, 3, 3), (0, 3, 0)]
    {
        let start = Instant::now();
        let policy = OutlierPolicy { max_ejection_percent: percent, ..POLICY };
        let (detector, all) = detector(policy, hosts, start);
        all.iter().for_each(|host| eject(&detector, host, start));
        assert_eq!(all.iter().filter(|host| host.is_ejected()).count(), ejected, "{percent} % of {hosts}");
        assert_eq!(counts(&detector).active(), ejected as u64);
        assert_eq!(counts(&detector).overflow(), (hosts - ejected) as u64);
        assert_eq!(counts(&detector).enforced_total(), ejected as u64);
    }
}

#[test]
fn ejections_end_with_an_interval_and_last_longer_each_time() {
    let start = Instant::now();
    let (detector, hosts) = detector(POLICY, 3, start);
    let at = |seconds| start + SECOND * seconds;
    eject(&detector, &hosts[0], at(3));
    assert_eq!(detector.sweep(at(3)), Some(at(40)), "33 s, rounded up to an interval");
    detector.sweep(at(39));
    assert!(hosts[0].is_ejected());
    assert_eq!(detector.sweep(at(40)), None);
    assert!(!hosts[0].is_ejected());
    assert_eq!(counts(&detector).active(), 0);
    // The second one: twice 30 s.
    eject(&detector, &hosts[0], at(41));
    assert_eq!(detector.sweep(at(41)), Some(at(110)));
    detector.sweep(at(110));
    // An interval without an ejection takes one back, so the third lasts as long as the second.
    eject(&detector, &hosts[0], at(120));
    assert_eq!(detector.sweep(at(120)), Some(at(180)));
    detector.sweep(at(180));
    // After a long time the next one is the first again. The counts do not outlive an ejection.
    detector.report(&hosts[0], Outcome::ServerError, at(1000));
    assert!(!hosts[0].is_ejected());
    detector.report(&hosts[0], Outcome::ServerError, at(1000));
    assert_eq!(detector.sweep(at(1000)), Some(at(1030)));
}

#[test]
fn an_ejection_lasts_at_most_300_s_or_the_base_time() {
    let start = Instant::now();
    for (base, longest) in [(30, 300), (400, 400)] {
        let policy =
            OutlierPolicy { base_ejection_time: SECOND * base, interval: SECOND, consecutive_5xx: 1, ..POLICY };
        let (detector, hosts) = detector(policy, 1, start);
        let mut now = start;
        for _ in 0..20 {
            eject(&detector, &hosts[0], now);
            now = detector.sweep(now).expect("an end");
            detector.sweep(now);
        }
        eject(&detector, &hosts[0], now);
        assert_eq!(detector.sweep(now), Some(now + SECOND * longest), "{base}");
    }
}

#[test]
fn endpoints_that_are_removed_no_longer_count() {
    let start = Instant::now();
    let (detector, hosts) = detector(POLICY, 3, start);
    let version = detector.version();
    eject(&detector, &hosts[0], start);
    eject(&detector, &hosts[1], start);
    assert!(detector.version() > version);
    let names: Vec<Arc<str>> = vec!["1".into(), "3".into()];
    let now = detector.replace(names.iter());
    assert_eq!(counts(&detector).active(), 1);
    assert!(now[0].is_ejected() && Arc::ptr_eq(&now[0], &hosts[1]) && !now[1].is_ejected());
    let kept = counts(&detector).clone();
    drop(detector);
    assert_eq!(kept.active(), 0);
}

/// As many endpoints are ejected as the share allows, whatever the interleaving of workers is.
#[test]
fn the_bound_holds_with_several_workers() {
    let start = Instant::now();
    let policy = OutlierPolicy { max_ejection_percent: 50, consecutive_5xx: 1, ..POLICY };
    let (detector, hosts) = detector(policy, 8, start);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| hosts.iter().for_each(|host| detector.report(host, Outcome::ServerError, start)));
        }
    });
    assert_eq!(hosts.iter().filter(|host| host.is_ejected()).count(), 4);
    assert_eq!(counts(&detector).active(), 4);
}

#[test]
fn several_workers_count_together() {
    let start = Instant::now();
    let (detector, hosts) = detector(OutlierPolicy { consecutive_5xx: 400, ..POLICY }, 1, start);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..100).for_each(|_| detector.report(&hosts[0], Outcome::ServerError, start)));
        }
    });
    assert!(hosts[0].is_ejected());
}

#[test]
fn the_endpoints_that_are_ejected_are_named_until_their_time_is_over() {
    let start = Instant::now();
    let (detector, hosts) = detector(POLICY, 3, start);
    assert!(detector.ejected(start).is_empty());
    for _ in 0..2 {
        detector.report(&hosts[1], Outcome::ServerError, start + SECOND);
    }
    assert_eq!(detector.ejected(start + SECOND), [Arc::<str>::from("1")]);
    assert!(detector.ejected(start + 60 * SECOND).is_empty(), "whether or not a request was sent since");
}
