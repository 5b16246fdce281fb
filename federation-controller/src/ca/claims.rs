//! The record of which cluster each published intermediate belongs to: ConfigMap `isthmus-intermediates` in the root
//! namespace, from the hash of the intermediate's key to the cluster.
//!
//! Certificates are public, so any cluster can publish another cluster's. The cluster that publishes it first keeps it,
//! also after the controller restarts and reads the clusters in another order. An entry stays when its cluster leaves; to
//! give an intermediate to another cluster, delete the entry.

use std::collections::BTreeMap;

use api::names::CLAIMS_CONFIG_MAP;
use identity::{Issuer, IssuerError};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::clusters::trouble::{self, Trouble};
use crate::objects::raw::ConfigMapObject;

/// The field manager of the record in server-side apply.
const FIELD_MANAGER: &str = "isthmus-controller";
/// The number of intermediates of a cluster. One is made about once a year.
const MAX_OF_CLUSTER: usize = 8;

/// The record, with what is known of it.
pub(super) struct Claims {
    api: Api<ConfigMapObject>,
    root_namespace: String,
    known: BTreeMap<String, String>,
}

impl Claims {
    pub(super) fn new(client: Client, root_namespace: &str) -> Self {
        let api = Api::namespaced(client, root_namespace);
        Claims { api, root_namespace: root_namespace.to_owned(), known: BTreeMap::new() }
    }

    /// Returns the intermediate that a cluster publishes if it belongs to the cluster, or to none so far: then it belongs to
    /// the cluster from now on.
    ///
    /// # Errors
    /// Returns a [`Trouble`] if the record cannot be read or written. The intermediate must not be used then.
    pub(super) async fn claim(&mut self, issuer: Issuer) -> Result<Result<Issuer, IssuerError>, Trouble> {
        let key: String = issuer.public_key_sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        if self.known.get(&key).is_some_and(|holder| **holder == *issuer.cluster) {
            return Ok(Ok(issuer));
        }
        // Conflicts are read each time: they end when the record is edited.
        let current = self.api.get_opt(CLAIMS_CONFIG_MAP).await.map_err(|error| trouble::of(&error))?;
        let version = current.as_ref().and_then(|map| map.metadata.resource_version.clone());
        let mut record = current.and_then(|map| map.data).unwrap_or_default();
        let decided = decide(&mut record, key, &issuer);
        if let Ok(true) = decided {
            self.write(&record, version).await?;
        }
        self.known = record;
        Ok(decided.map(|_| issuer))
    }

    async fn write(&self, record: &BTreeMap<String, String>, version: Option<String>) -> Result<(), Trouble> {
        let mut map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": CLAIMS_CONFIG_MAP, "namespace": self.root_namespace},
            "data": record,
        });
        // A record that has changed since it was read is not overwritten.
        if let Some(version) = version {
            map["metadata"]["resourceVersion"] = json!(version);
        }
        let params = PatchParams::apply(FIELD_MANAGER).force();
        self.api.patch(CLAIMS_CONFIG_MAP, &params, &Patch::Apply(map)).await.map_err(|e| trouble::of(&e))?;
        Ok(())
    }
}

/// Decides whether an intermediate belongs to its cluster. Returns whether the record has a new entry.
fn decide(record: &mut BTreeMap<String, String>, key: String, issuer: &Issuer) -> Result<bool, IssuerError> {
    match record.get(&key) {
        Some(holder) if **holder == *issuer.cluster => Ok(false),
        Some(holder) => Err(IssuerError::Claimed { holder: holder.clone(), key: key.chars().take(8).collect() }),
        None => {
            let own = record.values().filter(|holder| ***holder == *issuer.cluster).count();
            if own >= MAX_OF_CLUSTER {
                return Err(IssuerError::TooMany(own));
            }
            record.insert(key, issuer.cluster.to_string());
            Ok(true)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_claim_is_kept_and_the_number_of_claims_is_bounded() {
        let mut record = BTreeMap::new();
        let issuer = |cluster: &str| Issuer { cluster: cluster.into(), public_key_sha256: [0; 32] };
        assert_eq!(decide(&mut record, "k".into(), &issuer("east")), Ok(true));
        assert_eq!(decide(&mut record, "k".into(), &issuer("east")), Ok(false));
        let refused = decide(&mut record, "k".into(), &issuer("aachen")).unwrap_err();
        assert!(refused.to_string().contains("belongs to cluster east"), "{refused}");
        for other in 1..MAX_OF_CLUSTER {
            assert_eq!(decide(&mut record, other.to_string(), &issuer("east")), Ok(true));
        }
        assert_eq!(decide(&mut record, "more".into(), &issuer("east")), Err(IssuerError::TooMany(MAX_OF_CLUSTER)));
        assert_eq!(decide(&mut record, "more".into(), &issuer("north")), Ok(true));
    }
}
