//! Certificates of servers that administrators provide, as ingress gateways present them.

use std::net::IpAddr;
use std::time::SystemTime;

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateRevocationListDer, PrivateKeyDer};

use crate::certificate::{self, ServerFacts};
use crate::pem::certificates_from_pem;
use crate::provider::provider;

/// What is known of the certificate of a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerCertificate {
    facts: ServerFacts,
}

impl ServerCertificate {
    /// Reads a certificate chain and its private key, both PEM.
    ///
    /// # Errors
    /// Returns the reason if one of them cannot be read, or the key is not that of the first certificate.
    pub fn read(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain = certificates_from_pem(chain).map_err(|why| format!("the certificate is {why}"))?;
        let leaf = chain.first().ok_or("the certificate is not PEM: it has no section CERTIFICATE")?;
        let facts = certificate::server_facts(leaf).ok_or("the certificate is not X.509")?;
        // The reason of the parser may contain what it has read.
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "the private key is not PEM")?;
        let key = provider().key_provider.load_private_key(key);
        let key = key.map_err(|_| "the private key is of a type that is not supported: use RSA, ECDSA or Ed25519")?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| "the private key is not that of the certificate")?;
        Ok(ServerCertificate { facts })
    }

    /// Returns when the certificate expires.
    pub fn expires(&self) -> SystemTime {
        self.facts.not_after
    }

    /// Returns when the certificate begins to be valid.
    pub fn begins(&self) -> SystemTime {
        self.facts.not_before
    }

    /// Returns whether the certificate is for a host: a name, an IP address or a wildcard `*.example.com`.
    pub fn covers(&self, host: &str) -> bool {
        if let Ok(address) = host.parse::<IpAddr>() {
            return self.facts.addresses.contains(&address);
        }
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.facts.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(suffix) => parent.is_some_and(|parent| parent.eq_ignore_ascii_case(suffix)),
            None => name.eq_ignore_ascii_case(host),
        })
    }
}

/// Checks certificates that verify those of others.
///
/// # Errors
/// Returns the reason if they are not PEM, or there is none.
pub fn check_roots(pem: &[u8]) -> Result<(), String> {
    let found = certificates_from_pem(pem)?;
    match found.iter().all(|of| certificate::not_after(of).is_some()) {
        _ if found.is_empty() => Err("not PEM: there is no section CERTIFICATE".into()),
        true => Ok(()),
        false => Err("not X.509".into()),
    }
}

/// Checks lists of revoked certificates.
///
/// # Errors
/// Returns the reason if they are not PEM, or there is none.
pub fn check_revocations(pem: &[u8]) -> Result<(), String> {
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    match found {
        Ok(lists) if !lists.is_empty() => Ok(()),
        Ok(_) => Err("not PEM: there is no section X509 CRL".into()),
        Err(error) => Err(format!("not valid PEM: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_certificate_is_read_with_its_own_key_alone() {
        let (chain, key) = certificate(&["www.example.com", "*.api.example.com", "192.0.2.1"]);
        let read = ServerCertificate::read(chain.as_bytes(), key.as_bytes()).unwrap();
        for (host, expected) in [
            ("www.example.com", true),
            ("WWW.example.com", true),
            ("a.api.example.com", true),
            ("*.api.example.com", true),
            ("a.b.api.example.com", false),
            ("example.com", false),
            ("*.example.com", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
        ] {
            assert_eq!(read.covers(host), expected, "{host}");
        }
        assert!(read.begins() < read.expires());
        let (other, _) = certificate(&["www.example.com"]);
        for (chain, key, why) in [
            (other.as_bytes(), key.as_bytes(), "not that of the certificate"),
            (b"nothing", key.as_bytes(), "no section CERTIFICATE"),
            (chain.as_bytes(), b"nothing", "private key is not PEM"),
        ] {
            let error = ServerCertificate::read(chain, key).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(check_roots(chain.as_bytes()), Ok(()));
        assert!(check_roots(b"nothing").is_err() && check_revocations(chain.as_bytes()).is_err());
    }
}
