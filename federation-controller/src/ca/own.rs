//! The controller's own certificate. The own cluster's authority issues it in this process; it is renewed after half of
//! its lifetime and whenever the authority changes.

use std::time::{Duration, SystemTime};

use identity::{CaError, Identity, SpiffeId};

use super::Authorities;
use super::authorities::Snapshot;

/// The lifetime of each certificate.
const VALIDITY: Duration = Duration::from_secs(24 * 3600);
/// The time between attempts after signing failed.
const RETRY: Duration = Duration::from_secs(10);

/// The names in the controller's certificate.
#[derive(Debug, Clone)]
pub struct Names {
    /// The namespace of the components.
    pub namespace: String,
    /// The service account of the controller.
    pub service_account: String,
    /// The cluster domain, such as `cluster.local`.
    pub cluster_domain: String,
}

impl Names {
    /// Returns the DNS names of the controller's Services.
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

/// Issues the certificate and renews it in the background.
///
/// # Errors
/// Returns [`CaError`] if the authority cannot sign these names.
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
                tracing::info!(serial = credential.serial(), "renewed the controller's certificate");
                identity.replace_credential(credential);
                signed_by = issuer;
            }
            Err(error) => {
                tracing::error!(%error, "cannot renew the controller's certificate; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
