//! Tests of algorithms, hashing and warm-up.

use super::*;
use crate::{Distribution, EjectionCounts, LocalityPolicy, OutlierPolicy, Preference, Warmup};

const SECOND: Duration = Duration::from_secs(1);

fn with(algorithm: Algorithm, endpoints: Vec<Endpoint<()>>) -> Balancer<()> {
    let mut balancer = Balancer::new(Locality::new(WEST_A.0, WEST_A.1, ""));
    balancer.set_settings(Settings { algorithm, ..Settings::default() });
    balancer.update(endpoints);
    balancer
}

fn ready(names_and_weights: &[(&str, u32)]) -> Vec<Endpoint<()>> {
    names_and_weights.iter().map(|(name, weight)| endpoint(name, WEST_A, *weight, Health::Ready)).collect()
}

const ALGORITHMS: [Algorithm; 5] = [
    Algorithm::LeastRequest,
    Algorithm::RoundRobin,
    Algorithm::Random,
    Algorithm::RingHash { minimum_size: 1024 },
    Algorithm::Maglev { table_size: 65_537 },
];

fn any_bits(number: u64) -> u64 {
    crate::hashing::mix(number)
}

#[test]
fn traffic_follows_the_weights_with_every_algorithm() {
    for algorithm in ALGORITHMS {
        let counts = shares(&mut with(algorithm, ready(&[("one", 1), ("three", 3), ("none", 0)])), Instant::now(), &[]);
        let expected = if matches!(algorithm, Algorithm::RingHash { .. }) { 350..650 } else { 440..560 };
        assert!(expected.contains(&counts["one"]), "{algorithm:?}: {counts:?}");
        assert_eq!(counts.len(), 2);
    }
}

#[test]
fn round_robin_takes_turns_exactly() {
    let now = Instant::now();
    let mut balancer = with(Algorithm::RoundRobin, ready(&[("a", 1), ("b", 1), ("c", 2)]));
    let mut turns = Vec::new();
    // Picks stay in progress: their number changes nothing.
    let picks: Vec<_> = (0..40).filter_map(|i| balancer.pick(now, &[], any_bits(i))).collect();
    for of_four in picks.chunks(4) {
        let mut names: Vec<&str> = of_four.iter().map(|pick| &*pick.id).collect();
        turns.push(names.clone());
        names.sort_unstable();
        assert_eq!(names, ["a", "b", "c", "c"]);
    }
    assert!(turns.iter().all(|turn| *turn == turns[0]), "the same order in each round");
    // Another balancer begins elsewhere.
    let firsts: std::collections::HashSet<Arc<str>> = (0..64)
        .map(|i| {
            with(Algorithm::RoundRobin, ready(&[("a", 1), ("b", 1), ("c", 1)]))
                .pick(now, &[], any_bits(i))
                .unwrap()
                .id
                .clone()
        })
        .collect();
    assert_eq!(firsts.len(), 3);
}

#[test]
fn random_ignores_requests_in_progress() {
    let now = Instant::now();
    let mut balancer = with(Algorithm::Random, ready(&[("a", 1), ("b", 1)]));
    let picks: Vec<_> = (0..2000).filter_map(|i| balancer.pick(now, &[], any_bits(i))).collect();
    let of_a = picks.iter().filter(|pick| &*pick.id == "a").count();
    // The number of a of 2000 coins has a deviation of 22.
    assert!((900..1100).contains(&of_a) && of_a != 1000, "{of_a}");
}

#[test]
fn equal_hashes_lead_to_one_endpoint() {
    let now = Instant::now();
    for algorithm in &ALGORITHMS[3..] {
        let names: Vec<String> = (0..20).map(|i| format!("pod-{i}")).collect();
        let endpoints =
            |of: &[String]| of.iter().map(|name| endpoint(name, WEST_A, 1, Health::Ready)).collect::<Vec<_>>();
        let mut balancer = with(*algorithm, endpoints(&names));
        assert!(balancer.hashes());
        let mut pick = |hash: u64, random| balancer.pick_by(now, &[], Some(hash), random).expect("a pick").id.clone();
        let before: Vec<Arc<str>> = (0..500).map(|i| pick(any_bits(i), 1)).collect();
        assert!(
            (0..500).all(|i| pick(any_bits(i), any_bits(i + 1)) == before[i as usize]),
            "whatever the random bits are"
        );
        // Another proxy has them in another order, and one of them is gone for a moment.
        let mut reversed = endpoints(&names);
        reversed.reverse();
        let mut other = with(*algorithm, reversed);
        let same =
            (0..500).filter(|i| other.pick_by(now, &[], Some(any_bits(*i)), 7).unwrap().id == before[*i as usize]);
        assert_eq!(same.count(), 500);
        other.update(endpoints(&names[1..]));
        let moved = (0..500).filter(|i| {
            let now = other.pick_by(now, &[], Some(any_bits(*i)), 7).unwrap().id.clone();
            now != before[*i as usize] && *before[*i as usize] != *names[0]
        });
        assert!(moved.count() < 50, "{algorithm:?}");
        // A retry moves on, to the same endpoint each time.
        for hash in (0..50).map(any_bits) {
            let first = other.pick_by(now, &[], Some(hash), 1).unwrap().id.clone();
            let tried = std::slice::from_ref(&first);
            let second = other.pick_by(now, tried, Some(hash), 2).unwrap().id.clone();
            assert_ne!(first, second);
            assert_eq!(other.pick_by(now, tried, Some(hash), 3).unwrap().id, second);
        }
        // Without a hash, any endpoint.
        assert!(shares(&mut other, now, &[]).len() > 15);
    }
}

#[test]
fn hashing_stays_in_the_tier_of_the_share() {
    let now = Instant::now();
    for algorithm in &ALGORITHMS[3..] {
        let mut endpoints = reviews();
        assert_eq!(shares(&mut with(*algorithm, endpoints.clone()), now, &[]).len(), 1, "the nearest tier");
        endpoints[0].health = Health::Unready;
        endpoints.push(endpoint("west-a2", WEST_A, 1, Health::Ready));
        let counts = shares(&mut with(*algorithm, endpoints), now, &[]);
        assert!((1250..1550).contains(&counts["west-a2"]), "70 %: {counts:?}");
        assert_eq!(counts["west-a2"] + counts["west-b"], 2000);
    }
}

#[test]
fn a_new_endpoint_warms_up() {
    let start = Instant::now();
    let warmup = Some(Warmup { duration: SECOND * 100, minimum_percent: 10.0, aggression: 1.0 });
    for algorithm in [Algorithm::LeastRequest, Algorithm::RoundRobin] {
        let mut balancer = with(algorithm, vec![]);
        balancer.set_settings(Settings { algorithm, warmup, ..Settings::default() });
        balancer.update(ready(&[("old", 1)]));
        assert_eq!(shares(&mut balancer, start, &[]).len(), 1);
        let appears = start + SECOND * 200;
        balancer.update(ready(&[("old", 1), ("new", 1)]));
        for (after, expected) in [(0, 150..220), (50, 600..730), (75, 790..920), (100, 900..1100), (500, 900..1100)] {
            let counts = shares(&mut balancer, appears + SECOND * after, &[]);
            assert!(expected.contains(&counts["new"]), "{algorithm:?} after {after} s: {counts:?}");
        }
        // It restarts: not ready, then ready again.
        let mut endpoints = ready(&[("old", 1), ("new", 1)]);
        endpoints[1].health = Health::Unready;
        balancer.update(endpoints.clone());
        endpoints[1].health = Health::Ready;
        balancer.update(endpoints);
        let counts = shares(&mut balancer, appears + SECOND * 600, &[]);
        assert!((150..220).contains(&counts["new"]), "{algorithm:?}: {counts:?}");
    }
    // Endpoints that are all new share alike; other algorithms know no warm-up.
    for algorithm in ALGORITHMS {
        let mut balancer = with(algorithm, vec![]);
        balancer.set_settings(Settings { algorithm, warmup, ..Settings::default() });
        balancer.update(ready(&[("a", 1), ("b", 1)]));
        let counts = shares(&mut balancer, start, &[]);
        assert!((800..1200).contains(&counts["a"]), "{algorithm:?}: {counts:?}");
    }
}

#[test]
fn turns_go_on_while_an_endpoint_warms_up() {
    let start = Instant::now();
    let warmup = Some(Warmup { duration: SECOND * 100, minimum_percent: 100.0, aggression: 1.0 });
    let mut balancer = with(Algorithm::RoundRobin, vec![]);
    balancer.set_settings(Settings { algorithm: Algorithm::RoundRobin, warmup, ..Settings::default() });
    balancer.update(ready(&[("a", 1), ("b", 1), ("c", 1)]));
    let names: Vec<Arc<str>> =
        (0..30).map(|i| balancer.pick(start + SECOND * 2 * i as u32, &[], any_bits(i)).unwrap().id.clone()).collect();
    assert!(names.iter().zip(&names[3..]).all(|(one, later)| one == later), "{names:?}");
}

prop_compose! {
    fn any_endpoint()(zone in 0..3usize, weight in 0..5u32, health in 0..3usize, priority in 0..3u32) -> Endpoint<()> {
        let health = [Health::Ready, Health::Unready, Health::Draining][health];
        Endpoint { priority, ..endpoint("", [WEST_A, WEST_B, EAST][zone], weight, health) }
    }
}

prop_compose! {
    fn any_settings()(
        algorithm in 0..5usize,
        warm in any::<bool>(),
        preference in 0..4usize,
        takes_over in any::<bool>(),
        weights in proptest::option::of((0..100u32, 0..100u32)),
        configured in proptest::option::of((0..3u32, 0..=100u32, 0..=100u32)),
    ) -> Settings {
        use Preference::{Distance, Off, Priority, PriorityThenDistance};
        let pattern = crate::LocalityPattern::parse;
        let distribute = weights.map(|(west, east)| Distribution {
            from: pattern("us-west/*"),
            to: vec![(pattern("us-west/us-west-1a"), west), (pattern("us-east"), east)],
        });
        let detection = configured.map(|(consecutive_5xx, max_ejection_percent, min_health_percent)| {
            let policy = OutlierPolicy { consecutive_5xx, max_ejection_percent, min_health_percent, ..OutlierPolicy::default() };
            Detection::Configured(crate::Detector::new(policy, EjectionCounts::default(), Instant::now()))
        });
        Settings {
            algorithm: ALGORITHMS[algorithm],
            warmup: warm.then_some(Warmup { duration: SECOND, minimum_percent: 10.0, aggression: 1.0 }),
            locality: LocalityPolicy {
                preference: [Off, Distance, Priority, PriorityThenDistance][preference],
                failover: if takes_over { vec![("us-west".into(), "us-east".into())] } else { vec![] },
                distribute: distribute.into_iter().collect(),
            },
            detection: detection.unwrap_or_default(),
        }
    }
}

proptest! {
    /// With any settings, after any sequence of picks and outcomes: a picked endpoint is ready and has a weight; with the
    /// default detection there is a pick whenever there is such an endpoint that the caller's shares include; shares add
    /// up; no dropped pick counts as in progress; and no active ejection remains counted.
    #[test]
    fn every_pick_is_a_ready_endpoint_with_weight(
        settings in any_settings(),
        endpoints in proptest::collection::vec(any_endpoint(), 0..8),
        steps in proptest::collection::vec((any::<u64>(), 0..6u8, 0..3000u64), 1..60),
    ) {
        let endpoints: Vec<_> = endpoints
            .into_iter()
            .enumerate()
            .map(|(i, endpoint)| Endpoint { id: i.to_string().into(), ..endpoint })
            .collect();
        let counts = EjectionCounts::default();
        let mut balancer = with(Algorithm::LeastRequest, vec![]);
        balancer.set_counts(counts.clone());
        let default = matches!(settings.detection, Detection::Default(_));
        let all = settings.locality.distribute.is_empty() || settings.locality.takes_over() || settings.locality.preference == Preference::Off;
        balancer.set_settings(settings);
        balancer.update(endpoints.clone());
        let included = |e: &Endpoint<()>| all || e.locality.zone != WEST_B.1.into();
        let usable = endpoints.iter().filter(|e| e.health == Health::Ready && e.weight > 0 && included(e)).count();
        let mut now = Instant::now();
        let mut previous: Vec<Arc<str>> = Vec::new();
        for (random, outcome, millis) in steps {
            now += Duration::from_millis(millis);
            let shares: u32 = balancer.tiers(now).iter().map(|tier| tier.share).sum();
            prop_assert!((90..=100).contains(&shares) || shares == 0, "{shares}");
            let Some(pick) = balancer.pick_by(now, &previous, (random % 2 == 0).then_some(random / 7), random) else {
                prop_assert!(usable == 0 || !default);
                continue;
            };
            let picked = &endpoints[pick.id.parse::<usize>().unwrap()];
            prop_assert!(picked.health == Health::Ready && picked.weight > 0 && included(picked));
            match outcome {
                0 => pick.report(Outcome::Success, now),
                1 => pick.report(Outcome::ConnectFailure, now),
                2 => pick.report(Outcome::GatewayError, now),
                3 => pick.report(Outcome::ServerError, now),
                4 => pick.report(Outcome::NoResponse, now),
                _ => {}
            }
            if outcome == 0 { previous.clear() } else { previous.push(pick.id.clone()) }
        }
        prop_assert!(balancer.endpoints().all(|(_, _, in_flight)| in_flight == 0));
        drop(balancer);
        prop_assert_eq!(counts.active(), 0);
    }
}
