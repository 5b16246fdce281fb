//! The signing certificates of all clusters, and the trust bundle that follows from them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::names::{CACERTS_SECRET, ROOT_CONFIG_MAP, SELF_SIGNED_SECRET, cacerts_of};
use futures_util::StreamExt as _;
use identity::{Authority, CaCerts, CaError, Constraints, Issuer, IssuerError, Trust, TrustError};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde::Serialize;
use tokio::sync::{mpsc, watch as channel};

use crate::clusters::queue::{Queues, Source};
use crate::clusters::trouble::{self, Trouble};
use crate::clusters::watch::Pause;
use crate::objects::raw::SecretObject;
use crate::objects::{Text, event};

#[cfg(test)]
mod tests;

/// The lifetime of a generated root, as in Istio.
const ROOT_VALIDITY: Duration = Duration::from_secs(3650 * 24 * 3600);
/// The lifetime of a generated intermediate.
const INTERMEDIATE_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);
/// The data key that marks a generated `cacerts` Secret, as in Istio.
const GENERATED_KEY: &str = "istio-generated";
/// The type of the Secret with a self-signed root, as in Istio.
const ROOT_TYPE: &str = "istio.io/ca-root";

/// An error of a signing certificate, or of a published intermediate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The name of the Secret, or the ConfigMap with its cluster.
    pub secret: String,
    /// What is wrong and what to do.
    pub why: String,
}

/// A summary of the authority that signs for a cluster.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The first eight hexadecimal digits of the root certificate's SHA-256 hash.
    pub root: String,
    /// Whether the cluster has an intermediate, so that certificates prove the cluster.
    pub own_intermediate: bool,
    /// When the signing certificate expires; `None` if the cluster's own controller signs.
    pub not_after: Option<std::time::SystemTime>,
}

/// An immutable view of all authorities.
#[derive(Clone)]
pub struct Snapshot {
    own: Text,
    /// The authorities by cluster.
    authorities: BTreeMap<Text, Arc<Authority>>,
    /// The trust bundle.
    pub trust: Trust,
    /// The errors of signing certificates.
    pub problems: Vec<Problem>,
}

impl Snapshot {
    /// Returns the authority that signs for a cluster.
    pub fn of(&self, cluster: &str) -> Option<&Arc<Authority>> {
        self.authorities.get(cluster)
    }

    /// Returns the authority that signs for the own cluster.
    pub fn own(&self) -> &Arc<Authority> {
        &self.authorities[&self.own]
    }

    /// Returns the clusters that this controller signs for.
    pub fn clusters(&self) -> impl Iterator<Item = &Text> {
        self.authorities.keys()
    }

    /// Returns the roots in PEM, as workloads receive them.
    pub fn roots_pem(&self) -> String {
        identity::certificates_to_pem(self.trust.roots())
    }

    /// Returns the certificate that signs the controller's own in PEM.
    pub(super) fn own_signer_pem(&self) -> String {
        identity::certificates_to_pem([self.own().certificate()])
    }

    /// Returns the own cluster's intermediate in PEM; `None` if the root itself signs.
    pub(super) fn own_issuer_pem(&self) -> Option<String> {
        let own = self.own();
        (!own.is_root()).then(|| identity::certificates_to_pem([own.certificate()]))
    }

    /// Returns the trust bundle as an event.
    pub fn to_event(&self) -> event::Trust {
        event::Trust {
            serves_others: self.authorities.len() > 1,
            trust_domain: self.trust.trust_domain().into(),
            roots: self.trust.roots().iter().map(|root| bytes::Bytes::copy_from_slice(root)).collect(),
            issuers: self
                .trust
                .issuers()
                .into_iter()
                .map(|issuer| (issuer.cluster, bytes::Bytes::copy_from_slice(&issuer.public_key_sha256)))
                .collect(),
        }
    }

    /// Returns the summary of the authority that signs for a cluster.
    pub fn summary(&self, cluster: &str) -> Option<Summary> {
        let authority = self.of(cluster);
        let published = self.trust.issuers().iter().any(|issuer| *issuer.cluster == *cluster);
        if authority.is_none() && !published {
            return None;
        }
        let root = self.trust.roots().first()?;
        let hash = identity::public_key_sha256(root);
        Some(Summary {
            root: hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect(),
            own_intermediate: published,
            not_after: authority.map(|authority| authority.not_after()),
        })
    }
}

/// A cluster and the intermediate that its own controller publishes; `None` if it publishes none.
pub(super) type Learned = (Text, Option<Result<Issuer, IssuerError>>);

/// The current authorities. Clones refer to the same state.
#[derive(Clone)]
pub struct Authorities {
    now: channel::Receiver<Arc<Snapshot>>,
    learn: mpsc::Sender<Learned>,
    root_namespace: Text,
}

/// Why the own cluster has no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    /// The Secret is invalid.
    #[error("Secret {secret} is invalid: {source}")]
    Unusable {
        /// The name of the Secret.
        secret: String,
        /// What is wrong.
        source: CaError,
    },
    /// The API server refuses to read or create the Secret.
    #[error("Secret {secret} can be neither read nor created: {why}")]
    Api {
        /// The name of the Secret.
        secret: String,
        /// The reason of the API server.
        why: String,
    },
    /// The roots are not a valid trust bundle.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// Reads the own signing certificate and watches all signing certificates in the background. Creates a self-signed root
/// and an intermediate if the own cluster has none. Waits while the own API server is unreachable.
///
/// # Errors
/// Returns [`AuthoritiesError`] if the own Secret is invalid, or if the API server refuses to read or create it.
pub async fn start(
    client: Client,
    root_namespace: &str,
    own: Text,
    trust_domain: &str,
) -> Result<Authorities, AuthoritiesError> {
    let api = Api::<Secret>::namespaced(client.clone(), root_namespace);
    let authority = Authority::from_cacerts(&read_or_create(&api, &own).await?)
        .map_err(|source| AuthoritiesError::Unusable { secret: CACERTS_SECRET.to_owned(), source })?;
    let book = Book::new(own, trust_domain, authority)?;
    let (sender, now) = channel::channel(Arc::new(book.snapshot()?));
    let (learn, learned) = mpsc::channel(16);
    tokio::spawn(follow(client, root_namespace.to_owned(), book, sender, learned));
    Ok(Authorities { now, learn, root_namespace: root_namespace.into() })
}

impl Authorities {
    /// Returns the current authorities.
    pub fn now(&self) -> Arc<Snapshot> {
        Arc::clone(&self.now.borrow())
    }

    /// Returns a receiver of every change.
    pub fn changes(&self) -> channel::Receiver<Arc<Snapshot>> {
        self.now.clone()
    }

    /// Returns the root namespace, which contains the signing certificates and the published intermediates.
    pub(super) fn root_namespace(&self) -> &str {
        &self.root_namespace
    }

    /// Applies the intermediate that a cluster publishes.
    pub(super) async fn learn(&self, learned: Learned) {
        // The receiver is dropped only when the controller stops.
        let _ = self.learn.send(learned).await;
    }

    /// Creates authorities that never change, for tests.
    #[cfg(test)]
    pub(crate) fn fixed(own: &str, trust_domain: &str, authorities: Vec<(&str, Authority)>) -> Self {
        let mut authorities: BTreeMap<Text, Arc<Authority>> =
            authorities.into_iter().map(|(cluster, authority)| (cluster.into(), Arc::new(authority))).collect();
        let own_authority = authorities.remove(own).unwrap();
        let mut book = Book::new(own.into(), trust_domain, Arc::into_inner(own_authority).unwrap()).unwrap();
        book.remotes = authorities;
        let (sender, now) = channel::channel(Arc::new(book.snapshot().unwrap()));
        // Receivers see a dropped sender as the end.
        std::mem::forget(sender);
        Authorities { now, learn: mpsc::channel(1).0, root_namespace: "istio-system".into() }
    }
}

/// Reads Secret `cacerts`. If it does not exist, creates a root and an intermediate and stores both. If several
/// replicas do so at the same time, the Secret that is created first counts.
async fn read_or_create(api: &Api<Secret>, own: &str) -> Result<CaCerts, AuthoritiesError> {
    let mut pause = Pause::default();
    loop {
        let why = match api.get_opt(CACERTS_SECRET).await {
            Ok(Some(secret)) => {
                let entries = secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect();
                return CaCerts::from_entries::<Vec<u8>>(&entries)
                    .map_err(|e| AuthoritiesError::Unusable { secret: CACERTS_SECRET.to_owned(), source: e.into() });
            }
            Ok(None) => match create(api, own).await? {
                Ok(()) => continue,
                Err(why) => why,
            },
            Err(error) => match trouble::of(&error) {
                Trouble::Refused(why) => return Err(AuthoritiesError::Api { secret: CACERTS_SECRET.to_owned(), why }),
                other => other.to_string(),
            },
        };
        tracing::warn!(secret = CACERTS_SECRET, why, "cannot read the own signing certificate; trying again");
        tokio::time::sleep(pause.next().unwrap_or_default()).await;
    }
}

/// Creates a self-signed root and an intermediate, and stores both. The inner error is temporary.
async fn create(api: &Api<Secret>, own: &str) -> Result<Result<(), String>, AuthoritiesError> {
    let unusable = |source| AuthoritiesError::Unusable { secret: CACERTS_SECRET.to_owned(), source };
    tracing::warn!(
        secret = CACERTS_SECRET,
        "the Secret does not exist: creating a self-signed root. Clusters of one mesh need a common root: `isthmus ca`"
    );
    let root = Authority::self_signed_root("Isthmus", ROOT_VALIDITY).map_err(unusable)?;
    let own_authority = root.intermediate_for(own, &Constraints::default(), INTERMEDIATE_VALIDITY).map_err(unusable)?;
    let mut cacerts = own_authority.to_cacerts().to_entries();
    cacerts.insert(GENERATED_KEY.to_owned(), String::new());
    let secrets = [
        secret(SELF_SIGNED_SECRET, Some(ROOT_TYPE), root.to_cacerts().to_entries()),
        secret(CACERTS_SECRET, None, cacerts),
    ];
    for secret in secrets {
        match api.create(&PostParams::default(), &secret).await {
            Ok(_) => {}
            // Another replica was faster, or stopped halfway. The content of `cacerts` counts.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => match trouble::of(&error) {
                Trouble::Refused(why) => return Err(AuthoritiesError::Api { secret: secret.name_any(), why }),
                other => return Ok(Err(other.to_string())),
            },
        }
    }
    Ok(Ok(()))
}

fn secret(name: &str, kind: Option<&str>, entries: BTreeMap<String, String>) -> Secret {
    Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        type_: kind.map(str::to_owned),
        string_data: Some(entries),
        ..Secret::default()
    }
}

/// The signing certificates in force, and the errors of the others.
struct Book {
    own: Text,
    trust_domain: String,
    own_authority: Arc<Authority>,
    remotes: BTreeMap<Text, Arc<Authority>>,
    /// The intermediates of clusters with a controller of their own.
    published: BTreeMap<Text, Issuer>,
    problems: BTreeMap<String, String>,
}

impl Book {
    fn new(own: Text, trust_domain: &str, authority: Authority) -> Result<Self, TrustError> {
        Ok(Book {
            own,
            trust_domain: trust_domain.to_owned(),
            own_authority: Arc::new(authority),
            remotes: BTreeMap::new(),
            published: BTreeMap::new(),
            problems: BTreeMap::new(),
        })
    }

    fn snapshot(&self) -> Result<Snapshot, TrustError> {
        let mut authorities = self.remotes.clone();
        authorities.insert(self.own.clone(), Arc::clone(&self.own_authority));
        // A certificate that a root signed directly proves no cluster.
        let issuers = authorities.iter().filter(|(_, authority)| !authority.is_root());
        let mut issuers: Vec<_> = issuers.map(|(cluster, authority)| authority.issuer_of(cluster)).collect();
        for (cluster, issuer) in &self.published {
            // An intermediate that belongs to another cluster is ignored.
            let known = |i: &Issuer| i.cluster == *cluster || i.public_key_sha256 == issuer.public_key_sha256;
            if !issuers.iter().any(known) {
                issuers.push(issuer.clone());
            }
        }
        let trust = Trust::new(&self.trust_domain, self.own_authority.roots().to_vec(), issuers)?;
        let problems = self.problems.iter().map(|(secret, why)| Problem { secret: secret.clone(), why: why.clone() });
        Ok(Snapshot { own: self.own.clone(), authorities, trust, problems: problems.collect() })
    }

    /// Returns the cluster of a Secret by the Secret's name.
    fn cluster_of(&self, name: &str) -> Option<Text> {
        if name == CACERTS_SECRET {
            return Some(self.own.clone());
        }
        let cluster = name.strip_prefix(CACERTS_SECRET)?.strip_prefix('-')?;
        (cluster != &*self.own && name == cacerts_of(cluster)).then(|| cluster.into())
    }

    /// Adds or updates a Secret. If the Secret is invalid, its last valid content stays in force.
    fn upsert(&mut self, secret: SecretObject) {
        let name = secret.name_any();
        let Some(cluster) = self.cluster_of(&name) else { return };
        let entries = secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect();
        let read = CaCerts::from_entries::<Vec<u8>>(&entries).map_err(CaError::from);
        match read.and_then(|cacerts| Authority::from_cacerts(&cacerts)) {
            Ok(authority) if cluster == self.own => {
                self.problems.remove(&name);
                self.own_authority = Arc::new(authority);
            }
            Ok(authority) => {
                let common = authority.roots().iter().any(|root| self.own_authority.roots().contains(root));
                let key = authority.issuer_of(&cluster).public_key_sha256;
                let others =
                    self.remotes.iter().filter(|(of, _)| **of != cluster).chain([(&self.own, &self.own_authority)]);
                let shared = others.filter(|(_, other)| other.issuer_of(&cluster).public_key_sha256 == key);
                let shared = shared.map(|(of, _)| of.clone()).next();
                if let Some(of) = shared {
                    let why = format!(
                        "it is the signing certificate of {of}, so it does not prove the cluster: create one of its own with `isthmus ca`"
                    );
                    self.report(name, why);
                } else if common {
                    self.problems.remove(&name);
                    self.remotes.insert(cluster, Arc::new(authority));
                } else {
                    let why =
                        "its root is not a root of the own cluster: create it under the common root with `isthmus ca`";
                    self.report(name, why.to_owned());
                }
            }
            Err(error) => self.report(name, error.to_string()),
        }
    }

    /// Applies the intermediate that a cluster publishes. Returns whether anything changed.
    fn learn(&mut self, (cluster, learned): Learned) -> bool {
        let place = format!("ConfigMap {ROOT_CONFIG_MAP} of {cluster}");
        match learned {
            Some(Ok(issuer)) if self.holder_of(&cluster, &issuer).is_some() => {
                let holder = self.holder_of(&cluster, &issuer).cloned().unwrap_or_default();
                self.report_once(
                    place,
                    format!("the published intermediate is ignored: it belongs to cluster {holder}"),
                )
            }
            Some(Ok(issuer)) => {
                let cured = self.problems.remove(&place).is_some();
                self.published.insert(cluster, issuer.clone()) != Some(issuer) || cured
            }
            Some(Err(error)) => self.report_once(place, format!("the published intermediate is not accepted: {error}")),
            None => {
                let cured = self.problems.remove(&place).is_some();
                self.published.remove(&cluster).is_some() || cured
            }
        }
    }

    /// Returns the other cluster that signs with this key. Certificates are public, so any cluster can publish another
    /// cluster's certificate: the first one keeps it.
    fn holder_of(&self, cluster: &Text, issuer: &Issuer) -> Option<&Text> {
        let signing = self.remotes.iter().chain([(&self.own, &self.own_authority)]);
        let signing = signing.map(|(of, authority)| (of, authority.issuer_of(of).public_key_sha256));
        let published = self.published.iter().map(|(of, issuer)| (of, issuer.public_key_sha256));
        let mut others = signing.chain(published).filter(|(of, _)| *of != cluster);
        others.find(|(_, key)| *key == issuer.public_key_sha256).map(|(of, _)| of)
    }

    /// Records and logs a problem, unless it is known. Returns whether it is new.
    fn report_once(&mut self, place: String, why: String) -> bool {
        let new = self.problems.get(&place) != Some(&why);
        if new {
            self.report(place, why);
        }
        new
    }

    /// Records and logs a problem.
    fn report(&mut self, secret: String, why: String) {
        tracing::error!(secret, why, "the signing certificate is not used; the last valid one stays in force");
        self.problems.insert(secret, why);
    }

    /// Removes a Secret. The own signing certificate stays in force, because the mesh cannot run without it.
    fn delete(&mut self, name: &str) {
        self.problems.remove(name);
        match self.cluster_of(name) {
            Some(cluster) if cluster == self.own => {
                self.report(
                    name.to_owned(),
                    "it is deleted; its last content stays in force until the controller restarts".to_owned(),
                );
            }
            Some(cluster) => {
                self.remotes.remove(&cluster);
            }
            None => {}
        }
    }
}

async fn follow(
    client: Client,
    root_namespace: String,
    mut book: Book,
    sender: channel::Sender<Arc<Snapshot>>,
    mut learned: mpsc::Receiver<Learned>,
) {
    let api = Api::<SecretObject>::namespaced(client, &root_namespace);
    let mut stream = watcher(api, watcher::Config::default()).backoff(Pause::default()).boxed();
    let mut listing: Option<Vec<String>> = None;
    loop {
        let changed = tokio::select! {
            item = stream.next() => match item {
                Some(item) => book.follow(item, &mut listing),
                None => return,
            },
            Some(learned) = learned.recv() => book.learn(learned),
        };
        if !changed {
            continue;
        }
        match book.snapshot() {
            Ok(snapshot) => {
                if sender.send(Arc::new(snapshot)).is_err() {
                    return;
                }
            }
            Err(error) => tracing::error!(%error, "the trust bundle is invalid; the last valid one stays in force"),
        }
    }
}

impl Book {
    /// Applies an event of the watch on Secrets. Returns whether a new snapshot is due.
    fn follow(
        &mut self,
        item: Result<watcher::Event<SecretObject>, watcher::Error>,
        listing: &mut Option<Vec<String>>,
    ) -> bool {
        match item {
            Ok(watcher::Event::Init) => {
                *listing = Some(Vec::new());
                return false;
            }
            Ok(watcher::Event::InitApply(secret)) => {
                if let Some(listing) = listing {
                    listing.push(secret.name_any());
                }
                // The snapshot follows at the end of the list.
                self.upsert(secret);
                return false;
            }
            Ok(watcher::Event::InitDone) => {
                let listed = listing.take().unwrap_or_default();
                let names = self.remotes.keys().map(|cluster| cacerts_of(cluster));
                let gone: Vec<_> = names.filter(|name| !listed.contains(name)).collect();
                gone.iter().for_each(|name| self.delete(name));
            }
            Ok(watcher::Event::Apply(secret)) => self.upsert(secret),
            Ok(watcher::Event::Delete(secret)) => self.delete(&secret.name_any()),
            Err(error) => {
                tracing::debug!(%error, "cannot watch signing certificates; trying again");
                return false;
            }
        }
        true
    }
}

/// Sends the trust bundle to the pipeline, now and at every change.
pub async fn publish_trust(authorities: Authorities, events: Queues) {
    let mut changes = authorities.changes();
    let mut sent = None;
    loop {
        let trust = changes.borrow_and_update().to_event();
        if sent.as_ref() != Some(&trust) {
            sent = Some(trust.clone());
            if events.send(Source::Controller, event::Event::Trust(trust)).await.is_err() {
                return;
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
