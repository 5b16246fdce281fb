//! Claims: which API server each cluster name stands for. One API server under two names would count its endpoints twice.
//!
//! An API server is known by the uid of its namespace `kube-system`, as in the Cluster ID that Kubernetes projects agree on, and
//! by the certificate authorities that verified it: a server may send any uid, but it proves to be the same one only under the
//! same authorities. The controller's own cluster keeps its API server against every name; of remote clusters, the one whose
//! secret is the oldest. So restarts decide alike, and a cluster that is joined again under another name changes nothing.

use std::sync::Arc;

use tokio::sync::watch;

use crate::objects::Text;
use crate::objects::event::Cluster;

/// An API server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ApiServer {
    /// The uid of its namespace `kube-system`.
    pub(super) uid: String,
    /// The certificate authorities that verify it, DER.
    pub(super) authorities: Authorities,
}

/// Certificate authorities, DER; empty: those of the system.
pub(super) type Authorities = Arc<[Vec<u8>]>;

/// One link's claim.
#[derive(Clone, Debug)]
struct Claim {
    link: u64,
    rank: Rank,
    server: ApiServer,
}

/// The precedence of a cluster: the controller's own, then by age, then by name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Rank {
    remote: bool,
    joined: i64,
    cluster: Text,
}

/// The claims of all links.
#[derive(Debug, Default)]
struct Table {
    claims: Vec<Claim>,
    links: u64,
}

/// The claims of all links. Clones refer to the same claims.
#[derive(Clone, Debug)]
pub(super) struct Claims(watch::Sender<Table>);

impl Default for Claims {
    fn default() -> Self {
        Claims(watch::Sender::new(Table::default()))
    }
}

impl Claims {
    /// Adds the claim of a cluster's link. It ends when the returned value is dropped.
    pub(super) fn add(&self, cluster: &Cluster, server: ApiServer) -> Held {
        let rank = Rank { remote: !cluster.own, joined: cluster.joined, cluster: cluster.name.clone() };
        let mut link = 0;
        self.0.send_modify(|table| {
            table.links += 1;
            link = table.links;
            table.claims.push(Claim { link, rank, server });
        });
        Held { claims: self.clone(), link }
    }
}

/// A claim of a link.
#[derive(Debug)]
pub(super) struct Held {
    claims: Claims,
    link: u64,
}

impl Held {
    /// Returns the cluster that has the same API server and keeps it, if there is one.
    pub(super) fn keeper(&self) -> Option<Text> {
        self.claims.0.borrow().keeper(self.link)
    }

    /// Waits until [`Held::keeper`] is this.
    pub(super) async fn until(&self, keeper: Option<&Text>) {
        let is = |table: &Table| table.keeper(self.link).as_ref() == keeper;
        // The sender is part of `self`.
        let _ = self.claims.0.subscribe().wait_for(is).await;
    }

    /// Waits until another cluster keeps the API server.
    pub(super) async fn until_lost(&self) {
        let _ = self.claims.0.subscribe().wait_for(|table| table.keeper(self.link).is_some()).await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.claims.0.send_modify(|table| table.claims.retain(|claim| claim.link != self.link));
    }
}

impl Table {
    fn keeper(&self, link: u64) -> Option<Text> {
        let own = self.claims.iter().find(|claim| claim.link == link)?;
        let keeps = |claim: &&Claim| {
            claim.rank < own.rank
                && claim.rank.cluster != own.rank.cluster
                && claim.server.uid == own.server.uid
                // The own cluster's server is known, whatever authorities another name has for it.
                && (!claim.rank.remote || claim.server.authorities == own.server.authorities)
        };
        self.claims.iter().filter(keeps).min_by_key(|claim| &claim.rank).map(|claim| claim.rank.cluster.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(name: &str, joined: i64) -> Cluster {
        let own = name == "west";
        Cluster { name: name.into(), own, network: "".into(), server: "".into(), joined }
    }

    fn server(uid: &str, authority: u8) -> ApiServer {
        ApiServer { uid: uid.into(), authorities: vec![vec![authority]].into() }
    }

    #[test]
    fn the_own_cluster_and_then_the_oldest_secret_keep_an_api_server_in_any_order() {
        for reverse in [false, true] {
            let claims = Claims::default();
            let mut names = [("east", 10), ("again", 20), ("west", 99)];
            if reverse {
                names.reverse();
            }
            let mut held: Vec<_> = names
                .iter()
                .map(|(name, joined)| (*name, claims.add(&cluster(name, *joined), server("u", 1))))
                .collect();
            let keepers = |held: &[(&'static str, Held)]| {
                let mut keepers: Vec<_> = held.iter().map(|(name, held)| (*name, held.keeper())).collect();
                keepers.sort();
                keepers
            };
            assert_eq!(keepers(&held), [("again", Some("west".into())), ("east", Some("west".into())), ("west", None)]);
            held.retain(|(name, _)| *name != "west");
            assert_eq!(keepers(&held), [("again", Some("east".into())), ("east", None)]);
            held.retain(|(name, _)| *name != "east");
            assert_eq!(keepers(&held), [("again", None)]);
        }
    }

    #[test]
    fn a_uid_under_other_authorities_proves_nothing() {
        let claims = Claims::default();
        // The older cluster sends the uid of the newer one.
        let rogue = claims.add(&cluster("rogue", 1), server("u", 2));
        let east = claims.add(&cluster("east", 2), server("u", 1));
        assert_eq!((rogue.keeper(), east.keeper()), (None, None));
        // It excludes only itself by sending that of the own cluster.
        let west = claims.add(&cluster("west", 0), server("v", 1));
        let liar = claims.add(&cluster("liar", 1), server("v", 2));
        assert_eq!((west.keeper(), liar.keeper()), (None, Some("west".into())));
        // New credentials of a cluster are no second name.
        let renewed = claims.add(&cluster("east", 2), server("u", 1));
        assert_eq!((east.keeper(), renewed.keeper()), (None, None));
    }

    #[tokio::test]
    async fn a_link_waits_until_its_claim_is_free() {
        let claims = Claims::default();
        let first = claims.add(&cluster("east", 1), server("u", 1));
        let second = claims.add(&cluster("again", 2), server("u", 1));
        second.until_lost().await;
        let waiting = tokio::spawn(async move { second.until(None).await });
        drop(first);
        waiting.await.unwrap();
    }
}
