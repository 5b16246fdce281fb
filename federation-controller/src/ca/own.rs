//! The controller's own certificate: made by the own cluster's authority in this very process, renewed at half of its life
//! and whenever the authority changes.

use std::time::{Duration, SystemTime};

use identity::{CaError, Identity, SpiffeId};

use super::Authorities;
use super::authorities::Snapshot;

/// How long each certificate is valid.
const VALIDITY: Duration = Duration::from_secs(24 * 3600);
/// Between attempts where signing fails.
const RETRY: Duration = Duration::from_secs(10);

/// Who the controller is.
#[derive(Debug, Clone)]
pub struct Names {
    /// Namespace of the components.
    pub namespace: String,
    /// Service account of the controller.
    pub service_account: String,
    /// Cluster domain, such as `cluster.local`.
    pub cluster_domain: String,
}

impl Names {
    /// The names by which proxies, API servers and people reach it.
    fn dns(&self) -> Vec<String> {
        let mut names = Vec::new();
        for service in ["isthmus-controller", "isthmus-webhooks"] {
            let base = format!("{service}.{}.svc", self.namespace);
            names.push(format!("{base}.{}", self.cluster_domain));
            names.push(base);
        }
        names
    }

    fn credential(&self, snapshot: &Snapshot) -> Result<identity::Credential, CaError> {
        let id = SpiffeId::new(snapshot.trust.trust_domain(), &self.namespace, &self.service_account)
            .map_err(|e| CaError::Name(e.to_string()))?;
        let names = self.dns();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        snapshot.own().credential(&id, &names, VALIDITY)
    }
}

/// Makes the certificate, and keeps it fresh in the background.
///
/// # Errors
/// [`CaError`], where the authority cannot sign these names.
pub fn start(authorities: &Authorities, names: Names) -> Result<Identity, CaError> {
    let snapshot = authorities.now();
    let identity = Identity::new(names.credential(&snapshot)?, snapshot.trust.clone());
    tokio::spawn(renew(identity.clone(), authorities.clone(), names));
    Ok(identity)
}

async fn renew(identity: Identity, authorities: Authorities, names: Names) {
    let mut changes = authorities.changes();
    let mut signed_by = authorities.now().own().issuer_of("");
    loop {
        let wait = identity.credential().renew_in(SystemTime::now(), rand::random());
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(wait) => {}
        }
        let snapshot = changes.borrow_and_update().clone();
        identity.replace_trust(snapshot.trust.clone());
        let issuer = snapshot.own().issuer_of("");
        let due = identity.credential().renew_in(SystemTime::now(), 0.5).is_zero();
        if !due && issuer == signed_by {
            continue;
        }
        match names.credential(&snapshot) {
            Ok(credential) => {
                tracing::info!(serial = credential.serial(), "own certificate renewed");
                identity.replace_credential(credential);
                signed_by = issuer;
            }
            Err(error) => {
                tracing::error!(%error, "own certificate cannot be renewed");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
