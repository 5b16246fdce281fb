//! Tests of configured outlier detection, as balancers use it.

use super::*;
use crate::{Cause, Detector, OutlierPolicy};

const SECOND: Duration = Duration::from_secs(1);

fn settings(policy: OutlierPolicy, now: Instant) -> (Settings, EjectionCounts) {
    let counts = EjectionCounts::default();
    let detector = Detector::new(policy, counts.clone(), now);
    (Settings { detection: Detection::Configured(detector), ..Settings::default() }, counts)
}

fn worker(settings: &Settings, endpoints: Vec<Endpoint<()>>) -> Balancer<()> {
    let mut balancer = Balancer::new(Locality::new(WEST_A.0, WEST_A.1, ""));
    balancer.set_settings(settings.clone());
    balancer.update(endpoints);
    balancer
}

/// Reports failures of an endpoint.
fn fail(balancer: &mut Balancer<()>, id: &str, times: u32, now: Instant) {
    let others: Vec<Arc<str>> =
        balancer.endpoints().map(|(endpoint, ..)| endpoint.id.clone()).filter(|other| &**other != id).collect();
    for _ in 0..times {
        let pick = balancer.pick(now, &others, 7).expect("an endpoint");
        assert_eq!(&*pick.id, id);
        pick.report(Outcome::ServerError, now);
    }
}

const ALL: OutlierPolicy = OutlierPolicy {
    consecutive_5xx: 3,
    consecutive_gateway_errors: 0,
    split_local_origin: false,
    consecutive_local_origin_failures: 5,
    interval: Duration::from_secs(10),
    base_ejection_time: Duration::from_secs(30),
    max_ejection_percent: 100,
    min_health_percent: 0,
};

#[test]
fn an_ejection_holds_for_all_workers_until_its_time_is_over() {
    let start = Instant::now();
    let (settings, counts) = settings(ALL, start);
    let mut workers = [worker(&settings, reviews()), worker(&settings, reviews())];
    // The failures of both workers count together.
    fail(&mut workers[0], "west-a", 2, start);
    fail(&mut workers[1], "west-a", 1, start);
    for worker in &mut workers {
        assert_eq!(shares(worker, start, &[]).keys().collect::<Vec<_>>(), ["west-b"]);
        assert_eq!(shares(worker, start + SECOND * 29, &[]).keys().collect::<Vec<_>>(), ["west-b"]);
    }
    assert_eq!((counts.active(), counts.enforced(Cause::ServerErrors)), (1, 1));
    let state = workers[0].endpoints().find(|(endpoint, ..)| &*endpoint.id == "west-a").map(|(_, state, _)| state);
    assert_eq!(state, Some(EndpointState::Ejected { until: start + SECOND * 30, ejections: 1 }));
    for worker in &mut workers {
        assert_eq!(
            shares(worker, start + SECOND * 30, &[]).keys().collect::<Vec<_>>(),
            ["west-a"],
            "without probation"
        );
    }
    assert_eq!(counts.active(), 0);
}

#[test]
fn without_a_minimum_no_endpoint_is_used_once_all_are_ejected() {
    let start = Instant::now();
    let (settings, counts) = settings(ALL, start);
    let mut balancer = worker(&settings, reviews());
    for id in ["west-a", "west-b", "east"] {
        fail(&mut balancer, id, 3, start);
    }
    assert_eq!(counts.active(), 3);
    assert!(balancer.pick(start, &[], 1).is_none());
    assert!(balancer.pick(start + SECOND * 30, &[], 1).is_some());
}

#[test]
fn below_the_minimum_health_all_endpoints_are_used() {
    let start = Instant::now();
    let four = |(region, zone)| {
        (0..4).map(|i| endpoint(&format!("{zone}-{i}"), (region, zone), 1, Health::Ready)).collect::<Vec<_>>()
    };
    // Of one tier.
    for (minimum, used, mode) in [(0, 1, Mode::Ordinary), (25, 1, Mode::Ordinary), (26, 4, Mode::Panic)] {
        let (settings, counts) = settings(OutlierPolicy { min_health_percent: minimum, ..ALL }, start);
        let mut balancer = worker(&settings, four(WEST_A));
        (0..3).for_each(|i| fail(&mut balancer, &format!("us-west-1a-{i}"), 3, start));
        assert_eq!(shares(&mut balancer, start, &[]).len(), used, "{minimum} %");
        assert_eq!(balancer.pick(start, &[], 1).expect("a pick").mode, mode);
        assert_eq!(counts.panic() > 0, mode == Mode::Panic);
    }
    // Another tier carries what the first cannot: no panic.
    let (settings, _) = settings(OutlierPolicy { min_health_percent: 60, ..ALL }, start);
    let mut balancer = worker(&settings, [four(WEST_A), four(WEST_B)].concat());
    (0..2).for_each(|i| fail(&mut balancer, &format!("us-west-1a-{i}"), 3, start));
    let counts = shares(&mut balancer, start, &[]);
    assert_eq!(counts.len(), 6);
    // All are ejected: traffic follows the numbers of endpoints, whatever their health is.
    (2..4).for_each(|i| fail(&mut balancer, &format!("us-west-1a-{i}"), 3, start));
    (0..4).for_each(|i| fail(&mut balancer, &format!("us-west-1b-{i}"), 3, start));
    assert_eq!(shares(&mut balancer, start, &[]).len(), 8);
}

#[test]
fn a_share_of_the_caller_in_panic_uses_its_ejected_endpoints() {
    let start = Instant::now();
    let (mut settings, _) = settings(OutlierPolicy { min_health_percent: 60, ..ALL }, start);
    let pattern = crate::LocalityPattern::parse;
    settings.locality.distribute =
        vec![crate::Distribution { from: pattern("*"), to: vec![(pattern("us-west"), 50), (pattern("us-east"), 50)] }];
    let mut balancer = worker(&settings, reviews());
    fail(&mut balancer, "west-a", 3, start);
    assert_eq!(shares(&mut balancer, start, &[]).len(), 2, "two of three are enough");
    fail(&mut balancer, "west-b", 3, start);
    assert_eq!(shares(&mut balancer, start, &[]).len(), 3);
}

#[test]
fn a_change_between_default_and_configured_detection_forgets_ejections() {
    let start = Instant::now();
    let (settings, counts) = settings(ALL, start);
    let mut balancer = balancer(reviews());
    eject(&mut balancer, "west-a", start);
    balancer.set_settings(settings);
    balancer.update(reviews());
    assert_eq!(shares(&mut balancer, start, &[]).keys().collect::<Vec<_>>(), ["west-a"]);
    fail(&mut balancer, "west-a", 3, start);
    balancer.set_settings(Settings::default());
    balancer.update(reviews());
    assert_eq!(shares(&mut balancer, start, &[]).keys().collect::<Vec<_>>(), ["west-a"]);
    assert_eq!(counts.active(), 0, "the detector is gone");
}

#[test]
fn the_default_detection_counts_its_ejections() {
    let start = Instant::now();
    let counts = EjectionCounts::default();
    let mut balancer = Balancer::new(Locality::new(WEST_A.0, WEST_A.1, ""));
    balancer.set_counts(counts.clone());
    balancer.update(reviews());
    eject(&mut balancer, "west-a", start);
    balancer.pick(start, &[], 1);
    assert_eq!((counts.active(), counts.enforced(Cause::LocalOrigin), counts.enforced_total()), (1, 1, 1));
    let probe = balancer.pick(start + SECOND, &[], 1).expect("a probe");
    assert_eq!(probe.mode, Mode::Probation);
    assert_eq!(counts.active(), 1);
    probe.report(Outcome::Success, start + SECOND);
    drop(probe);
    balancer.pick(start + SECOND, &[], 1);
    assert_eq!((counts.active(), counts.enforced_total()), (0, 1));
    balancer.update(vec![]);
    drop(balancer);
    assert_eq!(counts.active(), 0);
}
