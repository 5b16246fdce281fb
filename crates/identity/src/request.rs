//! Certificate requests (PKCS#10, RFC 2986): made by a workload, of which the authority uses the public key alone.
//!
//! A request may ask for anything: a name, `CA:TRUE`, key usages. None of it is looked at. What the certificate says comes
//! from who the caller proved to be; the request only proves that the caller holds the private key.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey as ParsedKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::credential::PrivateKey;

/// The longest request that is read; RSA-4096 requests have about 2 KiB.
const MAX_REQUEST: usize = 16 * 1024;
/// The least bits of an RSA key.
const MIN_RSA_BITS: usize = 2048;

/// Why a certificate request is refused. All of it is the caller's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Longer than 16 KiB.
    #[error("the certificate request has {0} bytes, at most {MAX_REQUEST} are read")]
    TooLong(usize),
    /// No PEM block `CERTIFICATE REQUEST`.
    #[error("the certificate request is not PEM: {0}")]
    Pem(String),
    /// Not a PKCS#10 structure.
    #[error("the certificate request cannot be parsed: {0}")]
    Parse(String),
    /// The request is not signed with the key that it carries.
    #[error("the certificate request is not signed with its own key: {0}")]
    Signature(String),
    /// A kind or size of key that is not accepted.
    #[error(
        "the key of the certificate request is not accepted: {0}; use ECDSA P-256, P-384 or RSA of 2048 bits or more"
    )]
    Key(String),
}

/// A public key that its holder proved to own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(pub(crate) rcgen::SubjectPublicKeyInfo);

impl PublicKey {
    /// Reads a PEM request, checks its signature and takes its public key.
    ///
    /// # Errors
    /// [`RequestError`], where the request is broken or its key is not accepted.
    pub fn from_request_pem(text: &str) -> Result<Self, RequestError> {
        if text.len() > MAX_REQUEST {
            return Err(RequestError::TooLong(text.len()));
        }
        let der = CertificateSigningRequestDer::from_pem_slice(text.as_bytes())
            .map_err(|e| RequestError::Pem(e.to_string()))?;
        Self::from_request_der(&der)
    }

    /// As [`PublicKey::from_request_pem`], of DER.
    ///
    /// # Errors
    /// [`RequestError`], where the request is broken or its key is not accepted.
    pub fn from_request_der(der: &[u8]) -> Result<Self, RequestError> {
        let (rest, request) = x509_parser::certification_request::X509CertificationRequest::from_der(der)
            .map_err(|e| RequestError::Parse(e.to_string()))?;
        if !rest.is_empty() {
            return Err(RequestError::Parse(format!("{} bytes after its end", rest.len())));
        }
        request.verify_signature().map_err(|e| RequestError::Signature(e.to_string()))?;
        Self::from_spki_der(request.certification_request_info.subject_pki.raw)
    }

    /// A bare SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`RequestError::Parse`] or [`RequestError::Key`].
    pub fn from_spki_der(der: &[u8]) -> Result<Self, RequestError> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|e| RequestError::Parse(e.to_string()))?;
        match info.parsed().map_err(|e| RequestError::Parse(e.to_string()))? {
            ParsedKey::RSA(key) if key.key_size() >= MIN_RSA_BITS => {}
            ParsedKey::RSA(key) => return Err(RequestError::Key(format!("RSA of {} bits", key.key_size()))),
            ParsedKey::EC(point) if matches!(point.key_size(), 256 | 384) => {}
            ParsedKey::EC(point) => {
                return Err(RequestError::Key(format!("elliptic curve of {} bits", point.key_size())));
            }
            _ => return Err(RequestError::Key(format!("algorithm {}", info.algorithm.algorithm))),
        }
        rcgen::SubjectPublicKeyInfo::from_der(der).map(PublicKey).map_err(|e| RequestError::Key(e.to_string()))
    }

    /// The SubjectPublicKeyInfo in DER.
    pub fn spki_der(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }
}

/// A new private key and the request for its certificate. The key stays where it was made.
#[derive(Debug)]
pub struct KeyAndRequest {
    /// The private key.
    pub key: PrivateKey,
    /// The request to send to the authority, in PEM.
    pub request_pem: String,
}

impl KeyAndRequest {
    /// Makes a P-256 key and a request that carries nothing but its public key.
    ///
    /// # Errors
    /// Where the system has no randomness.
    pub fn generate() -> Result<Self, crate::CaError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request_pem = params.serialize_request(&pair)?.pem()?;
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        Ok(KeyAndRequest { key: PrivateKey::new(der), request_pem })
    }

    /// The public key of the request.
    ///
    /// # Errors
    /// Never for a request made by [`KeyAndRequest::generate`].
    pub fn public_key(&self) -> Result<PublicKey, RequestError> {
        PublicKey::from_request_pem(&self.request_pem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, IsCa, KeyPair, SanType};

    #[test]
    fn own_request_is_accepted_and_redacted() {
        let made = KeyAndRequest::generate().unwrap();
        assert!(made.public_key().is_ok());
        let printed = format!("{made:?}");
        assert!(!printed.contains("PRIVATE") && printed.contains("redacted"), "{printed}");
    }

    #[test]
    fn wishes_are_ignored_and_bad_requests_refused() {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.subject_alt_names = vec![SanType::URI("spiffe://evil/ns/a/sa/b".try_into().unwrap())];
        let request = params.serialize_request(&pair).unwrap();
        assert!(PublicKey::from_request_der(request.der()).is_ok());

        let mut broken = request.der().to_vec();
        let last = broken.len() - 1;
        broken[last] ^= 1;
        assert!(matches!(PublicKey::from_request_der(&broken), Err(RequestError::Signature(_))));

        assert!(matches!(PublicKey::from_request_pem("nonsense"), Err(RequestError::Pem(_))));
        assert!(matches!(PublicKey::from_request_pem(&"x".repeat(20_000)), Err(RequestError::TooLong(_))));
        assert!(matches!(PublicKey::from_request_der(b"\x30\x03abc"), Err(RequestError::Parse(_))));

        let pair = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let request = CertificateParams::default().serialize_request(&pair).unwrap();
        assert!(PublicKey::from_request_der(request.der()).is_err());
    }
}
