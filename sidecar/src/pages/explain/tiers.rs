//! The tiers of a destination's endpoints, with names that say how far each is.

use std::collections::BTreeMap;

use balance::{Health, Locality};
use proxy::exchange::outbound::explain::Order;
use serde_json::{Value, json};

use super::{Mean, percent};

/// The ranks of distance: same subzone, same zone, same region, elsewhere, and elsewhere but in the region that takes over.
const DISTANCES: u32 = 5;

/// Returns the name of an order.
pub(super) fn order(order: Order) -> &'static str {
    match order {
        Order::Alike => "alike",
        Order::Distance => "distance",
        Order::Priority => "priority",
        Order::PriorityThenDistance => "priority, then distance",
        Order::Shares => "shares of localities",
    }
}

/// Returns the tiers in the order in which they are used. By distance, those without endpoints are listed too.
pub(super) fn document(endpoints: &[Mean<'_>], order: Order, own: &Locality) -> Value {
    #[derive(Default)]
    struct Tier {
        share: f64,
        endpoints: usize,
        ready: usize,
        ejected: usize,
    }
    let mut tiers: BTreeMap<(u32, String), Tier> = BTreeMap::new();
    if order == Order::Distance && !own.region.is_empty() {
        for rank in [1, 2, 3] {
            tiers.entry(named(rank, order, own)).or_default();
        }
    }
    for endpoint in endpoints {
        let tier = tiers.entry(named(endpoint.of.rank, order, own)).or_default();
        tier.share += endpoint.share;
        tier.endpoints += 1;
        tier.ready += usize::from(endpoint.of.health == Health::Ready);
        tier.ejected += usize::from(endpoint.ejected > 0);
    }
    let tiers = tiers.into_iter().map(|((_, name), tier)| {
        json!({
            "name": name,
            "percent": percent(tier.share),
            "endpoints": tier.endpoints,
            "ready": tier.ready,
            "ejected": tier.ejected,
        })
    });
    tiers.collect()
}

/// Returns the name of the tier of a rank.
pub(super) fn name(rank: u32, order: Order, own: &Locality) -> String {
    named(rank, order, own).1
}

/// Returns the position and the name of the tier of a rank. A caller without a subzone has no tier for it.
fn named(rank: u32, order: Order, own: &Locality) -> (u32, String) {
    let distance = |rank: u32| match rank {
        0 if own.subzone.is_empty() => (1, zone(own)),
        0 => (0, own.to_string()),
        1 => (1, zone(own)),
        2 => (2, own.region.to_string()),
        3 => (3, "elsewhere".to_owned()),
        _ => (4, "elsewhere, behind the region that takes over".to_owned()),
    };
    match order {
        Order::Distance if own.region.is_empty() => (0, "everywhere (this pod has no region)".to_owned()),
        Order::Distance => distance(rank),
        Order::Priority => (rank, format!("priority {rank}")),
        Order::PriorityThenDistance => {
            let (at, name) = distance(rank % DISTANCES);
            (rank - rank % DISTANCES + at, format!("priority {}, {name}", rank / DISTANCES))
        }
        Order::Alike => (0, "everywhere (localities are alike)".to_owned()),
        Order::Shares => (rank, format!("by shares of localities, rank {rank}")),
    }
}

fn zone(own: &Locality) -> String {
    Locality::new(&own.region, &own.zone, "").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_are_named_by_distance() {
        let own = Locality::new("us-west", "us-west-1a", "");
        for (rank, name) in [(0, "us-west/us-west-1a"), (1, "us-west/us-west-1a"), (2, "us-west"), (3, "elsewhere")] {
            assert_eq!(named(rank, Order::Distance, &own).1, name, "{rank}");
        }
        let rack = Locality::new("us-west", "us-west-1a", "r1");
        assert_eq!(named(0, Order::Distance, &rack), (0, "us-west/us-west-1a/r1".to_owned()));
        assert_eq!(named(7, Order::PriorityThenDistance, &own), (7, "priority 1, us-west".to_owned()));
    }

    #[test]
    fn tiers_without_endpoints_are_listed() {
        let own = Locality::new("us-west", "us-west-1a", "");
        let tiers = document(&[], Order::Distance, &own);
        let names: Vec<_> = tiers.as_array().unwrap().iter().map(|tier| tier["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["us-west/us-west-1a", "us-west", "elsewhere"]);
        assert_eq!(document(&[], Order::Alike, &own), json!([]));
    }
}
