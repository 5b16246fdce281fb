//! Names of servers outside the mesh.

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, SanType};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;

use super::handshake::connect;
use super::*;
use crate::alpn;
use crate::outside::{Files, client_config};
use crate::provider::provider;

/// A certificate has a name only by an entry of the name's type, in full, and a wildcard stands for one label (CVE-2020-15104,
/// CVE-2022-21656, CVE-2025-66220).
#[test]
fn names_match_by_type_in_full_and_by_one_label() {
    let root_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&root_key).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(root.der(), &root_key).unwrap();
    let accepted = |certificate: SanType, expected: &str| {
        let pair = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "a.example.com");
        params.subject_alt_names = vec![certificate];
        let leaf = params.signed_by(&pair, &issuer).unwrap().der().clone();
        let key = PrivateKeyDer::try_from(pair.serialize_der()).unwrap();
        let server = ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf], key)
            .unwrap();
        let files = Files { authorities: Some(root.pem().into_bytes()), ..Files::default() };
        let client = client_config(&files, &[expected.into()], alpn::CLIENT_HTTP1).unwrap();
        connect(Arc::new(client), Arc::new(server), "a.example.com").0.is_ok()
    };
    let dns = |text: &str| SanType::DnsName(text.try_into().unwrap());
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let mail = |text: &str| SanType::Rfc822Name(text.try_into().unwrap());
    for (certificate, expected, is) in [
        (dns("a.example.com"), "a.example.com", true),
        (dns("A.example.com"), "a.example.COM", true),
        (dns("*.example.com"), "a.example.com", true),
        (dns("*.example.com"), "b.a.example.com", false),
        (dns("*.example.com"), "example.com", false),
        (dns("a.example.com\0.evil.com"), "a.example.com", false),
        (dns("spiffe://a/b"), "spiffe://a/b", false),
        (uri("a.example.com"), "a.example.com", false),
        (uri("spiffe://a/b"), "spiffe://a/b", true),
        (uri("spiffe://a/b\0c"), "spiffe://a/b", false),
        (uri("spiffe://a/bc"), "spiffe://a/b", false),
        (mail("a.example.com"), "a.example.com", false),
        (mail("spiffe://a/b"), "spiffe://a/b", false),
        // Only the subject's common name has it.
        (dns("other.example.com"), "a.example.com", false),
    ] {
        assert_eq!(accepted(certificate.clone(), expected), is, "{certificate:?} for {expected}");
    }
}
