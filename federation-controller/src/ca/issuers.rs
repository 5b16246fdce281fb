//! Who signs in clusters that sign for themselves: other primaries of the mesh.
//!
//! Each controller publishes its own intermediate beside the roots, in ConfigMap `istio-ca-root-cert` of its root namespace.
//! It is believed where a common root signed it, and only for the cluster that the remote secret names; the reader account
//! may read ConfigMaps of that one name.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use api::names::ROOT_CONFIG_MAP;
use identity::Issuer;
use kube::{Api, Client};

use super::Authorities;
use super::roots::ISSUER_KEY;
use crate::clusters::Clusters;
use crate::clusters::trouble::{self, Trouble};
use crate::objects::event::Text;
use crate::objects::records::ConfigMapObject;

/// Between looks. An intermediate changes about once a year, and its successor is published before it signs.
const LOOK: Duration = Duration::from_secs(60);
/// Between looks at a cluster of which nothing is known yet.
const FIRST_LOOKS: Duration = Duration::from_secs(2);

/// Keeps looking, until the handles' other ends are gone.
pub(super) async fn keep(clusters: Clusters, authorities: Authorities) {
    let mut changes = clusters.changes();
    let mut told: BTreeSet<Text> = BTreeSet::new();
    loop {
        changes.borrow_and_update();
        let snapshot = authorities.now();
        let others: BTreeSet<Text> =
            clusters.names().into_iter().filter(|cluster| snapshot.of(cluster).is_none()).collect();
        for gone in told.difference(&others) {
            authorities.learn((gone.clone(), None)).await;
        }
        told.retain(|cluster| others.contains(cluster));
        let mut wait = LOOK;
        for cluster in others {
            let Some(client) = clusters.client(&cluster) else { continue };
            match published(&client, authorities.root_namespace()).await {
                Ok(Some(pem)) => {
                    let issuer = Issuer::published(&cluster, pem.as_bytes(), snapshot.trust.roots(), SystemTime::now());
                    told.insert(cluster.clone());
                    authorities.learn((cluster, Some(issuer))).await;
                }
                // No controller there (yet). What was learnt before stays: an outage must not undo trust.
                Ok(None) | Err(Trouble::Missing) if told.contains(&cluster) => {}
                Ok(None) | Err(Trouble::Missing) => wait = FIRST_LOOKS,
                // A reader account of Istio's may not read it; then its peers are known by identity alone.
                Err(Trouble::Refused(_)) => {}
                Err(trouble) => {
                    tracing::debug!(%cluster, ?trouble, "who signs there cannot be read; trying again");
                    wait = wait.min(FIRST_LOOKS);
                }
            }
        }
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn published(client: &Client, root_namespace: &str) -> Result<Option<String>, Trouble> {
    let api = Api::<ConfigMapObject>::namespaced(client.clone(), root_namespace);
    let map = api.get_opt(ROOT_CONFIG_MAP).await.map_err(|e| trouble::of(&e))?;
    Ok(map.and_then(|map| map.data?.remove(ISSUER_KEY)))
}
