//! Tests of leases: tables of signals with their states, and random histories.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::lease::LeaseState::{Drained, Expired, Fresh, Stale};
use super::words::Verdict;
use super::*;
use crate::objects::Key;

const LEASE: Duration = Duration::from_secs(20);

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

fn verdicts(of: &[(&str, Verdict)]) -> BTreeMap<Text, Verdict> {
    of.iter().map(|(viewer, verdict)| (Text::from(*viewer), *verdict)).collect()
}

/// The clusters of the tests, and three proxies of west, on two nodes.
struct World {
    leases: Leases,
    link: KnownLink,
    checks: BTreeMap<u32, u64>,
}

impl World {
    fn new() -> Self {
        let mut leases = Leases::default();
        leases.set_length(LEASE);
        World { leases, link: KnownLink::Up, checks: BTreeMap::new() }
    }

    fn say(&mut self, pod: u32, failing: bool, now: SystemTime) {
        let checks = self.checks.entry(pod).or_default();
        *checks += 1;
        let checks = *checks;
        let node = format!("node-{}", pod % 2).into();
        let speaker = Speaker { cluster: "west".into(), pod: Key::new("default", &format!("p{pod}")), node };
        let word = Word { cluster: "east".into(), checks, failing };
        self.leases.hear(speaker, vec![word], now);
    }

    fn step(&mut self, now: SystemTime) -> (LeaseState, Changes) {
        let known = [Known { cluster: "east".into(), link: self.link }];
        let changes = self.leases.step(&known, now);
        (self.leases.of("east").unwrap().state(), changes)
    }

    fn run(&mut self, from: u64, to: u64, mut each: impl FnMut(&mut Self, u64)) -> LeaseState {
        let mut state = Fresh;
        for second in from..to {
            each(self, second);
            state = self.step(at(second)).0;
        }
        state
    }
}

#[test]
fn the_state_follows_from_the_signals() {
    use Verdict::{Alive, Dead, Unclear};
    let mut lease = ClusterLease::new(at(0));
    // When, the link, the last success of a proxy, the verdicts, and the state with the viewers that are drained.
    type Row = (u64, bool, Option<u64>, &'static [(&'static str, Verdict)], LeaseState, &'static [&'static str]);
    let table: &[Row] = &[
        (1, true, None, &[], Fresh, &[]),
        // The link answers: proxies alone drain nothing.
        (2, true, None, &[("west", Dead)], Fresh, &[]),
        (3, false, None, &[], Stale, &[]),
        (4, false, Some(4), &[("west", Alive)], Stale, &[]),
        (20, false, Some(15), &[("west", Unclear)], Stale, &[]),
        (21, false, Some(15), &[("west", Dead)], Drained, &["west"]),
        (22, false, Some(15), &[("west", Unclear)], Drained, &["west"]),
        (23, false, Some(23), &[("west", Unclear), ("north", Dead)], Drained, &["north", "west"]),
        (24, false, Some(24), &[("west", Alive), ("north", Dead)], Drained, &["north"]),
        (25, false, Some(24), &[], Drained, &["north"]),
        (43, false, Some(24), &[], Drained, &["north"]),
        (44, false, Some(24), &[], Expired, &["north"]),
        (60, false, Some(24), &[], Expired, &["north"]),
        // One proxy that reaches it again is proof enough to keep it.
        (61, false, Some(61), &[("north", Unclear)], Drained, &["north"]),
        (62, false, Some(62), &[("north", Alive)], Stale, &[]),
        (63, false, Some(62), &[("north", Dead)], Drained, &["north"]),
        // The link is back before the data path.
        (64, true, Some(62), &[("north", Dead)], Drained, &["north"]),
        (65, true, Some(62), &[], Fresh, &[]),
        (90, false, None, &[], Expired, &[]),
        (91, true, None, &[], Fresh, &[]),
    ];
    for (now, link, alive, verdict, state, drained) in table {
        let signals = Signals { link: *link, alive: alive.map(at), verdicts: verdicts(verdict) };
        lease.step(&signals, LEASE, at(*now));
        let found: Vec<&str> = lease.drained().iter().map(|of| &**of).collect();
        assert_eq!((lease.state(), &found[..]), (*state, *drained), "at {now}");
    }
}

#[test]
fn a_quorum_is_most_of_at_least_two_pods_on_two_nodes() {
    // The proxies by node and whether they fail, and the verdict.
    for (proxies, expected) in [
        (&[(0, true)][..], Verdict::Unclear),
        (&[(0, false)], Verdict::Alive),
        (&[(0, true), (1, true)], Verdict::Dead),
        (&[(0, true), (1, false)], Verdict::Unclear),
        (&[(0, true), (1, true), (0, false)], Verdict::Dead),
        (&[(0, true), (1, false), (2, false)], Verdict::Alive),
        (&[(0, true), (0, true), (1, true), (1, false)], Verdict::Dead),
        // All of a cluster with one node are on it.
        (&[(0, true), (0, true)], Verdict::Dead),
        // One node is cut off.
        (&[(0, true), (0, true), (1, false)], Verdict::Unclear),
        (&[(0, true), (0, true), (0, true), (1, false), (2, false)], Verdict::Unclear),
    ] {
        let mut words = Words::default();
        for (pod, (node, failing)) in proxies.iter().enumerate() {
            let (pod, node) = (Key::new("default", &format!("p{pod}")), format!("node-{node}").into());
            let word = Word { cluster: "east".into(), checks: 1, failing: *failing };
            words.hear(Speaker { cluster: "west".into(), pod, node }, vec![word], at(0));
        }
        let opinions = words.opinions("east", at(1), LEASE);
        assert_eq!(opinions[0].verdict(), expected, "{proxies:?}");
    }
}

#[test]
fn only_new_words_of_others_count_and_not_for_long() {
    let mut words = Words::default();
    let say = |words: &mut Words, cluster: &str, checks, failing, now| {
        let speaker = Speaker { cluster: cluster.into(), pod: Key::new("default", "p"), node: "n".into() };
        words.hear(speaker, vec![Word { cluster: "east".into(), checks, failing }], at(now));
    };
    say(&mut words, "east", 1, false, 0);
    assert_eq!(words.opinions("east", at(0), LEASE), [], "a cluster's proxies have no word about itself");
    say(&mut words, "west", 7, false, 0);
    assert_eq!(words.opinions("east", at(0), LEASE), [], "it is what the proxy said on an earlier stream");
    say(&mut words, "west", 8, false, 1);
    let said = |words: &Words, now| words.opinions("east", at(now), LEASE).first().map(|of| (of.alive, of.dead));
    assert_eq!(said(&words, 1), Some((1, 0)));
    say(&mut words, "west", 8, true, 15);
    assert_eq!(said(&words, 20), Some((1, 0)), "the same word again");
    assert_eq!(said(&words, 21), None, "it is too old");
    say(&mut words, "west", 2, true, 22);
    assert_eq!(said(&words, 22), Some((0, 1)), "the proxy has started again");
    words.forget(at(22 + 41), LEASE);
    assert_eq!(words.opinions("east", at(22), LEASE), []);
}

#[test]
fn a_lost_link_drains_by_the_word_of_several_and_expires_without_proof_of_life() {
    let mut world = World::new();
    assert_eq!(world.run(0, 10, |_, _| {}), Fresh);
    world.link = KnownLink::Down;
    assert_eq!(world.run(10, 12, |_, _| {}), Fresh, "a link may be back at once");
    assert_eq!(world.run(12, 40, |world, second| world.say(1, false, at(second))), Stale, "a proxy reaches it");
    world.say(0, true, at(40));
    assert_eq!(world.step(at(40)).0, Stale, "one proxy alone drains nothing");
    world.say(1, true, at(41));
    let (state, changes) = world.step(at(41));
    assert_eq!((state, changes), (Drained, Changes { expired: vec![], drained: true }));
    let drained: Vec<_> = world.leases.drained().map(|(of, viewers)| (of.clone(), viewers.count())).collect();
    assert_eq!(drained, [("east".into(), 1)]);
    assert_eq!(world.run(42, 59, |_, _| {}), Drained);
    let (state, changes) = world.step(at(59));
    assert_eq!((state, changes.expired), (Expired, vec!["east".into()]));
    assert!(world.leases.is_expired("east") && !world.leases.is_expired("west"));
    world.link = KnownLink::Up;
    let (state, changes) = world.step(at(60));
    assert_eq!((state, changes), (Fresh, Changes { expired: vec!["east".into()], drained: true }));
    let words: Vec<_> = world.leases.transitions_after(0).into_iter().map(|(_, of)| of.to.word()).collect();
    assert_eq!(words, ["stale", "drained", "expired", "fresh"]);
    let messages = world.leases.transitions_after(1);
    assert!(messages[0].1.message.contains("reached by 0 of 2 proxies of west"), "{messages:?}");
    assert_eq!(world.leases.counts()[&("east".into(), Drained)], 1);
}

#[test]
fn a_restart_and_a_suspended_process_cost_no_lease() {
    let mut world = World::new();
    world.run(0, 5, |_, _| {});
    world.link = KnownLink::Down;
    assert_eq!(world.run(5, 15, |_, _| {}), Stale);
    let saved = serde_json::to_string(&world.leases.save()).unwrap();
    // An hour later. Of the lease, 15 s are left at least, so that proxies can report.
    let mut again = World { link: KnownLink::Down, ..World::new() };
    again.leases.restore(serde_json::from_str(&saved).unwrap());
    assert_eq!(again.step(at(3_600)).0, Stale);
    assert_eq!(again.run(3_601, 3_614, |_, _| {}), Stale);
    assert_eq!(again.step(at(3_616)).0, Expired);
    let saved = serde_json::to_string(&again.leases.save()).unwrap();
    let mut again = World { link: KnownLink::Begun, ..World::new() };
    again.leases.restore(serde_json::from_str(&saved).unwrap());
    assert_eq!(again.step(at(9_000)).0, Expired, "what is over stays over");
    assert!(again.leases.transitions_after(0).is_empty());
    again.link = KnownLink::Up;
    assert_eq!(again.step(at(9_001)).0, Fresh);
    // The clock is set back.
    assert_eq!(again.step(at(100)).0, Fresh);
}

#[test]
fn the_interval_of_reports_follows_the_length() {
    let mut leases = Leases::default();
    for (length, interval) in [(300, 10_000), (86_400, 10_000), (20, 5_000), (10, 2_500), (1, 2_000)] {
        leases.set_length(Duration::from_secs(length));
        assert_eq!(leases.interval(), Duration::from_millis(interval), "{length} s");
    }
}

#[derive(Debug, Clone)]
enum Act {
    Link(bool),
    Say(u32, bool),
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        any::<bool>().prop_map(Act::Link),
        (0..4_u32, any::<bool>()).prop_map(|(pod, failing)| Act::Say(pod, failing)),
        (1..9_u64).prop_map(Act::Wait),
    ]
}

proptest! {
    #[test]
    fn a_lease_never_ends_with_proof_of_life_and_nothing_drains_while_the_link_answers(
        acts in prop::collection::vec(act(), 1..80),
    ) {
        let mut world = World::new();
        let (mut now, mut proof) = (0_u64, 0_u64);
        world.step(at(0));
        for act in acts {
            let before = world.leases.of("east").unwrap().clone();
            match act {
                Act::Link(up) => world.link = if up { KnownLink::Up } else { KnownLink::Down },
                Act::Say(pod, failing) => {
                    world.say(pod, failing, at(now));
                    let opinions = world.leases.words.opinions("east", at(now), LEASE);
                    if opinions.iter().any(|of| of.last_alive == Some(at(now))) {
                        proof = now;
                    }
                }
                Act::Wait(seconds) => now += seconds,
            }
            let (state, _) = world.step(at(now));
            if world.link == KnownLink::Up {
                proof = now;
                prop_assert!(state == Fresh || (state == Drained && before.state() != Fresh));
            }
            let lease = world.leases.of("east").unwrap();
            let age = Duration::from_secs(now - proof);
            prop_assert!(state != Expired || age >= LEASE, "expired after {age:?}");
            prop_assert!(lease.left(LEASE, at(now)) <= LEASE);
            prop_assert_eq!(state == Drained, !lease.drained().is_empty() && state != Expired);
        }
        world.link = KnownLink::Up;
        // The words of before are forgotten, or those who said them reach the cluster again.
        let end = now + 61;
        for second in now..end {
            world.step(at(second));
        }
        prop_assert_eq!(world.leases.of("east").unwrap().state(), Fresh);
    }
}
