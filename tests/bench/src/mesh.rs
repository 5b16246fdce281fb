//! A scripted control plane in this process, so that the measured sidecars are the unmodified program: they enrol with a token,
//! open a discovery stream over TLS, and receive fixed resources.
//!
//! Certificates are real: a root, and an intermediate that signs for the one cluster. Peers have certificates of the same
//! authority, from [`Mesh::certificate`].

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use fake_controller::{FakeController, Signer};
use identity::{Authority, Constraints, Identity, KeyAndRequest, SpiffeId, Trust};
use tokio::runtime::Runtime;
use wire::prost::Message;
use wire::{Kind, discovery as d, name};

/// The trust domain, and the suffix of hostnames.
pub const DOMAIN: &str = "cluster.local";
/// The one cluster.
pub const CLUSTER: &str = "bench";
/// The network of the cluster.
pub const NETWORK: &str = "net-bench";
/// The namespace of all pods.
pub const NAMESPACE: &str = "default";

/// The DNS name in the control plane's certificate. The root signs it, because the intermediate may not sign DNS names.
const SERVER: &str = "localhost";
/// The validity of certificates, longer than any scenario.
const VALIDITY: Duration = Duration::from_secs(24 * 3600);

/// The control plane. It stops when dropped.
pub struct Mesh {
    controller: FakeController,
    signer: Signer,
    authority: Arc<Authority>,
    directory: PathBuf,
    _runtime: Runtime,
}

/// Files with a certificate of the mesh.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate chain without the root, in PEM.
    pub chain: PathBuf,
    /// The private key, in PEM.
    pub key: PathBuf,
    /// The root, in PEM.
    pub root: PathBuf,
}

impl Mesh {
    /// Starts a control plane with its roots and default settings.
    pub fn start(directory: &Path) -> Result<Self> {
        let directory = directory.join("mesh");
        fs::create_dir_all(&directory)?;
        let root = Authority::self_signed_root("isthmus-bench", VALIDITY)?;
        let authority = root.intermediate_for(CLUSTER, &Constraints::default(), VALIDITY)?;
        fs::write(directory.join("root.pem"), root.roots_pem())?;
        let issuer = d::Issuer {
            cluster: CLUSTER.into(),
            public_key_sha256: authority.issuer_of(CLUSTER).public_key_sha256.to_vec().into(),
        };
        let trust = d::Trust {
            trust_domain: DOMAIN.into(),
            roots: root.roots().iter().map(|root| root.to_vec().into()).collect(),
            issuers: vec![issuer],
        };
        let settings =
            d::MeshConfig { mesh_id: "bench".into(), cluster_domain: DOMAIN.into(), ..d::MeshConfig::default() };
        let own = root.credential(&service_account("controller")?, &[SERVER], VALIDITY)?;
        let identity = Identity::new(own, Trust::new(DOMAIN, root.roots().to_vec(), [])?);

        let authority = Arc::new(authority);
        let signer = Signer::new(Arc::clone(&authority), VALIDITY);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let controller = runtime.block_on(FakeController::tls(Ipv4Addr::LOCALHOST.into(), identity, signer.clone()))?;
        let mesh = Self { controller, signer, authority, directory, _runtime: runtime };
        mesh.publish(Kind::Trust, name::MESH, &trust, &[]);
        mesh.publish(Kind::MeshConfig, name::MESH, &settings, &[]);
        Ok(mesh)
    }

    /// The discovery address for proxies.
    pub fn discovery(&self) -> String {
        format!("{SERVER}:{}", self.controller.address().port())
    }

    /// The file with the roots, as they are mounted into pods.
    pub fn root(&self) -> PathBuf {
        self.directory.join("root.pem")
    }

    /// Creates a file with a token that enrols a service account.
    pub fn token(&self, account: &str) -> Result<PathBuf> {
        let token = format!("token-of-{account}");
        let path = self.directory.join(&token);
        fs::write(&path, &token)?;
        self.signer.accept(&token, service_account(account)?);
        Ok(path)
    }

    /// Issues a certificate for a service account.
    pub fn certificate(&self, account: &str) -> Result<Certificate> {
        let made = KeyAndRequest::generate()?;
        let chain = self.authority.issue(&made.public_key()?, &service_account(account)?, VALIDITY)?;
        let [certificate, key] = ["pem", "key"].map(|kind| self.directory.join(format!("{account}.{kind}")));
        fs::write(&certificate, identity::certificates_to_pem(&chain))?;
        fs::write(&key, made.key.to_pem())?;
        Ok(Certificate { chain: certificate, key, root: self.root() })
    }

    /// Pushes a new or changed resource. `keys` are the addresses and collections that it belongs to.
    pub fn publish(&self, kind: Kind, name: &str, message: &impl Message, keys: &[&str]) {
        self.controller.resources().push(kind, name, message, keys);
    }
}

/// The identity of a service account.
pub fn service_account(account: &str) -> Result<SpiffeId> {
    SpiffeId::new(DOMAIN, NAMESPACE, account).with_context(|| format!("service account {account:?}"))
}
