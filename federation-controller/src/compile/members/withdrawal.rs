//! The clusters whose endpoints of a service are withdrawn from all others, because their leases are over.
//!
//! A source is withdrawn only if nothing is lost by it: for each port and subset that it serves, another cluster with a lease
//! has a ready endpoint that every network can use. So a cluster never loses the last source of a service, and one of
//! unknown fate is better than none. The cluster's own proxies keep its endpoints in any case.

use std::collections::{BTreeSet, HashSet};

use wire::discovery::{Health, Subset};

use super::{Member, selects};
use crate::inventory::Inventory;
use crate::objects::Text;

/// A port of a service, of all endpoints or of a subset by its index.
type Offer = (u16, Option<usize>);

/// Returns the clusters whose endpoints are withdrawn.
pub(super) fn of(inventory: &Inventory, subsets: &[Subset], members: &[Member<'_>]) -> BTreeSet<Text> {
    let leases = inventory.leases();
    if !leases.any_expired() {
        return BTreeSet::new();
    }
    let (over, live): (Vec<&Member<'_>>, _) =
        members.iter().partition(|member| leases.is_expired(&member.cluster.info.name));
    if over.is_empty() {
        return BTreeSet::new();
    }
    let usable = live.iter().filter(|member| member.mutual_tls && !member.network.is_empty());
    let live: HashSet<Offer> = usable.flat_map(|member| offers(member, subsets)).collect();
    let sources = |member: &&&Member<'_>| offers(member, subsets).any(|offer| !live.contains(&offer));
    let last: BTreeSet<&Text> = over.iter().filter(sources).map(|member| &member.cluster.info.name).collect();
    over.iter().map(|member| &member.cluster.info.name).filter(|name| !last.contains(name)).cloned().collect()
}

/// Returns what a ready endpoint serves.
fn offers<'m>(member: &'m Member<'_>, subsets: &'m [Subset]) -> impl Iterator<Item = Offer> + 'm {
    let ports = member.ports.keys().filter(|_| member.health == Health::Ready);
    ports.flat_map(move |port| {
        let selected =
            subsets.iter().enumerate().filter(|(_, subset)| member.pod.is_some_and(|pod| selects(subset, &pod.labels)));
        [None].into_iter().chain(selected.map(|(index, _)| Some(index))).map(move |subset| (*port, subset))
    })
}
