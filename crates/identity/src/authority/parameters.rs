//! Fields of certificates.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, GeneralSubtree, IsCa, KeyPair,
    KeyUsagePurpose, NameConstraints, SerialNumber,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

use super::{CaError, Constraints};
use crate::CLOCK_SKEW;
use crate::credential::PrivateKey;

/// Returns the fields of a signing certificate.
pub(super) fn ca_params(
    common_name: &str,
    organization: &str,
    path_length: u8,
    constraints: Option<&Constraints>,
    validity: Duration,
    now: SystemTime,
) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.not_before = OffsetDateTime::from(now - CLOCK_SKEW);
    params.not_after = OffsetDateTime::from(now + validity);
    params.serial_number = Some(random_serial());
    if let Some(constraints) = constraints {
        for name in &constraints.dns {
            ia5(name)?;
        }
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: constraints.dns.iter().cloned().map(GeneralSubtree::DnsName).collect(),
            excluded_subtrees: vec![
                GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(Ipv4Addr::UNSPECIFIED.into(), 0)),
                GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(Ipv6Addr::UNSPECIFIED.into(), 0)),
            ],
        });
    }
    Ok(params)
}

/// Returns a serial number with 126 random bits: positive and always 16 bytes long. The CA/Browser baseline requires 64
/// random bits.
pub(super) fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

pub(super) fn private_key(pair: &KeyPair) -> PrivateKey {
    PrivateKey::new(PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.serialize_der())))
}

pub(super) fn ia5(name: &str) -> Result<rcgen::string::Ia5String, CaError> {
    name.try_into().map_err(|_| CaError::Name(name.to_owned()))
}
