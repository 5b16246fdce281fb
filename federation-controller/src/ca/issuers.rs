//! The intermediates of clusters with a controller of their own: the other primary clusters of the mesh.
//!
//! Each controller publishes its own intermediate beside the roots, in ConfigMap `istio-ca-root-cert` of its root
//! namespace. An intermediate is accepted only if a common root signed it, and only for the cluster that the remote
//! secret names, and only if no other cluster published it before (`claims.rs`). The reader account may read ConfigMaps of that name.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use api::names::ROOT_CONFIG_MAP;
use identity::Issuer;
use kube::{Api, Client};

use super::Authorities;
use super::claims::Claims;
use super::roots::ISSUER_KEY;
use crate::clusters::Clusters;
use crate::clusters::trouble::{self, Trouble};
use crate::objects::Text;
use crate::objects::raw::ConfigMapObject;

/// Time between reads. An intermediate changes about once a year, and its successor is published before it signs.
const READ_INTERVAL: Duration = Duration::from_secs(60);
/// Time between reads of a cluster whose intermediate is not known yet, and after a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Reads the published intermediates repeatedly, until the senders of `clusters` or `authorities` are dropped.
pub(super) async fn keep(clusters: Clusters, authorities: Authorities) {
    let mut changes = clusters.changes();
    let mut known: BTreeSet<Text> = BTreeSet::new();
    let mut claims = Claims::new(clusters.own_client().clone(), authorities.root_namespace());
    loop {
        changes.borrow_and_update();
        let snapshot = authorities.now();
        let others: BTreeSet<Text> =
            clusters.names().into_iter().filter(|cluster| snapshot.of(cluster).is_none()).collect();
        for gone in known.difference(&others) {
            authorities.learn((gone.clone(), None)).await;
        }
        known.retain(|cluster| others.contains(cluster));
        let mut wait = READ_INTERVAL;
        for cluster in others {
            let Some(client) = clusters.client(&cluster) else { continue };
            match published(&client, authorities.root_namespace()).await {
                Ok(Some(pem)) => {
                    let issuer = Issuer::published(&cluster, pem.as_bytes(), snapshot.trust.roots(), SystemTime::now());
                    let decided = match issuer {
                        Ok(issuer) => claims.claim(issuer).await,
                        Err(error) => Ok(Err(error)),
                    };
                    match decided {
                        Ok(issuer) => {
                            known.insert(cluster.clone());
                            authorities.learn((cluster, Some(issuer))).await;
                        }
                        Err(trouble) => {
                            tracing::warn!(%cluster, %trouble, "cannot record whose the published intermediate is; it is not used");
                            wait = wait.min(RETRY_INTERVAL);
                        }
                    }
                }
                // The cluster has no controller, or not yet. A known intermediate stays: an outage must not undo trust.
                Ok(None) | Err(Trouble::Missing) if known.contains(&cluster) => {}
                Ok(None) | Err(Trouble::Missing) => wait = RETRY_INTERVAL,
                // Istio's reader account may not read the ConfigMap. Peers are then known by their SPIFFE ID only.
                Err(Trouble::Refused(_)) => {}
                Err(trouble) => {
                    tracing::debug!(%cluster, %trouble, "cannot read the published intermediate; trying again");
                    wait = wait.min(RETRY_INTERVAL);
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
