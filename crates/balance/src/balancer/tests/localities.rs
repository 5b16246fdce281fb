//! Tests of shares, failover and priorities of localities.

use super::*;
use crate::{Distribution, FailoverPriority, LocalityPattern, LocalityPolicy, Preference};

fn west() -> Locality {
    Locality::new("west", "a", "1")
}

/// One ready endpoint for each `name: locality, weight`.
fn endpoints(of: &[(&str, &str, u32)]) -> Vec<Endpoint<()>> {
    let locality = |text: &str| {
        let mut parts = text.split('/');
        let mut next = || parts.next().unwrap_or_default();
        Locality::new(next(), next(), next())
    };
    of.iter()
        .map(|(name, at, weight)| Endpoint {
            id: (*name).into(),
            locality: locality(at),
            priority: 0,
            weight: *weight,
            health: Health::Ready,
            target: (),
        })
        .collect()
}

fn everywhere() -> Vec<Endpoint<()>> {
    endpoints(&[
        ("near", "west/a/1", 1),
        ("zone", "west/a/2", 1),
        ("region", "west/b/1", 1),
        ("east", "east/a/1", 1),
        ("south", "south/a/1", 1),
    ])
}

fn distribution(from: &str, to: &[(&str, u32)]) -> Distribution {
    let to = to.iter().map(|(pattern, weight)| (LocalityPattern::parse(pattern), *weight)).collect();
    Distribution { from: LocalityPattern::parse(from), to }
}

fn policy(distribute: Vec<Distribution>, failover: &[(&str, &str)]) -> LocalityPolicy {
    let failover = failover.iter().map(|(from, to)| ((*from).into(), (*to).into())).collect();
    LocalityPolicy { distribute, failover, ..LocalityPolicy::default() }
}

fn with(own: Locality, locality: LocalityPolicy, endpoints: Vec<Endpoint<()>>) -> Balancer<()> {
    let mut balancer = Balancer::new(own);
    balancer.set_settings(Settings { locality, ..Settings::default() });
    balancer.update(endpoints);
    balancer
}

/// Returns the shares of traffic in percent.
fn percents(balancer: &mut Balancer<()>) -> Vec<(String, u32)> {
    let counts = shares(balancer, Instant::now(), &[]);
    let mut percents: Vec<_> = counts.into_iter().map(|(name, count)| (name, (count + 10) / 20)).collect();
    percents.sort();
    percents
}

#[track_caller]
fn assert_percents(balancer: &mut Balancer<()>, expected: &[(&str, u32)]) {
    let found = percents(balancer);
    let near = |(one, other): (&(String, u32), &(&str, u32))| one.0 == other.0 && one.1.abs_diff(other.1) <= 4;
    assert!(found.len() == expected.len() && found.iter().zip(expected).all(near), "{found:?} instead of {expected:?}");
}

fn down(mut endpoints: Vec<Endpoint<()>>, names: &[&str]) -> Vec<Endpoint<()>> {
    for endpoint in &mut endpoints {
        if names.contains(&&*endpoint.id) {
            endpoint.health = Health::Unready;
        }
    }
    endpoints
}

#[test]
fn traffic_is_distributed_by_the_weights() {
    let to = [("west/a/*", 70), ("west/b", 20), ("east", 10)];
    let mut balancer = with(west(), policy(vec![distribution("west/*", &to)], &[]), everywhere());
    // What a pattern matches shares its weight; what none matches receives nothing.
    assert_percents(&mut balancer, &[("east", 10), ("near", 35), ("region", 20), ("zone", 35)]);
    // By the weights of the endpoints, within a pattern.
    let mut balancer = with(
        west(),
        policy(vec![distribution("west", &[("*", 100)])], &[]),
        endpoints(&[("near", "west/a/1", 1), ("east", "east/a/1", 3)]),
    );
    assert_percents(&mut balancer, &[("east", 75), ("near", 25)]);
    // The first pattern that matches counts.
    let to = [("west/a/1", 60), ("*", 40)];
    let mut balancer = with(west(), policy(vec![distribution("*", &to)], &[]), everywhere());
    assert_percents(&mut balancer, &[("east", 10), ("near", 60), ("region", 10), ("south", 10), ("zone", 10)]);
}

/// Istio #22669, #35124: a `distribute` for some callers is silent on the others.
#[test]
fn a_caller_without_shares_prefers_near_endpoints() {
    let partial = policy(vec![distribution("east/*", &[("east", 50), ("west", 50)])], &[]);
    let mut balancer = with(west(), partial.clone(), everywhere());
    assert_percents(&mut balancer, &[("near", 100)]);
    let mut balancer = with(west(), partial.clone(), down(everywhere(), &["near", "zone", "region"]));
    assert_percents(&mut balancer, &[("east", 50), ("south", 50)]);
    let mut balancer = with(Locality::new("east", "a", "1"), partial, everywhere());
    assert_percents(&mut balancer, &[("east", 50), ("near", 17), ("region", 17), ("zone", 17)]);
    // With `failover` as well.
    let both = policy(vec![distribution("east/*", &[("east", 50), ("west", 50)])], &[("west", "south")]);
    let mut balancer = with(west(), both, down(everywhere(), &["near", "zone", "region"]));
    assert_percents(&mut balancer, &[("south", 100)]);
}

#[test]
fn without_failover_the_listed_localities_carry_what_others_cannot() {
    let to = [("west/a/1", 80), ("east", 20)];
    let distribute = || policy(vec![distribution("west", &to)], &[]);
    let mut balancer = with(west(), distribute(), down(everywhere(), &["near"]));
    assert_percents(&mut balancer, &[("east", 100)]);
    let mut balancer = with(west(), distribute(), down(everywhere(), &["near", "east"]));
    assert!(balancer.pick(Instant::now(), &[], 1).is_none(), "never outside of them");
    // A locality with half of its endpoints carries 70 % of its weight: 56 of 76.
    let mut half = everywhere();
    half.extend(endpoints(&[("near-2", "west/a/1", 1)]));
    let mut balancer = with(west(), distribute(), down(half, &["near-2"]));
    assert_percents(&mut balancer, &[("east", 26), ("near", 74)]);
}

/// Istio #33470: `distribute` with `failover`.
#[test]
fn with_failover_the_weight_of_a_lost_locality_goes_to_others_by_distance() {
    let to = [("west/a/1", 80), ("east", 20)];
    let both = || policy(vec![distribution("west", &to)], &[("west", "south")]);
    let mut balancer = with(west(), both(), everywhere());
    assert_percents(&mut balancer, &[("east", 20), ("near", 80)]);
    // To the nearest others, which have no weight of their own.
    let mut balancer = with(west(), both(), down(everywhere(), &["near"]));
    assert_percents(&mut balancer, &[("east", 20), ("zone", 80)]);
    let mut balancer = with(west(), both(), down(everywhere(), &["near", "zone"]));
    assert_percents(&mut balancer, &[("east", 20), ("region", 80)]);
    // Then by `failover`.
    let mut balancer = with(west(), both(), down(everywhere(), &["near", "zone", "region"]));
    assert_percents(&mut balancer, &[("east", 20), ("south", 80)]);
    // Then to those with a weight.
    let mut balancer = with(west(), both(), down(everywhere(), &["near", "zone", "region", "south"]));
    assert_percents(&mut balancer, &[("east", 100)]);
    let mut balancer = with(west(), both(), down(everywhere(), &["near", "east"]));
    assert_percents(&mut balancer, &[("zone", 100)]);
    // A part of the endpoints is lost: a part of the weight.
    let mut half = everywhere();
    half.extend(endpoints(&[("near-2", "west/a/1", 1)]));
    let mut balancer = with(west(), both(), down(half, &["near-2"]));
    assert_percents(&mut balancer, &[("east", 20), ("near", 56), ("zone", 24)]);
    let mut balancer = with(west(), both(), down(everywhere(), &["near", "zone", "region", "south", "east"]));
    assert!(balancer.pick(Instant::now(), &[], 1).is_none());
}

#[test]
fn failover_names_the_region_that_takes_over() {
    let west_is_down = || down(everywhere(), &["near", "zone", "region"]);
    let mut balancer = with(west(), policy(vec![], &[]), west_is_down());
    assert_percents(&mut balancer, &[("east", 50), ("south", 50)]);
    let mut balancer = with(west(), policy(vec![], &[("east", "west"), ("west", "south")]), west_is_down());
    assert_percents(&mut balancer, &[("south", 100)]);
    let views = balancer.tiers(Instant::now());
    assert_eq!(
        views.iter().map(|view| (view.rank, view.share)).collect::<Vec<_>>(),
        [(0, 0), (1, 0), (2, 0), (3, 100), (4, 0)]
    );
}

#[test]
fn failover_priority_ranks_endpoints_by_labels() {
    let labels = FailoverPriority::parse(["version", "stage=prod"]);
    let own = |key: &str| if key == "version" { "v1" } else { "test" };
    let ranked = |preference| {
        let of = [("a", "v1", "prod"), ("b", "v1", "test"), ("c", "v2", "prod")];
        let all = of.map(|(name, version, stage)| Endpoint {
            priority: labels.rank(own, |key| if key == "version" { version } else { stage }),
            ..endpoints(&[(name, if name == "a" { "east/a/1" } else { "west/a/1" }, 1)]).remove(0)
        });
        let locality = LocalityPolicy { preference, ..LocalityPolicy::default() };
        with(west(), locality, all.into())
    };
    let mut balancer = ranked(Preference::Priority);
    assert_percents(&mut balancer, &[("a", 100)]);
    assert_eq!(balancer.tiers(Instant::now()).iter().map(|view| view.rank).collect::<Vec<_>>(), [0, 1, 2]);
    let mut balancer = ranked(Preference::PriorityThenDistance);
    assert_eq!(balancer.tiers(Instant::now()).iter().map(|view| view.rank).collect::<Vec<_>>(), [3, 5, 10]);
    assert_percents(&mut ranked(Preference::Off), &[("a", 33), ("b", 33), ("c", 33)]);
    assert_percents(&mut ranked(Preference::Distance), &[("b", 50), ("c", 50)]);
}

#[test]
fn a_retry_leaves_the_locality_of_its_share() {
    let to = [("west/a/1", 100), ("east", 0)];
    let mut balancer = with(west(), policy(vec![distribution("west", &to)], &[]), everywhere());
    let tried: Vec<Arc<str>> = vec!["near".into()];
    assert_eq!(&*balancer.pick(Instant::now(), &tried, 1).expect("an endpoint").id, "east");
}
