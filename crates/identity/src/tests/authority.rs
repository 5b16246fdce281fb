//! Certificates that authorities sign, and their verification.

use std::time::{Instant, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, IsCa, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::FromDer as _;

use super::*;
use crate::verify::{PeerSide, verify_chain};
use crate::{
    CaCerts, CaError, CredentialError, Issuer, IssuerError, KeyAndRequest, Peer, PublicKey, Refusal, TrustError,
    peer_of,
};

fn check(trust: &Trust, chain: &[CertificateDer<'static>], side: PeerSide) -> Result<Option<Arc<str>>, Refusal> {
    let (leaf, rest) = chain.split_first().unwrap();
    verify_chain(trust, leaf, rest, UnixTime::now(), side).map(|(_, cluster)| cluster)
}

#[test]
fn workload_certificates_have_the_specified_fields() {
    let mesh = mesh();
    let made = KeyAndRequest::generate().unwrap();
    let key = made.public_key().unwrap();
    let chain = mesh.west.issue(&key, &id("reviews"), HOUR).unwrap();
    assert_eq!(chain.len(), 2, "leaf and intermediate, no root");
    let (_, leaf) = x509_parser::certificate::X509Certificate::from_der(&chain[0]).unwrap();
    assert!(leaf.subject().as_raw().len() <= 2, "no subject");
    assert!(!leaf.is_ca());
    assert!(leaf.basic_constraints().unwrap().is_some(), "basic constraints say that it is not a CA");
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && usage.server_auth);
    assert!(leaf.subject_alternative_name().unwrap().unwrap().critical);
    let validity = leaf.validity();
    let life = validity.not_after.timestamp() - validity.not_before.timestamp();
    assert!((3600 + 119..=3600 + 121).contains(&life), "{life}");

    let again = mesh.west.issue(&key, &id("reviews"), HOUR).unwrap();
    let (_, second) = x509_parser::certificate::X509Certificate::from_der(&again[0]).unwrap();
    assert_ne!(leaf.raw_serial(), second.raw_serial(), "a renewal with the same key has a serial of its own");
    assert!(leaf.raw_serial().len() == 16);

    let credential = Credential::new(chain, &made.key).unwrap();
    assert_eq!(credential.id(), &id("reviews"));
    assert!(format!("{credential:?}").contains("redacted"));
    let other = KeyAndRequest::generate().unwrap();
    assert_eq!(Credential::new(again, &other.key), Err(CredentialError::KeyMismatch));
    assert_eq!(Credential::new(Vec::new(), &other.key), Err(CredentialError::Empty));
}

#[test]
fn renewal_is_at_half_life_with_jitter() {
    let credential = credential(&mesh().west, "reviews");
    let life = credential.not_after().duration_since(credential.not_before()).unwrap();
    let at = |jitter| credential.renew_in(credential.not_before(), jitter);
    assert_eq!(at(0.5), life.mul_f64(0.5));
    assert!(at(0.0) < at(1.0) && at(0.0) >= life.mul_f64(0.489) && at(1.0) <= life.mul_f64(0.511));
    assert_eq!(credential.renew_in(credential.not_after(), 0.5), Duration::ZERO);
    assert_eq!(credential.remaining(credential.not_after() + HOUR), Duration::ZERO);
}

#[test]
fn the_signing_intermediate_proves_the_cluster() {
    let mesh = mesh();
    let west = credential(&mesh.west, "reviews");
    let east = credential(&mesh.east, "reviews");
    assert_eq!(check(&mesh.trust, west.chain(), PeerSide::Client), Ok(cluster("west")));
    assert_eq!(check(&mesh.trust, east.chain(), PeerSide::Server), Ok(cluster("east")));
    assert_eq!(peer_of(east.chain(), &mesh.trust), Some(Peer { id: id("reviews"), cluster: cluster("east") }));

    // West's leaf with east's intermediate sent along, first or last: still west.
    let mut claims = west.chain().to_vec();
    claims.insert(1, mesh.east.certificate().clone());
    assert_eq!(check(&mesh.trust, &claims, PeerSide::Client), Ok(cluster("west")));
    assert_eq!(peer_of(&claims, &mesh.trust).unwrap().cluster, cluster("west"));
    // Only east's intermediate: no path to the root, and no cluster either.
    let stolen = [west.chain()[0].clone(), mesh.east.certificate().clone()];
    assert_eq!(check(&mesh.trust, &stolen, PeerSide::Client), Err(Refusal::UnknownIssuer));
    assert_eq!(peer_of(&stolen, &mesh.trust).unwrap().cluster, None);
    // Signed by the root itself: a valid identity of no cluster.
    let direct = credential(&mesh.root, "reviews");
    assert_eq!(check(&mesh.trust, direct.chain(), PeerSide::Client), Ok(None));
    assert_eq!(peer_of(&[], &mesh.trust), None);
}

#[test]
fn an_intermediate_with_another_clusters_name_proves_nothing() {
    // Same subject, other key, same root: a second "west".
    let mesh = mesh();
    let pretender = mesh.root.intermediate_for("west", &Constraints::default(), YEAR).unwrap();
    let leaf = credential(&pretender, "reviews");
    assert_eq!(check(&mesh.trust, leaf.chain(), PeerSide::Client), Ok(None));
    let mut both = leaf.chain().to_vec();
    both.insert(1, mesh.west.certificate().clone());
    assert_eq!(check(&mesh.trust, &both, PeerSide::Client), Ok(None));
    assert_eq!(peer_of(&both, &mesh.trust).unwrap().cluster, None);
}

#[test]
fn foreign_expired_and_malformed_certificates_are_refused() {
    let mesh = mesh();
    let good = credential(&mesh.west, "reviews");

    let foreign = credential(&mesh.foreign, "reviews");
    assert_eq!(check(&mesh.trust, foreign.chain(), PeerSide::Client), Err(Refusal::UnknownIssuer));

    let elsewhere = SpiffeId::new("other.example", "default", "reviews").unwrap();
    let other = mesh.west.credential(&elsewhere, &[], HOUR).unwrap();
    assert_eq!(
        check(&mesh.trust, other.chain(), PeerSide::Client),
        Err(Refusal::ForeignTrustDomain(elsewhere.clone()))
    );
    // Federated, but each domain only under its own roots.
    let federated = mesh.trust.federated_with("other.example", mesh.foreign.roots().to_vec()).unwrap();
    assert_eq!(check(&federated, other.chain(), PeerSide::Client), Err(Refusal::UnknownIssuer));
    let rightful = mesh.foreign.credential(&elsewhere, &[], HOUR).unwrap();
    assert_eq!(check(&federated, rightful.chain(), PeerSide::Client), Ok(None));
    assert_eq!(check(&federated, foreign.chain(), PeerSide::Client), Err(Refusal::UnknownIssuer));

    let key = KeyAndRequest::generate().unwrap().public_key().unwrap();
    let past = SystemTime::now() - 10 * HOUR;
    let old = mesh.west.issue_at(&key, &id("reviews"), &[], HOUR, past).unwrap();
    assert_eq!(check(&mesh.trust, &old, PeerSide::Client), Err(Refusal::Expired));
    let future = mesh.west.issue_at(&key, &id("reviews"), &[], HOUR, SystemTime::now() + HOUR).unwrap();
    assert_eq!(check(&mesh.trust, &future, PeerSide::Client), Err(Refusal::NotYetValid));

    assert_eq!(check(&mesh.trust, &good.chain()[..1], PeerSide::Client), Err(Refusal::UnknownIssuer));
    let intermediate = [mesh.west.certificate().clone()];
    assert_eq!(check(&mesh.trust, &intermediate, PeerSide::Client), Err(Refusal::NoIdentity));
    let garbage = [CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])];
    assert!(matches!(check(&mesh.trust, &garbage, PeerSide::Client), Err(Refusal::Encoding(_))));
    let mut trailing = good.chain().to_vec();
    trailing[0] = CertificateDer::from([trailing[0].as_ref(), b"x"].concat());
    assert!(matches!(check(&mesh.trust, &trailing, PeerSide::Client), Err(Refusal::Encoding(_))));
}

/// Signs any certificate with west's key, as the thief of an intermediate could.
fn forge(names: Vec<SanType>, change: impl FnOnce(&mut CertificateParams)) -> (Vec<CertificateDer<'static>>, KeyPair) {
    let west = mesh().west.to_cacerts();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&west.ca_cert, KeyPair::from_pem(&west.ca_key).unwrap()).unwrap();
    let pair = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    params.not_after = (SystemTime::now() + HOUR).into();
    change(&mut params);
    let leaf = params.signed_by(&pair, &issuer).unwrap().der().clone();
    (vec![leaf, mesh().west.certificate().clone()], pair)
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[test]
fn invalid_names_and_usages_are_refused() {
    let trust = &mesh().trust;
    let mine = "spiffe://cluster.local/ns/default/sa/reviews";
    let refusal = |names, change: fn(&mut CertificateParams)| {
        check(trust, &forge(names, change).0, PeerSide::Client).expect_err("accepted")
    };
    assert_eq!(refusal(vec![SanType::DnsName("reviews.svc".try_into().unwrap())], |_| ()), Refusal::NoIdentity);
    assert_eq!(refusal(Vec::new(), |_| ()), Refusal::NoIdentity);
    let two = vec![uri(mine), uri("spiffe://cluster.local/ns/default/sa/admin")];
    assert_eq!(refusal(two, |_| ()), Refusal::SeveralIdentities(2));
    assert_eq!(refusal(vec![uri(mine), uri(mine)], |_| ()), Refusal::SeveralIdentities(2));
    assert!(matches!(refusal(vec![uri("https://cluster.local/ns/a/sa/b")], |_| ()), Refusal::BadIdentity(_)));
    assert!(matches!(refusal(vec![uri("spiffe://cluster.local/ns/a/sa/b\0")], |_| ()), Refusal::BadIdentity(_)));
    assert!(matches!(refusal(vec![uri("spiffe://cluster.local/ns//sa/b")], |_| ()), Refusal::BadIdentity(_)));
    // A DNS name that west's intermediate may not sign, and an IP address.
    let outside = vec![uri(mine), SanType::DnsName("bank.example".try_into().unwrap())];
    assert!(matches!(refusal(outside, |_| ()), Refusal::Chain(_)));
    let address = vec![uri(mine), SanType::IpAddress([10, 0, 0, 1].into())];
    assert!(matches!(refusal(address, |_| ()), Refusal::Chain(_)));
    let ca: fn(&mut CertificateParams) = |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert!(matches!(refusal(vec![uri(mine)], ca), Refusal::Chain(_)));
    let server_only: fn(&mut CertificateParams) =
        |p| p.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    assert_eq!(refusal(vec![uri(mine)], server_only), Refusal::Usage);
    assert_eq!(check(trust, &forge(vec![uri(mine)], server_only).0, PeerSide::Server), Ok(cluster("west")));
}

/// Names of other types do not stand for a URI, and usages are those of the side (CVE-2022-21656, CVE-2022-21657).
#[test]
fn a_name_of_another_type_is_no_identity_and_a_certificate_is_for_the_usages_that_it_names() {
    let mine = "spiffe://cluster.local/ns/default/sa/reviews";
    let text = || mine.try_into().unwrap();
    for name in [SanType::DnsName(text()), SanType::Rfc822Name(text())] {
        for side in [PeerSide::Client, PeerSide::Server] {
            let (chain, _) = forge(vec![name.clone()], |_| ());
            assert_eq!(check(&mesh().trust, &chain, side), Err(Refusal::NoIdentity), "{name:?}");
        }
    }
    use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, CodeSigning, ServerAuth};
    for (usages, client, server) in
        [(vec![ClientAuth], true, false), (vec![ServerAuth], false, true), (vec![CodeSigning], false, false)]
    {
        let (chain, _) = forge(vec![uri(mine)], |params| params.extended_key_usages = usages.clone());
        for (side, accepted) in [(PeerSide::Client, client), (PeerSide::Server, server)] {
            let expected = if accepted { Ok(cluster("west")) } else { Err(Refusal::Usage) };
            assert_eq!(check(&mesh().trust, &chain, side), expected, "{usages:?} {side:?}");
        }
    }
}

#[test]
fn a_leaf_cannot_sign() {
    let mesh = mesh();
    // An honest leaf, whose key then signs another certificate.
    let pair = KeyPair::generate().unwrap();
    let key =
        PublicKey::from_request_der(CertificateParams::default().serialize_request(&pair).unwrap().der()).unwrap();
    let parent = mesh.west.issue(&key, &id("mallory"), HOUR).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(&parent[0], pair).unwrap();
    let child_pair = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri("spiffe://cluster.local/ns/default/sa/admin")];
    let child = params.signed_by(&child_pair, &issuer).unwrap().der().clone();
    let chain: Vec<_> = std::iter::once(child).chain(parent).collect();
    assert!(check(&mesh.trust, &chain, PeerSide::Client).is_err());
    assert_eq!(peer_of(&chain, &mesh.trust).unwrap().cluster, None);
}

#[test]
fn an_intermediate_cannot_sign_intermediates() {
    let mesh = mesh();
    let below = mesh.west.intermediate_for("east", &Constraints::default(), YEAR).unwrap();
    let leaf = credential(&below, "reviews");
    assert_eq!(leaf.chain().len(), 3);
    assert!(matches!(check(&mesh.trust, leaf.chain(), PeerSide::Client), Err(Refusal::Chain(_))), "path length");
}

#[test]
fn cacerts_are_written_and_read() {
    let mesh = mesh();
    let written = mesh.west.to_cacerts();
    let entries = written.to_entries();
    assert_eq!(entries.len(), 4);
    let read = CaCerts::from_entries(&entries).unwrap();
    assert_eq!(read, written);
    assert!(!format!("{read:?}").contains("PRIVATE"));
    let west = Authority::from_cacerts(&read).unwrap();
    assert_eq!(west.issuer_of("west"), mesh.west.issuer_of("west"));
    let leaf = credential(&west, "reviews");
    assert_eq!(check(&mesh.trust, leaf.chain(), PeerSide::Server), Ok(cluster("west")));
    let root = Authority::from_cacerts(&mesh.root.to_cacerts()).unwrap();
    assert!(root.is_root() && !west.is_root());

    // cert-manager's names.
    let renamed = std::collections::BTreeMap::from([
        ("tls.crt".to_owned(), entries["ca-cert.pem"].clone()),
        ("tls.key".to_owned(), entries["ca-key.pem"].clone()),
        ("ca.crt".to_owned(), entries["root-cert.pem"].clone()),
    ]);
    assert!(Authority::from_cacerts(&CaCerts::from_entries(&renamed).unwrap()).is_ok());
}

#[test]
fn broken_cacerts_say_what_is_wrong() {
    let mesh = mesh();
    let good = mesh.west.to_cacerts();
    let with = |change: &dyn Fn(&mut CaCerts)| {
        let mut cacerts = good.clone();
        change(&mut cacerts);
        Authority::from_cacerts(&cacerts).expect_err("accepted").to_string()
    };
    let mut entries = good.to_entries();
    entries.remove("ca-key.pem");
    assert_eq!(CaCerts::from_entries(&entries).unwrap_err().to_string(), "ca-key.pem is missing");
    assert!(with(&|c| c.ca_cert.clear()).contains("ca-cert.pem"));
    assert!(with(&|c| c.ca_key = "x".into()).contains("ca-key.pem"));
    assert!(with(&|c| c.root_cert.clear()).contains("root-cert.pem"));
    assert!(with(&|c| c.ca_key = mesh.east.to_cacerts().ca_key).contains("does not match"));
    assert!(with(&|c| c.root_cert = mesh.foreign.to_cacerts().root_cert).contains("do not verify"));
    let leaf = credential(&mesh.west, "reviews");
    assert!(with(&|c| c.ca_cert = crate::certificates_to_pem(&leaf.chain()[..1])).contains("does not match"));
    // A further root is accepted: a rotation has two roots.
    let mut rotating = good.clone();
    rotating.root_cert.push_str(&mesh.foreign.to_cacerts().root_cert);
    assert!(Authority::from_cacerts(&rotating).is_ok());

    let short = mesh.root.intermediate_for("west", &Constraints::default(), Duration::ZERO).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while short.not_after() > SystemTime::now() {
        assert!(Instant::now() < deadline, "expires at {:?}", short.not_after());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(matches!(Authority::from_cacerts(&short.to_cacerts()), Err(CaError::Expired)));
    let key = KeyAndRequest::generate().unwrap().public_key().unwrap();
    assert!(matches!(short.issue(&key, &id("a"), HOUR), Err(CaError::Expired)));
}

#[test]
fn invalid_trust_bundles_are_refused() {
    let mesh = mesh();
    assert!(matches!(Trust::new("cluster.local", Vec::new(), []), Err(TrustError::NoRoots(_))));
    assert!(matches!(Trust::new("Cluster", mesh.root.roots().to_vec(), []), Err(TrustError::Domain(_))));
    let garbage = vec![CertificateDer::from(vec![1, 2, 3])];
    assert!(matches!(Trust::new("cluster.local", garbage, []), Err(TrustError::Root { index: 0, .. })));
    assert_eq!(mesh.trust.issuers().len(), 2);
    assert_eq!(mesh.trust, trust_of(&mesh.root, &[("east", &mesh.east), ("west", &mesh.west)]));
}

#[test]
fn rsa_keys_of_plug_in_authorities_and_istio_agents_work() {
    let rsa = || KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let root_key = rsa();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&root_key).unwrap();
    let cacerts = CaCerts {
        ca_cert: root.pem(),
        ca_key: root_key.serialize_pem(),
        root_cert: root.pem(),
        cert_chain: String::new(),
    };
    let authority = Authority::from_cacerts(&cacerts).unwrap();
    let request = CertificateParams::default().serialize_request(&rsa()).unwrap();
    let key = PublicKey::from_request_pem(&request.pem().unwrap()).unwrap();
    let chain = authority.issue(&key, &id("reviews"), HOUR).unwrap();
    let trust = Trust::new("cluster.local", authority.roots().to_vec(), []).unwrap();
    assert_eq!(check(&trust, &chain, PeerSide::Client), Ok(None));
}

#[test]
fn published_intermediates_are_accepted_under_a_common_root_only() {
    let mesh = mesh();
    let pem = |certificate: &CertificateDer<'static>| crate::certificates_to_pem([certificate]).into_bytes();
    let roots = mesh.root.roots();
    let now = SystemTime::now();
    let of = |pem: &[u8], now| Issuer::published("east", pem, roots, now);
    assert_eq!(of(&pem(mesh.east.certificate()), now), Ok(mesh.east.issuer_of("east")));
    assert_eq!(of(&pem(mesh.foreign.certificate()), now), Err(IssuerError::ForeignRoot));
    assert_eq!(of(&pem(mesh.east.certificate()), now + 2 * YEAR), Err(IssuerError::NotValidNow));
    let leaf = credential(&mesh.east, "reviews");
    assert_eq!(of(&pem(&leaf.chain()[0]), now), Err(IssuerError::NoCa));
    assert_eq!(of(b"nonsense", now), Err(IssuerError::NoCertificate));
}
