//! The certificate authorities of a lab's mesh: one root, and an intermediate for each cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use identity::{Authority, CaError, Constraints};

use crate::topology::{Cluster, Topology};
use install::SigningSecret;

/// How long a lab's signing certificates are valid: longer than any lab runs.
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// The root certificate of a mesh and the intermediate of each of its clusters.
pub struct MeshAuthorities {
    roots_pem: String,
    cacerts: BTreeMap<String, BTreeMap<String, String>>,
}

impl MeshAuthorities {
    /// Generates a root, and an intermediate for each cluster of `topology`.
    ///
    /// # Errors
    /// Returns an error if a certificate cannot be signed.
    pub fn generate(topology: &Topology) -> Result<Self, CaError> {
        let root = Authority::self_signed_root(&topology.mesh.trust_domain, AUTHORITY_VALIDITY)?;
        let mut cacerts = BTreeMap::new();
        for cluster in &topology.clusters {
            let own = root.intermediate_for(&cluster.name, &Constraints::default(), AUTHORITY_VALIDITY)?;
            cacerts.insert(cluster.name.clone(), own.to_cacerts().to_entries());
        }
        Ok(Self { roots_pem: root.roots_pem(), cacerts })
    }

    /// The root certificate, PEM.
    #[must_use]
    pub fn roots_pem(&self) -> &str {
        &self.roots_pem
    }

    /// The signing certificate of a cluster, PEM.
    #[must_use]
    pub fn issuer_pem_of(&self, cluster: &str) -> String {
        self.cacerts.get(cluster).and_then(|entries| entries.get("ca-cert.pem")).cloned().unwrap_or_default()
    }

    /// The signing Secrets of a primary: its own, and one for each remote cluster that it serves.
    #[must_use]
    pub fn secrets_of(&self, topology: &Topology, primary: &Cluster) -> Vec<SigningSecret> {
        let served = topology.clusters.iter().filter(|other| other.primary() == primary.name);
        served
            .map(|cluster| SigningSecret {
                name: match cluster.name == primary.name {
                    true => api::names::CACERTS_SECRET.to_owned(),
                    false => api::names::cacerts_of(&cluster.name),
                },
                entries: self.cacerts.get(&cluster.name).cloned().unwrap_or_default(),
            })
            .collect()
    }
}
