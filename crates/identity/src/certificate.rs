//! Reading the fields of certificates that trust rests on.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::refusal::Refusal;
use crate::spiffe::SpiffeId;

/// The fields of a leaf certificate.
pub(crate) struct LeafFacts {
    pub(crate) id: SpiffeId,
    pub(crate) serial: String,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// Reads a leaf certificate. It must have exactly one URI name, which must be the SPIFFE ID of a workload.
pub(crate) fn leaf_facts(leaf: &CertificateDer<'_>) -> Result<LeafFacts, Refusal> {
    let certificate = parse(leaf)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|e| Refusal::Encoding(e.to_string()))?
        .ok_or(Refusal::NoIdentity)?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let uri = uris.next().ok_or(Refusal::NoIdentity)?;
    let more = uris.count();
    if more > 0 {
        return Err(Refusal::SeveralIdentities(more + 1));
    }
    Ok(LeafFacts {
        id: uri.parse().map_err(Refusal::BadIdentity)?,
        serial: certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        not_before: from_unix(certificate.validity().not_before.timestamp()),
        not_after: from_unix(certificate.validity().not_after.timestamp()),
    })
}

/// Returns the URI names of a certificate; none of one that cannot be read.
pub(crate) fn uri_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = parse(certificate) else { return Vec::new() };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let uri = |name: &GeneralName<'_>| if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None };
    names.filter_map(uri).collect()
}

/// The fields of a signing certificate.
pub(crate) struct CaFacts {
    pub(crate) spki: Vec<u8>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// Reads a signing certificate. Returns `None` if the certificate is not a CA.
pub(crate) fn ca_facts(certificate: &CertificateDer<'_>) -> Option<CaFacts> {
    let certificate = parse(certificate).ok()?;
    certificate.is_ca().then(|| CaFacts {
        spki: certificate.public_key().raw.to_vec(),
        not_before: from_unix(certificate.validity().not_before.timestamp()),
        not_after: from_unix(certificate.validity().not_after.timestamp()),
    })
}

/// What is read of the certificate of a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ServerFacts {
    pub(crate) names: Vec<String>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// Reads the certificate of a server. Returns `None` if it is not X.509.
pub(crate) fn server_facts(certificate: &CertificateDer<'_>) -> Option<ServerFacts> {
    let certificate = parse(certificate).ok()?;
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    let alternatives = certificate.subject_alternative_name().ok()?;
    for name in alternatives.iter().flat_map(|of| &of.value.general_names) {
        match name {
            GeneralName::DNSName(name) => names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => addresses.extend(
                <[u8; 4]>::try_from(*bytes).map(IpAddr::from).or(<[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok(),
            ),
            _ => {}
        }
    }
    Some(ServerFacts {
        names,
        addresses,
        not_before: from_unix(certificate.validity().not_before.timestamp()),
        not_after: from_unix(certificate.validity().not_after.timestamp()),
    })
}

/// Returns when a certificate expires.
pub(crate) fn not_after(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    Some(from_unix(parse(certificate).ok()?.validity().not_after.timestamp()))
}

/// Returns the SubjectPublicKeyInfo of a certificate.
pub(crate) fn spki_of(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    Some(parse(certificate).ok()?.public_key().raw.to_vec())
}

/// Returns whether issuer and subject of a certificate are the same, as in roots.
pub(crate) fn is_self_issued(certificate: &CertificateDer<'_>) -> bool {
    parse(certificate).is_ok_and(|c| c.subject().as_raw() == c.issuer().as_raw())
}

/// Calls `known` with the candidate's public key. Returns the result if that key signed the leaf.
pub(crate) fn signing_key_of<T>(
    candidate: &CertificateDer<'_>,
    leaf: &CertificateDer<'_>,
    known: impl FnOnce(&[u8]) -> Option<T>,
) -> Option<T> {
    let candidate = parse(candidate).ok()?;
    let leaf = parse(leaf).ok()?;
    if leaf.issuer().as_raw() != candidate.subject().as_raw() {
        return None;
    }
    let found = known(candidate.public_key().raw)?;
    leaf.verify_signature(Some(candidate.public_key())).ok()?;
    Some(found)
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Refusal> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok((rest, _)) => Err(Refusal::Encoding(format!("{} bytes follow the certificate", rest.len()))),
        Err(e) => Err(Refusal::Encoding(e.to_string())),
    }
}

fn from_unix(seconds: i64) -> SystemTime {
    u64::try_from(seconds).map_or(UNIX_EPOCH, |seconds| UNIX_EPOCH + Duration::from_secs(seconds))
}
