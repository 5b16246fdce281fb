//! Tests of the balancer.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::Outcome;

mod detection;
mod localities;
mod settings;

const WEST_A: (&str, &str) = ("us-west", "us-west-1a");
const WEST_B: (&str, &str) = ("us-west", "us-west-1b");
const EAST: (&str, &str) = ("us-east", "us-east-1a");

fn endpoint(id: &str, (region, zone): (&str, &str), weight: u32, health: Health) -> Endpoint<()> {
    Endpoint { id: id.into(), locality: Locality::new(region, zone, ""), priority: 0, weight, health, target: () }
}

fn balancer(endpoints: Vec<Endpoint<()>>) -> Balancer<()> {
    let mut balancer = Balancer::new(Locality::new(WEST_A.0, WEST_A.1, ""));
    balancer.update(endpoints);
    balancer
}

fn reviews() -> Vec<Endpoint<()>> {
    vec![
        endpoint("west-a", WEST_A, 1, Health::Ready),
        endpoint("west-b", WEST_B, 1, Health::Ready),
        endpoint("east", EAST, 3, Health::Ready),
    ]
}

/// Counts 2000 picks by endpoint. Each pick is dropped at once.
fn shares(balancer: &mut Balancer<()>, now: Instant, previous: &[Arc<str>]) -> HashMap<String, u32> {
    let mut counts = HashMap::new();
    for i in 0..2000u64 {
        let pick = balancer.pick(now, previous, i.wrapping_mul(0x2545_f491_4f6c_dd1d)).expect("an endpoint");
        *counts.entry(pick.id.to_string()).or_default() += 1;
    }
    counts
}

/// Ejects an endpoint: two attempts fail to connect.
fn eject(balancer: &mut Balancer<()>, id: &str, now: Instant) {
    let others: Vec<Arc<str>> =
        balancer.endpoints().map(|(endpoint, ..)| endpoint.id.clone()).filter(|other| &**other != id).collect();
    for _ in 0..2 {
        let pick = balancer.pick(now, &others, 7).expect("an endpoint");
        assert_eq!(&*pick.id, id);
        pick.report(Outcome::ConnectFailure, now);
    }
}

#[test]
fn a_healthy_nearest_tier_receives_all_traffic() {
    let counts = shares(&mut balancer(reviews()), Instant::now(), &[]);
    assert_eq!(counts, HashMap::from([("west-a".to_owned(), 2000)]));
}

#[test]
fn traffic_fails_over_to_the_next_tier_and_returns() {
    let start = Instant::now();
    let mut balancer = balancer(reviews());
    eject(&mut balancer, "west-a", start);
    assert_eq!(shares(&mut balancer, start, &[]).keys().collect::<Vec<_>>(), ["west-b"]);
    eject(&mut balancer, "west-b", start);
    assert_eq!(shares(&mut balancer, start, &[]).keys().collect::<Vec<_>>(), ["east"]);

    // The ejections have ended: each endpoint receives a probation request, and the nearest tier is used again.
    let later = start + Duration::from_secs(1);
    let probe = balancer.pick(later, &[], 1).expect("a probe");
    assert_eq!((&*probe.id, probe.mode), ("west-a", Mode::Probation));
    let second = balancer.pick(later, &[], 1).expect("a probe");
    assert_eq!((&*second.id, second.mode), ("west-b", Mode::Probation));
    let third = balancer.pick(later, &[], 1).expect("an endpoint");
    assert_eq!((&*third.id, third.mode), ("east", Mode::Ordinary));
    probe.report(Outcome::Success, later);
    drop((probe, second, third));
    let counts = shares(&mut balancer, later, &[]);
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["west-a"]);
}

#[test]
fn a_degraded_endpoint_is_used_only_while_no_other_is() {
    let start = Instant::now();
    let mut endpoints = reviews();
    endpoints[0].health = Health::Degraded;
    // An unready endpoint lacks in its tier, for which the last resort does not make up.
    endpoints.push(endpoint("west-b-2", WEST_B, 1, Health::Unready));
    let mut balancer = balancer(endpoints.clone());
    let used = |balancer: &mut Balancer<()>, now| {
        let mut used: Vec<String> = shares(balancer, now, &[]).into_keys().collect();
        used.sort();
        used
    };
    assert_eq!(used(&mut balancer, start), ["east", "west-b"]);
    eject(&mut balancer, "west-b", start);
    assert_eq!(used(&mut balancer, start), ["east"]);
    eject(&mut balancer, "east", start);
    assert_eq!(used(&mut balancer, start), ["west-a"]);
    // Another attempt of a request goes to the last resort before it goes to the same endpoint again.
    let tried: Vec<Arc<str>> = vec!["west-b".into(), "east".into()];
    let mut all_in_use = super::tests::balancer(endpoints.clone());
    assert_eq!(shares(&mut all_in_use, start, &tried).into_keys().collect::<Vec<_>>(), ["west-a"]);
    // It is nearest again, and its ejection is forgotten.
    eject(&mut balancer, "west-a", start);
    endpoints[0].health = Health::Ready;
    balancer.update(endpoints);
    assert_eq!(used(&mut balancer, start), ["west-a"]);
}

#[test]
fn a_probation_request_without_an_outcome_is_repeated() {
    let start = Instant::now();
    let mut balancer = balancer(reviews());
    eject(&mut balancer, "west-a", start);
    let later = start + Duration::from_secs(1);
    for _ in 0..3 {
        assert_eq!(balancer.pick(later, &[], 1).expect("a probe").mode, Mode::Probation);
    }
    let probe = balancer.pick(later, &[], 1).expect("a probe");
    probe.report(Outcome::ConnectFailure, later);
    drop(probe);
    assert_eq!(&*balancer.pick(later, &[], 1).expect("an endpoint").id, "west-b");
    assert_eq!(&*balancer.pick(later + Duration::from_secs(2), &[], 1).expect("a probe").id, "west-a");
}

#[test]
fn a_zone_with_half_of_its_endpoints_unready_spills_30_percent() {
    let mut endpoints = reviews();
    endpoints.push(endpoint("west-a2", WEST_A, 1, Health::Unready));
    let counts = shares(&mut balancer(endpoints), Instant::now(), &[]);
    assert!((1300..1500).contains(&counts["west-a"]), "{counts:?}");
    assert!((500..700).contains(&counts["west-b"]), "{counts:?}");
    assert_eq!(counts.len(), 2);
}

#[test]
fn draining_endpoints_are_neither_used_nor_counted() {
    let mut endpoints = reviews();
    endpoints.push(endpoint("west-a2", WEST_A, 1, Health::Draining));
    assert_eq!(shares(&mut balancer(endpoints), Instant::now(), &[]).keys().collect::<Vec<_>>(), ["west-a"]);
}

#[test]
fn traffic_within_a_tier_follows_the_weights() {
    let endpoints = vec![
        endpoint("direct", EAST, 1, Health::Ready),
        endpoint("gateway", EAST, 3, Health::Ready),
        endpoint("none", EAST, 0, Health::Ready),
    ];
    let counts = shares(&mut balancer(endpoints), Instant::now(), &[]);
    assert!((400..600).contains(&counts["direct"]), "{counts:?}");
    assert_eq!(counts.len(), 2);
}

#[test]
fn requests_in_progress_follow_the_weights() {
    let now = Instant::now();
    let mut balancer =
        balancer(vec![endpoint("small", EAST, 1, Health::Ready), endpoint("big", EAST, 3, Health::Ready)]);
    let picks: Vec<_> = (0..400u64).filter_map(|i| balancer.pick(now, &[], i * 977)).collect();
    let small = picks.iter().filter(|pick| &*pick.id == "small").count();
    assert!((85..=115).contains(&small), "{small} of 400");
    drop(picks);
    assert!(balancer.endpoints().all(|(_, _, in_flight)| in_flight == 0));
}

#[test]
fn a_retry_avoids_the_endpoints_of_previous_attempts() {
    let now = Instant::now();
    let mut balancer = balancer(reviews());
    let previous: Vec<Arc<str>> = vec!["west-a".into()];
    assert_eq!(shares(&mut balancer, now, &previous).keys().collect::<Vec<_>>(), ["west-b"]);
    let previous: Vec<Arc<str>> = vec!["west-a".into(), "west-b".into()];
    assert_eq!(shares(&mut balancer, now, &previous).keys().collect::<Vec<_>>(), ["east"]);
    let previous: Vec<Arc<str>> = vec!["west-a".into(), "west-b".into(), "east".into()];
    assert_eq!(shares(&mut balancer, now, &previous).keys().collect::<Vec<_>>(), ["west-a"]);
}

#[test]
fn if_every_endpoint_is_ejected_all_are_used() {
    let now = Instant::now();
    let mut balancer = balancer(reviews());
    for id in ["west-a", "west-b", "east"] {
        eject(&mut balancer, id, now);
    }
    let pick = balancer.pick(now, &[], 3).expect("an endpoint");
    assert_eq!((&*pick.id, pick.mode), ("west-a", Mode::Panic));
    let next = balancer.pick(now, std::slice::from_ref(&pick.id), 3).expect("an endpoint");
    assert_eq!((&*next.id, next.mode), ("west-b", Mode::Panic));
    next.report(Outcome::Success, now);
    assert_eq!(balancer.pick(now, &[], 3).expect("an endpoint").mode, Mode::Ordinary);
}

#[test]
fn without_ready_endpoints_nothing_is_picked() {
    assert!(balancer(vec![]).pick(Instant::now(), &[], 0).is_none());
    let unready = vec![endpoint("west-a", WEST_A, 1, Health::Unready)];
    assert!(balancer(unready).pick(Instant::now(), &[], 0).is_none());
}

#[test]
fn an_update_keeps_the_state_of_endpoints_unless_they_restarted() {
    let now = Instant::now();
    let mut balancer = balancer(reviews());
    eject(&mut balancer, "west-a", now);
    balancer.update(reviews());
    assert_eq!(&*balancer.pick(now, &[], 0).expect("an endpoint").id, "west-b");
    let mut restarting = reviews();
    restarting[0].health = Health::Unready;
    balancer.update(restarting);
    balancer.update(reviews());
    assert_eq!(&*balancer.pick(now, &[], 0).expect("an endpoint").id, "west-a");
}

#[test]
fn tiers_are_listed_nearest_first() {
    let views = balancer(reviews()).tiers(Instant::now());
    assert_eq!(views.iter().map(|tier| (tier.rank, tier.share)).collect::<Vec<_>>(), [(0, 100), (2, 0), (3, 0)]);
    assert_eq!(views[2].health, TierHealth { available: 3, total: 3 });
}
