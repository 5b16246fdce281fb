//! Certificate requests (PKCS#10, RFC 2986), of which an authority uses only the public key.
//!
//! Names, `CA:TRUE` and key usages in a request are ignored. The content of a certificate follows from the identity
//! that the caller proved; the request only proves that the caller has the private key.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey as ParsedKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::credential::PrivateKey;

/// The size limit of a request; requests with RSA-4096 keys have about 2 KiB.
const MAX_REQUEST: usize = 16 * 1024;
/// The minimum size of an RSA key in bits.
const MIN_RSA_BITS: usize = 2048;

/// Why a certificate request is refused. All reasons are errors of the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The request exceeds the size limit.
    #[error("the certificate request has {0} bytes; the limit is {MAX_REQUEST}")]
    TooLong(usize),
    /// The text contains no PEM section `CERTIFICATE REQUEST`.
    #[error("the certificate request is not PEM: {0}")]
    Pem(String),
    /// The request is not valid PKCS#10.
    #[error("the certificate request cannot be parsed: {0}")]
    Parse(String),
    /// The signature does not match the public key of the request.
    #[error("the signature of the certificate request does not match its public key: {0}")]
    Signature(String),
    /// The type or size of the key is not supported.
    #[error(
        "the key of the certificate request is not supported: {0}; use ECDSA P-256, P-384 or RSA with 2048 bits or more"
    )]
    Key(String),
}

/// A public key whose private key the caller has proved to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(pub(crate) rcgen::SubjectPublicKeyInfo);

impl PublicKey {
    /// Reads a request in PEM, verifies its signature and returns its public key.
    ///
    /// # Errors
    /// Returns an error if the request is malformed or its key is not supported.
    pub fn from_request_pem(text: &str) -> Result<Self, RequestError> {
        if text.len() > MAX_REQUEST {
            return Err(RequestError::TooLong(text.len()));
        }
        let der = CertificateSigningRequestDer::from_pem_slice(text.as_bytes())
            .map_err(|e| RequestError::Pem(e.to_string()))?;
        Self::from_request_der(&der)
    }

    /// Reads a request in DER, verifies its signature and returns its public key.
    ///
    /// # Errors
    /// Returns an error if the request is malformed or its key is not supported.
    pub fn from_request_der(der: &[u8]) -> Result<Self, RequestError> {
        let (rest, request) = x509_parser::certification_request::X509CertificationRequest::from_der(der)
            .map_err(|e| RequestError::Parse(e.to_string()))?;
        if !rest.is_empty() {
            return Err(RequestError::Parse(format!("{} bytes follow the request", rest.len())));
        }
        request.verify_signature().map_err(|e| RequestError::Signature(e.to_string()))?;
        Self::from_spki_der(request.certification_request_info.subject_pki.raw)
    }

    /// Reads a SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    /// Returns an error if the key is malformed or not supported.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, RequestError> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|e| RequestError::Parse(e.to_string()))?;
        match info.parsed().map_err(|e| RequestError::Parse(e.to_string()))? {
            ParsedKey::RSA(key) if key.key_size() >= MIN_RSA_BITS => {}
            ParsedKey::RSA(key) => return Err(RequestError::Key(format!("RSA with {} bits", key.key_size()))),
            ParsedKey::EC(point) if matches!(point.key_size(), 256 | 384) => {}
            ParsedKey::EC(point) => {
                return Err(RequestError::Key(format!("elliptic curve with {} bits", point.key_size())));
            }
            _ => return Err(RequestError::Key(format!("algorithm {}", info.algorithm.algorithm))),
        }
        rcgen::SubjectPublicKeyInfo::from_der(der).map(PublicKey).map_err(|e| RequestError::Key(e.to_string()))
    }

    /// Returns the SubjectPublicKeyInfo in DER.
    pub fn spki_der(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }
}

/// A new private key and the request for its certificate.
#[derive(Debug)]
pub struct KeyAndRequest {
    /// The private key.
    pub key: PrivateKey,
    /// The request to send to the authority, in PEM.
    pub request_pem: String,
}

impl KeyAndRequest {
    /// Creates a P-256 key and a request that contains only the public key.
    ///
    /// # Errors
    /// Returns an error if the system provides no randomness.
    pub fn generate() -> Result<Self, crate::CaError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request_pem = params.serialize_request(&pair)?.pem()?;
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        Ok(KeyAndRequest { key: PrivateKey::new(der), request_pem })
    }

    /// Returns the public key of the request.
    ///
    /// # Errors
    /// Returns an error if the request is invalid; requests that [`KeyAndRequest::generate`] created are valid.
    pub fn public_key(&self) -> Result<PublicKey, RequestError> {
        PublicKey::from_request_pem(&self.request_pem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, IsCa, KeyPair, SanType};

    #[test]
    fn generated_requests_are_accepted_and_keys_not_shown() {
        let made = KeyAndRequest::generate().unwrap();
        assert!(made.public_key().is_ok());
        let printed = format!("{made:?}");
        assert!(!printed.contains("PRIVATE") && printed.contains("redacted"), "{printed}");
    }

    #[test]
    fn requested_fields_are_ignored_and_invalid_requests_refused() {
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
