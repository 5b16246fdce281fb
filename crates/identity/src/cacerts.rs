//! The `cacerts` format of Istio's plug-in CA: a signing certificate with key, chain and roots as PEM entries
//! `ca-cert.pem`, `ca-key.pem`, `root-cert.pem` and `cert-chain.pem`. The names of cert-manager (`tls.crt`, `tls.key`,
//! `ca.crt`) are accepted too.

use std::collections::BTreeMap;
use std::fmt;

const CA_CERT: &str = "ca-cert.pem";
const CA_KEY: &str = "ca-key.pem";
const ROOT_CERT: &str = "root-cert.pem";
const CERT_CHAIN: &str = "cert-chain.pem";

/// The entries of the `cacerts` format. `Debug` does not show the key.
#[derive(Clone, PartialEq, Eq)]
pub struct CaCerts {
    /// The signing certificate.
    pub ca_cert: String,
    /// The private key of the signing certificate.
    pub ca_key: String,
    /// The roots; several during a rotation.
    pub root_cert: String,
    /// The chain from the signing certificate up to the root.
    pub cert_chain: String,
}

/// Why entries are not in the `cacerts` format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaCertsError {
    /// An entry is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// An entry is not UTF-8.
    #[error("{0} is not UTF-8 text")]
    NotText(&'static str),
}

impl CaCerts {
    /// Reads the entries of a Secret.
    ///
    /// # Errors
    /// Returns an error that names the missing or invalid entry.
    pub fn from_entries<V: AsRef<[u8]>>(entries: &BTreeMap<String, V>) -> Result<Self, CaCertsError> {
        let text = |name: &'static str, other: &'static str| -> Result<String, CaCertsError> {
            let bytes = entries.get(name).or_else(|| entries.get(other)).ok_or(CaCertsError::Missing(name))?;
            String::from_utf8(bytes.as_ref().to_vec()).map_err(|_| CaCertsError::NotText(name))
        };
        Ok(CaCerts {
            ca_cert: text(CA_CERT, "tls.crt")?,
            ca_key: text(CA_KEY, "tls.key")?,
            root_cert: text(ROOT_CERT, "ca.crt")?,
            // Optional: a signing certificate directly under the root needs no chain.
            cert_chain: match text(CERT_CHAIN, CERT_CHAIN) {
                Err(CaCertsError::Missing(_)) => String::new(),
                other => other?,
            },
        })
    }

    /// Returns the entries of a Secret, or the names and contents of files.
    pub fn to_entries(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (CA_CERT.to_owned(), self.ca_cert.clone()),
            (CA_KEY.to_owned(), self.ca_key.clone()),
            (ROOT_CERT.to_owned(), self.root_cert.clone()),
            (CERT_CHAIN.to_owned(), self.cert_chain.clone()),
        ])
    }
}

impl fmt::Debug for CaCerts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaCerts").field("ca_cert", &self.ca_cert).field("ca_key", &"redacted").finish_non_exhaustive()
    }
}
