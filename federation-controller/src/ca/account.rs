//! Whether a service account still exists, which is checked whenever its certificate is renewed with the old one.
//!
//! The API server of the account's cluster answers that. While it does not answer, or the controller may not ask, the last
//! known state decides: an account is believed to exist while a pod of it is known. An outage of an API server thus ends
//! no workload, and an account without pods gets no certificate. Pods of that cluster are watched with the other objects.

use std::time::Duration;

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;

use super::review::Account;
use crate::clusters::Clusters;
use crate::clusters::trouble::{self, Trouble};
use crate::inventory::Inventory;
use crate::pipeline::State;

/// The time for the answer. An API server answers in milliseconds.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Why an account gets no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// The cluster has left the mesh.
    #[error("cluster {0:?} is not part of this mesh: it has no remote secret")]
    NotJoined(String),
    /// The remote secrets have not been read yet.
    #[error("the controller starts, and does not know yet whether cluster {0:?} is part of the mesh; try again")]
    Starting(String),
    /// The account is deleted.
    #[error("service account {name} of namespace {namespace} does not exist in cluster {cluster}")]
    Gone {
        /// The cluster.
        cluster: String,
        /// The namespace.
        namespace: String,
        /// The name.
        name: String,
    },
}

/// Checks that a cluster is joined and has an account.
///
/// # Errors
/// Returns [`AccountError`] if the cluster has left or the account is gone.
pub async fn check(clusters: &Clusters, state: &State, cluster: &str, account: &Account) -> Result<(), AccountError> {
    match clusters.is_joined(cluster) {
        Some(true) => {}
        Some(false) => return Err(AccountError::NotJoined(cluster.to_owned())),
        None => return Err(AccountError::Starting(cluster.to_owned())),
    }
    let gone = || AccountError::Gone {
        cluster: cluster.to_owned(),
        namespace: account.namespace.clone(),
        name: account.name.clone(),
    };
    let client = clusters.client(cluster).ok_or_else(|| AccountError::NotJoined(cluster.to_owned()))?;
    let api = Api::<ServiceAccount>::namespaced(client, &account.namespace);
    let why = match tokio::time::timeout(LOOKUP_TIMEOUT, api.get_opt(&account.name)).await {
        Ok(Ok(Some(found))) if found.metadata.deletion_timestamp.is_none() => return Ok(()),
        Ok(Ok(_)) => return Err(gone()),
        Ok(Err(error)) => match trouble::of(&error) {
            Trouble::Missing => return Err(gone()),
            other => other.to_string(),
        },
        Err(_) => format!("no answer within {} s", LOOKUP_TIMEOUT.as_secs()),
    };
    let believed = may_have_pods(&state.inventory(), cluster, account);
    tracing::debug!(cluster, why, believed, "cannot look up a service account; its pods decide");
    if believed { Ok(()) } else { Err(gone()) }
}

/// Reports whether a pod of the account is known, or may be: while the pods of the cluster are not all known.
fn may_have_pods(inventory: &Inventory, cluster: &str, account: &Account) -> bool {
    let Some(cluster) = inventory.cluster(cluster) else { return true };
    let own = |pod: &crate::objects::Pod| {
        *pod.template.namespace == *account.namespace && *pod.template.service_account == *account.name
    };
    (!cluster.synced() && !cluster.restored) || cluster.pods().values().any(own)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::inventory::Settings;
    use crate::objects::event::{Cluster, ClusterRole, Event};
    use crate::objects::{Kind, Object, Pod, Template};

    #[test]
    fn without_an_answer_an_account_needs_a_known_pod() {
        let mut inventory = Inventory::new(Settings {
            cluster: "west".into(),
            namespace: "isthmus-system".into(),
            root_namespace: "istio-system".into(),
            cluster_domain: "cluster.local".into(),
            trust_domain: "cluster.local".into(),
        });
        let account = |name: &str| Account { namespace: "default".to_owned(), name: name.to_owned() };
        let east = || "east".into();
        let mut apply = |event| inventory.apply(event, SystemTime::now());
        apply(Event::ClusterAdded(Cluster {
            name: east(),
            own: false,
            network: "".into(),
            server: "".into(),
            joined: 0,
        }));
        for kind in Kind::watched_in(ClusterRole::Remote) {
            apply(Event::Listing { cluster: east(), kind });
            if kind == Kind::Pod {
                let template =
                    Template { namespace: "default".into(), service_account: "a".into(), ..Default::default() };
                let pod = Pod { name: "a-1".into(), template: template.into(), ..Default::default() };
                apply(Event::Upsert { cluster: east(), object: Object::Pod(pod) });
            }
            if kind != Kind::Pod {
                apply(Event::Listed { cluster: east(), kind });
            }
        }
        assert!(may_have_pods(&inventory, "east", &account("b")), "the pods are not listed yet");
        inventory.apply(Event::Listed { cluster: east(), kind: Kind::Pod }, SystemTime::now());
        assert!(may_have_pods(&inventory, "east", &account("a")));
        assert!(!may_have_pods(&inventory, "east", &account("b")));
    }
}
