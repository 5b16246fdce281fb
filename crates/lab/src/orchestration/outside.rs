//! What a lab has at the edges of its mesh: an authority for certificates of gateways, and servers outside of the mesh.
//!
//! The authority's certificate and key are files in the lab's directory, so that commands issue further certificates while
//! the lab runs. Nothing in the mesh trusts the authority by itself. The servers ([`server`]) are on the bridge between
//! clusters, each with an address and a certificate of its own.

mod server;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use apiserver::certificates::{CertificateError, ClusterCa, Pair, Usage};
use install::client_error;
use serde_json::{Value, json};
pub use server::{ExternalProcessOptions, serve};

use super::state::{LabDirectory, StateError};
use crate::topology::{Cluster, Topology};

/// The directory in that of the lab. No cluster has this name.
const DIRECTORY: &str = ".edges";
const AUTHORITY: &str = "authority.pem";
const AUTHORITY_KEY: &str = "authority-key.pem";
const COMMON_NAME: &str = "lab edges CA";
/// The log of the process that serves the servers outside of the mesh.
pub const LOG: &str = ".edges/external.log";
/// Validity of certificates that the lab issues at its start: longer than any lab runs.
const VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// The authority or a certificate cannot be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum OutsideError {
    /// A certificate cannot be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A file cannot be written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The lab has no authority.
    #[error(
        "the lab has no authority for certificates of gateways\n  its topology needs a gateway or an external server: \
         docs/topology.md"
    )]
    None,
    /// A file cannot be read.
    #[error("{path}: {}", client_error::system(.source), path = .path.display())]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The certificate authority of a lab's edges.
pub struct EdgeAuthority(ClusterCa);

impl EdgeAuthority {
    /// Reads the authority of a lab.
    ///
    /// # Errors
    /// Returns [`OutsideError::None`] if the topology needs none, and another error if a file cannot be read.
    pub fn of_lab(directory: &LabDirectory) -> Result<Self, OutsideError> {
        let read = |name: &str| {
            let path = path_of(directory, name);
            std::fs::read_to_string(&path).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => OutsideError::None,
                _ => OutsideError::Io { path, source },
            })
        };
        Ok(Self(ClusterCa::restored(COMMON_NAME, &read(AUTHORITY)?, &read(AUTHORITY_KEY)?)?))
    }

    /// Issues a certificate for DNS names.
    ///
    /// # Errors
    /// Returns an error if a name is not one of DNS.
    pub fn issue(&self, usage: Usage, names: &[String], expires: SystemTime) -> Result<Pair, OutsideError> {
        Ok(self.0.leaf(usage, names, expires)?)
    }

    /// Returns the authority's certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        self.0.certificate()
    }

    /// Returns a Secret of a gateway with a certificate, and with the authority for certificates of clients.
    #[must_use]
    pub fn secret(&self, namespace: &str, name: &str, pair: &Pair) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": name, "namespace": namespace},
            "stringData": {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": self.certificate()},
        })
    }
}

/// Returns the path of the authority's certificate.
#[must_use]
pub fn authority_path(directory: &LabDirectory) -> PathBuf {
    path_of(directory, AUTHORITY)
}

fn path_of(directory: &LabDirectory, name: &str) -> PathBuf {
    directory.path().join(DIRECTORY).join(name)
}

/// Creates the authority of a new lab, and the certificates of its servers outside of the mesh, if its topology needs them.
///
/// # Errors
/// Returns an error if the system has no random numbers, or a file cannot be written.
pub fn create(directory: &LabDirectory, topology: &Topology) -> Result<(), OutsideError> {
    if !topology.has_edges() {
        return Ok(());
    }
    let authority = ClusterCa::named(COMMON_NAME)?;
    let write = |name: &str, text: &str| directory.write(&format!("{DIRECTORY}/{name}"), text.as_bytes());
    write(AUTHORITY, authority.certificate())?;
    write(AUTHORITY_KEY, &authority.key())?;
    for server in &topology.external {
        let pair = authority.leaf(Usage::Server, std::slice::from_ref(&server.host), SystemTime::now() + VALIDITY)?;
        write(&certificate_of(&server.host), &pair.certificate)?;
        write(&key_of(&server.host), &pair.key)?;
    }
    Ok(())
}

fn certificate_of(host: &str) -> String {
    format!("{host}.pem")
}

fn key_of(host: &str) -> String {
    format!("{host}-key.pem")
}

/// Returns the Secrets of a cluster's gateways: the certificates that the topology asks for, and the authority of servers
/// outside of the mesh where gateways mount it.
///
/// # Errors
/// Returns an error if the authority cannot be read.
pub fn secrets(directory: &LabDirectory, topology: &Topology, cluster: &Cluster) -> Result<Vec<Value>, OutsideError> {
    if cluster.gateways().next().is_none() {
        return Ok(Vec::new());
    }
    let authority = EdgeAuthority::of_lab(directory)?;
    let authorities = cluster.gateways().map(|(kind, gateway)| {
        Ok(json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": kind.authorities_secret(), "namespace": gateway.namespace},
            "stringData": {"ca.crt": authority.certificate()},
        }))
    });
    let certificates = topology.certificates.iter().filter(|certificate| certificate.clusters.contains(&cluster.name));
    let certificates = certificates.map(|certificate| {
        let pair = authority.issue(Usage::Server, &certificate.hosts, SystemTime::now() + VALIDITY)?;
        Ok(authority.secret(&certificate.namespace, &certificate.secret, &pair))
    });
    authorities.chain(certificates).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;

    const TOPOLOGY: &str = "apiVersion: lab.isthmus.dev/v1alpha1\nkind: Topology\nspec:\n  clusters:\n    \
                            - {name: west, role: primary, ingressGateway: true}\n  certificates:\n    \
                            - {secret: shop, hosts: [shop.example.com, '*.shop.example.com']}\n  external:\n    \
                            - host: httpbin.example.com\n";

    #[test]
    fn certificates_of_a_topology_are_secrets_of_its_gateways_and_keys_are_private() {
        let folder = tempfile::tempdir().expect("a directory");
        let directory = LabDirectory::at(folder.path().to_owned());
        let topology = Topology::parse(Path::new("t.yaml"), TOPOLOGY).unwrap_or_else(|error| panic!("{error}"));
        assert!(matches!(EdgeAuthority::of_lab(&directory), Err(OutsideError::None)));
        create(&directory, &topology).expect("files");
        let secrets = secrets(&directory, &topology, &topology.clusters[0]).expect("Secrets");
        let [mounted, secret] = secrets.as_slice() else { panic!("two Secrets: {secrets:?}") };
        assert_eq!(mounted["metadata"]["name"], "istio-ingressgateway-ca-certs");
        assert_eq!(
            (&secret["metadata"]["namespace"], &secret["metadata"]["name"]),
            (&json!("istio-system"), &json!("shop"))
        );
        let authority = std::fs::read_to_string(authority_path(&directory)).expect("the authority");
        assert_eq!(secret["stringData"]["ca.crt"], authority, "the same authority signs later");
        for private in ["authority-key.pem", "httpbin.example.com-key.pem"] {
            let mode = std::fs::metadata(path_of(&directory, private)).expect(private).permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{private}");
        }
    }

    #[test]
    fn a_topology_without_edges_has_no_authority() {
        let folder = tempfile::tempdir().expect("a directory");
        let directory = LabDirectory::at(folder.path().to_owned());
        let text =
            "apiVersion: lab.isthmus.dev/v1alpha1\nkind: Topology\nspec:\n  clusters: [{name: west, role: primary}]\n";
        let topology = Topology::parse(Path::new("t.yaml"), text).expect("a topology");
        create(&directory, &topology).expect("nothing to do");
        assert_eq!(std::fs::read_dir(folder.path()).expect("a directory").count(), 0);
    }
}
