//! The certificates of the servers of gateways, read from Secrets. They are no objects of the inventory's collections, and
//! never part of the snapshot.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use identity::ServerCertificate;

/// The end of the name of a Secret with the roots of another one.
pub const ROOTS_SUFFIX: &str = "-cacert";

/// What a Secret has for the servers of gateways, all PEM.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ServerCredential {
    /// The certificate and the chain up to its root; empty: none.
    pub chain: Arc<[u8]>,
    /// The private key; empty: none.
    pub key: Arc<[u8]>,
    /// The certificates that verify those of clients; empty: none.
    pub roots: Arc<[u8]>,
    /// The revoked certificates of clients; empty: none.
    pub revocations: Arc<[u8]>,
    /// What is known of the certificate.
    pub certificate: Option<ServerCertificate>,
}

impl fmt::Debug for ServerCredential {
    /// Shows no content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCredential").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl ServerCredential {
    /// Returns whether the certificate is not valid at a time.
    pub fn expired(&self, now: SystemTime) -> bool {
        self.certificate.as_ref().is_some_and(|of| of.expires() <= now)
    }
}

/// What an attempt to read a Secret has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SecretRead {
    /// A usable one.
    Usable(ServerCredential),
    /// One that is not usable, and why. The last usable one stays in force.
    Unusable(String),
    /// There is no Secret of the name.
    Missing,
    /// The cluster does not permit reading the Secrets of the namespace. The last usable one stays in force.
    Denied(String),
}
