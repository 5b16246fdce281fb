//! Tests of authorities, chains and handshakes, with real certificates and real sockets.

mod authority;
mod handshake;
mod outside;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::{Authority, Constraints, Credential, SpiffeId, Trust};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// A root with intermediates for `west` and `east`, and an unrelated root. Created once, since generating keys takes
/// time.
pub(crate) struct Mesh {
    pub(crate) root: Authority,
    pub(crate) west: Authority,
    pub(crate) east: Authority,
    pub(crate) foreign: Authority,
    pub(crate) trust: Trust,
}

pub(crate) fn mesh() -> &'static Mesh {
    static MESH: OnceLock<Mesh> = OnceLock::new();
    MESH.get_or_init(|| {
        let root = Authority::self_signed_root("mesh", 10 * YEAR).unwrap();
        let west = root.intermediate_for("west", &Constraints::default(), YEAR).unwrap();
        let east = root.intermediate_for("east", &Constraints::default(), YEAR).unwrap();
        let foreign_root = Authority::self_signed_root("mesh", 10 * YEAR).unwrap();
        let foreign = foreign_root.intermediate_for("west", &Constraints::default(), YEAR).unwrap();
        let trust = trust_of(&root, &[("west", &west), ("east", &east)]);
        Mesh { root, west, east, foreign, trust }
    })
}

pub(crate) fn trust_of(root: &Authority, clusters: &[(&str, &Authority)]) -> Trust {
    let issuers = clusters.iter().map(|(name, authority)| authority.issuer_of(name));
    Trust::new("cluster.local", root.roots().to_vec(), issuers).unwrap()
}

pub(crate) fn id(service_account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "default", service_account).unwrap()
}

pub(crate) fn credential(authority: &Authority, service_account: &str) -> Credential {
    authority.credential(&id(service_account), &[], HOUR).unwrap()
}

pub(crate) fn cluster(name: &str) -> Option<Arc<str>> {
    Some(name.into())
}
