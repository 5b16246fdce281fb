//! Certificates and keys of a new cluster: its CA, the API server's serving certificate, client certificates, the key
//! that signs service account tokens; and kubeconfigs.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SerialNumber,
};
use time::{Duration, OffsetDateTime};

/// Validity of certificates, longer than any lab runs.
const VALIDITY: Duration = Duration::days(365);

/// A key or certificate could not be created.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}")]
pub struct CertificateError {
    what: &'static str,
    #[source]
    source: rcgen::Error,
}

/// A certificate and its private key, in PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS#8).
    pub key: String,
}

/// The side of TLS that presents a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// The server.
    Server,
    /// The client.
    Client,
}

/// The certificate authority of one cluster. It signs the API server's certificate and client certificates.
pub struct ClusterCa {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl ClusterCa {
    /// Creates the authority of a cluster.
    pub fn generate(cluster: &str) -> Result<Self, CertificateError> {
        Self::named(&format!("{cluster} cluster CA"))
    }

    /// Creates an authority with this common name.
    pub fn named(common_name: &str) -> Result<Self, CertificateError> {
        let key = key()?;
        let params = authority_params(common_name)?;
        let certificate = params.self_signed(&key).map_err(failed("sign the cluster CA"))?.pem();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// Creates an authority again, from its common name, and its certificate and key in PEM.
    pub fn restored(common_name: &str, certificate: &str, key: &str) -> Result<Self, CertificateError> {
        let key = KeyPair::from_pem(key).map_err(failed("read the key of an authority"))?;
        Ok(Self { certificate: certificate.to_owned(), issuer: Issuer::new(authority_params(common_name)?, key) })
    }

    /// The authority's private key, in PEM (PKCS#8).
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The authority's own certificate, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Issues the API server's certificate for these DNS names and IP addresses.
    pub fn serving(&self, names: &[String]) -> Result<Pair, CertificateError> {
        self.server("kube-apiserver", names)
    }

    /// Issues a server's certificate with this common name, for these DNS names and IP addresses.
    pub fn server(&self, common_name: &str, names: &[String]) -> Result<Pair, CertificateError> {
        let mut params = params(common_name, names)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// Issues a certificate for TLS of this usage until `expires`, for these DNS names, with the first as common name.
    pub fn leaf(&self, usage: Usage, names: &[String], expires: SystemTime) -> Result<Pair, CertificateError> {
        let mut params = params(names.first().map_or("", String::as_str), names)?;
        params.not_after = expires.into();
        params.not_before = params.not_before.min(params.not_after - Duration::days(1));
        params.extended_key_usages = vec![match usage {
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        self.sign(params)
    }

    /// Issues a client certificate for a user and a group.
    pub fn client(&self, user: &str, group: &str) -> Result<Pair, CertificateError> {
        let mut params = params(user, &[])?;
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// Issues a client certificate for the cluster's administrator.
    pub fn admin(&self) -> Result<Pair, CertificateError> {
        self.client("kubernetes-admin", "system:masters")
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Pair, CertificateError> {
        let key = key()?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed("sign a certificate"))?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// Creates a private key for signing service account tokens (P-256, PKCS#8 PEM).
pub fn service_account_key() -> Result<String, CertificateError> {
    Ok(key()?.serialize_pem())
}

/// DNS names and addresses at which pods and tools in a cluster reach its API server. `services` are the cluster IPs of
/// the Service `kubernetes`.
pub fn in_cluster_names(services: &[IpAddr]) -> Vec<String> {
    const NAMES: [&str; 7] = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        "127.0.0.1",
        "::1",
    ];
    NAMES.iter().map(|name| (*name).to_owned()).chain(services.iter().map(ToString::to_string)).collect()
}

/// A kubeconfig with one cluster, one user and one context, all named `name`.
pub fn kubeconfig(name: &str, server: &str, ca: &str, client: &Pair) -> String {
    let mut text = String::from("apiVersion: v1\nkind: Config\npreferences: {}\n");
    let ca = STANDARD.encode(ca);
    let (certificate, key) = (STANDARD.encode(&client.certificate), STANDARD.encode(&client.key));
    let _ = write!(
        text,
        "clusters:\n- name: {name}\n  cluster:\n    server: {server}\n    certificate-authority-data: {ca}\n\
         users:\n- name: {name}\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n\
         contexts:\n- name: {name}\n  context:\n    cluster: {name}\n    user: {name}\ncurrent-context: {name}\n"
    );
    text
}

fn authority_params(common_name: &str) -> Result<CertificateParams, CertificateError> {
    let mut params = params(common_name, &[])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn params(common_name: &str, names: &[String]) -> Result<CertificateParams, CertificateError> {
    let mut params = CertificateParams::new(names.to_vec()).map_err(failed("read a subject alternative name"))?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = OffsetDateTime::now_utc();
    // A margin for clients whose clock is behind.
    params.not_before = now - Duration::minutes(5);
    params.not_after = now + VALIDITY;
    params.serial_number = Some(SerialNumber::from(rand::random::<u64>() >> 1));
    Ok(params)
}

fn key() -> Result<KeyPair, CertificateError> {
    KeyPair::generate().map_err(failed("generate a key"))
}

fn failed(what: &'static str) -> impl FnOnce(rcgen::Error) -> CertificateError {
    move |source| CertificateError { what, source }
}
