//! Authorities in the `cacerts` format.

use std::time::{Duration, SystemTime};

use rcgen::{KeyPair, PublicKeyData as _};
use rustls_pki_types::UnixTime;

use super::{Authority, CaError};
use crate::cacerts::CaCerts;
use crate::certificate;
use crate::credential::PrivateKey;
use crate::request::KeyAndRequest;
use crate::spiffe::SpiffeId;
use crate::trust::Trust;
use crate::verify::{PeerSide, verify_chain};

impl Authority {
    /// Loads an authority from the `cacerts` format. As a self-test it signs a certificate and verifies it.
    ///
    /// # Errors
    /// Returns an error that names the invalid entry.
    pub fn from_cacerts(cacerts: &CaCerts) -> Result<Self, CaError> {
        let certificates = |entry: &'static str, text: &str| {
            crate::pem::certificates_from_pem(text.as_bytes()).map_err(|reason| CaError::Entry { entry, reason })
        };
        let mut signing = certificates("ca-cert.pem", &cacerts.ca_cert)?.into_iter();
        let certificate = signing.next().ok_or_else(|| no_certificate("ca-cert.pem"))?;
        let roots = certificates("root-cert.pem", &cacerts.root_cert)?;
        if roots.is_empty() {
            return Err(no_certificate("root-cert.pem"));
        }
        let key = PrivateKey::from_pem(cacerts.ca_key.as_bytes())
            .map_err(|e| CaError::Entry { entry: "ca-key.pem", reason: e.to_string() })?;
        let pair =
            KeyPair::try_from(key.der()).map_err(|e| CaError::Entry { entry: "ca-key.pem", reason: e.to_string() })?;
        if certificate::spki_of(&certificate).as_deref() != Some(pair.subject_public_key_info().as_slice()) {
            return Err(CaError::KeyMismatch);
        }
        // `cert-chain.pem`, and `ca-cert.pem` after the signing certificate, may contain the certificates up to the
        // root. They may repeat the signing certificate and include the root.
        let mut chain = Vec::new();
        if !roots.contains(&certificate) {
            chain.push(certificate.clone());
            for link in signing.chain(certificates("cert-chain.pem", &cacerts.cert_chain)?) {
                if !chain.contains(&link) && !roots.contains(&link) {
                    chain.push(link);
                }
            }
        }
        let issuer = rcgen::Issuer::from_ca_cert_der(&certificate, pair)
            .map_err(|e| CaError::Entry { entry: "ca-cert.pem", reason: e.to_string() })?;
        let authority = Authority::assemble(issuer, key, certificate, chain, roots)?;
        if authority.not_after <= SystemTime::now() {
            return Err(CaError::Expired);
        }
        authority.self_test()?;
        Ok(authority)
    }

    fn self_test(&self) -> Result<(), CaError> {
        let id = SpiffeId::new("self-test", "isthmus", "isthmus").expect("a valid id");
        let chain = self.issue(&KeyAndRequest::generate()?.public_key()?, &id, Duration::from_secs(60))?;
        let trust = Trust::new("self-test", self.roots.clone(), [])?;
        let (leaf, rest) = chain.split_first().expect("a chain begins with its leaf");
        verify_chain(&trust, leaf, rest, UnixTime::now(), PeerSide::Client).map_err(CaError::SelfTest)?;
        Ok(())
    }

    /// Returns the authority in the `cacerts` format, including the private key.
    pub fn to_cacerts(&self) -> CaCerts {
        CaCerts {
            ca_cert: crate::pem::certificates_to_pem([&self.certificate]),
            ca_key: self.key.to_pem(),
            root_cert: crate::pem::certificates_to_pem(&self.roots),
            cert_chain: crate::pem::certificates_to_pem(self.chain.iter().chain(&self.roots)),
        }
    }
}

fn no_certificate(entry: &'static str) -> CaError {
    CaError::Entry { entry, reason: "it contains no certificate".to_owned() }
}
