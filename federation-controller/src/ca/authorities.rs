//! Who signs for which cluster.

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

use crate::clusters::trouble::{self, Trouble};
use crate::clusters::watch::Pause;
use crate::objects::event::{self, Text};
use crate::objects::records::SecretObject;

#[cfg(test)]
mod tests;

/// Life of a root made here: as Istio's.
const ROOT_VALIDITY: Duration = Duration::from_secs(3650 * 24 * 3600);
/// Life of an intermediate made here.
const INTERMEDIATE_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);
/// Data key that marks a `cacerts` Secret as made by the controller and not by a person, as Istio marks it.
const GENERATED_KEY: &str = "istio-generated";
/// Type of the Secret with a self-signed root, as Istio's.
const ROOT_TYPE: &str = "istio.io/ca-root";

/// A Secret that cannot be used to sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Its name.
    pub secret: String,
    /// What is wrong, and what stays in force.
    pub why: String,
}

/// What an authority is, as told to people.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// First eight hexadecimal digits of the root certificate's SHA-256.
    pub root: String,
    /// Whether an intermediate signs, so that certificates prove their cluster.
    pub own_intermediate: bool,
    /// When the signing certificate ends; not known where the cluster signs for itself.
    pub not_after: Option<std::time::SystemTime>,
}

/// All authorities at one moment.
#[derive(Clone)]
pub struct Snapshot {
    own: Text,
    /// By cluster.
    authorities: BTreeMap<Text, Arc<Authority>>,
    /// What they amount to for those who verify.
    pub trust: Trust,
    /// Secrets that are not used.
    pub problems: Vec<Problem>,
}

impl Snapshot {
    /// Who signs for a cluster.
    pub fn of(&self, cluster: &str) -> Option<&Arc<Authority>> {
        self.authorities.get(cluster)
    }

    /// Who signs for the own cluster.
    pub fn own(&self) -> &Arc<Authority> {
        &self.authorities[&self.own]
    }

    /// The clusters that can be signed for.
    pub fn clusters(&self) -> impl Iterator<Item = &Text> {
        self.authorities.keys()
    }

    /// The roots in PEM, as workloads get them.
    pub fn roots_pem(&self) -> String {
        identity::certificates_to_pem(self.trust.roots())
    }

    /// The own intermediate in PEM; `None` where the root itself signs.
    pub(super) fn own_issuer_pem(&self) -> Option<String> {
        let own = self.own();
        (!own.is_root()).then(|| identity::certificates_to_pem([own.certificate()]))
    }

    /// The trust bundle as the index passes it on.
    pub fn to_event(&self) -> event::Trust {
        event::Trust {
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

    /// What signs for a cluster, for status.
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

/// What another cluster's controller publishes about who signs there; `None`: nothing (any more).
pub(super) type Learned = (Text, Option<Result<Issuer, IssuerError>>);

/// The authorities as they are now. Clones are the same handle.
#[derive(Clone)]
pub struct Authorities {
    now: channel::Receiver<Arc<Snapshot>>,
    learn: mpsc::Sender<Learned>,
    root_namespace: Text,
}

/// Why there is nobody to sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    /// The own Secret cannot be used.
    #[error("Secret {secret} cannot be used: {source}")]
    Unusable {
        /// Its name.
        secret: String,
        /// What is wrong.
        source: CaError,
    },
    /// The own Secret can neither be read nor made.
    #[error("Secret {secret} can be neither read nor made: {why}")]
    Api {
        /// Its name.
        secret: String,
        /// What the API server said.
        why: String,
    },
    /// The roots make no trust bundle.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// Reads the own signing certificate, making one under a self-signed root where there is none, and follows all signing
/// certificates from then on. Waits as long as the own API server is away.
///
/// # Errors
/// [`AuthoritiesError`], where the own cluster cannot be signed for.
pub async fn start(
    client: Client,
    root_namespace: &str,
    own: Text,
    trust_domain: &str,
) -> Result<Authorities, AuthoritiesError> {
    let api = Api::<Secret>::namespaced(client.clone(), root_namespace);
    let authority = Authority::from_cacerts(&read_or_make(&api, &own).await?)
        .map_err(|source| AuthoritiesError::Unusable { secret: CACERTS_SECRET.to_owned(), source })?;
    let book = Book::new(own, trust_domain, authority)?;
    let (sender, now) = channel::channel(Arc::new(book.snapshot()?));
    let (learn, learned) = mpsc::channel(16);
    tokio::spawn(follow(client, root_namespace.to_owned(), book, sender, learned));
    Ok(Authorities { now, learn, root_namespace: root_namespace.into() })
}

impl Authorities {
    /// The authorities now.
    pub fn now(&self) -> Arc<Snapshot> {
        Arc::clone(&self.now.borrow())
    }

    /// The authorities as they change.
    pub fn changes(&self) -> channel::Receiver<Arc<Snapshot>> {
        self.now.clone()
    }

    /// Where signing certificates, and what is published of them, are.
    pub(super) fn root_namespace(&self) -> &str {
        &self.root_namespace
    }

    /// Takes in what a cluster publishes.
    pub(super) async fn learn(&self, learned: Learned) {
        // Nobody takes it in any more only when the controller ends.
        let _ = self.learn.send(learned).await;
    }

    /// Fixed authorities, for tests.
    #[cfg(test)]
    pub(crate) fn fixed(own: &str, trust_domain: &str, authorities: Vec<(&str, Authority)>) -> Self {
        let mut authorities: BTreeMap<Text, Arc<Authority>> =
            authorities.into_iter().map(|(cluster, authority)| (cluster.into(), Arc::new(authority))).collect();
        let own_authority = authorities.remove(own).unwrap();
        let mut book = Book::new(own.into(), trust_domain, Arc::into_inner(own_authority).unwrap()).unwrap();
        book.remotes = authorities;
        let (sender, now) = channel::channel(Arc::new(book.snapshot().unwrap()));
        // They never change, and never end.
        std::mem::forget(sender);
        Authorities { now, learn: mpsc::channel(1).0, root_namespace: "istio-system".into() }
    }
}

/// Reads Secret `cacerts`; where it is missing, makes a root and an intermediate and stores both. Of several replicas that
/// do so at once, the one whose Secret is created first is right.
async fn read_or_make(api: &Api<Secret>, own: &str) -> Result<CaCerts, AuthoritiesError> {
    let mut pause = Pause::default();
    loop {
        let why = match api.get_opt(CACERTS_SECRET).await {
            Ok(Some(secret)) => {
                let entries = secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect();
                return CaCerts::from_entries::<Vec<u8>>(&entries)
                    .map_err(|e| AuthoritiesError::Unusable { secret: CACERTS_SECRET.to_owned(), source: e.into() });
            }
            Ok(None) => match make(api, own).await? {
                Ok(()) => continue,
                Err(why) => why,
            },
            Err(error) => match trouble::of(&error) {
                Trouble::Refused(why) => return Err(AuthoritiesError::Api { secret: CACERTS_SECRET.to_owned(), why }),
                other => format!("{other:?}"),
            },
        };
        tracing::warn!(secret = CACERTS_SECRET, why, "cannot be read; trying again");
        tokio::time::sleep(pause.next().unwrap_or_default()).await;
    }
}

/// Makes and stores. The inner error is worth another attempt.
async fn make(api: &Api<Secret>, own: &str) -> Result<Result<(), String>, AuthoritiesError> {
    let unusable = |source| AuthoritiesError::Unusable { secret: CACERTS_SECRET.to_owned(), source };
    tracing::warn!(
        secret = CACERTS_SECRET,
        "there is none: making a self-signed root. Clusters that should trust each other need a common root: `isthmus ca`"
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
            // The other half of a replica that was faster, or was cut short: what is stored as `cacerts` counts.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => match trouble::of(&error) {
                Trouble::Refused(why) => return Err(AuthoritiesError::Api { secret: secret.name_any(), why }),
                other => return Ok(Err(format!("{other:?}"))),
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

/// What the Secrets say, and what of it is in force.
struct Book {
    own: Text,
    trust_domain: String,
    own_authority: Arc<Authority>,
    remotes: BTreeMap<Text, Arc<Authority>>,
    /// Of clusters that sign for themselves.
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
        // An authority that is a root itself signs for no cluster in particular.
        let issuers = authorities.iter().filter(|(_, authority)| !authority.is_root());
        let mut issuers: Vec<_> = issuers.map(|(cluster, authority)| authority.issuer_of(cluster)).collect();
        for (cluster, issuer) in &self.published {
            // A cluster that publishes another's intermediate as its own is not believed.
            let known = |i: &Issuer| i.cluster == *cluster || i.public_key_sha256 == issuer.public_key_sha256;
            if !issuers.iter().any(known) {
                issuers.push(issuer.clone());
            }
        }
        let trust = Trust::new(&self.trust_domain, self.own_authority.roots().to_vec(), issuers)?;
        let problems = self.problems.iter().map(|(secret, why)| Problem { secret: secret.clone(), why: why.clone() });
        Ok(Snapshot { own: self.own.clone(), authorities, trust, problems: problems.collect() })
    }

    /// The cluster that a Secret of this name is for.
    fn cluster_of(&self, name: &str) -> Option<Text> {
        if name == CACERTS_SECRET {
            return Some(self.own.clone());
        }
        let cluster = name.strip_prefix(CACERTS_SECRET)?.strip_prefix('-')?;
        (cluster != &*self.own && name == cacerts_of(cluster)).then(|| cluster.into())
    }

    /// A Secret was added or changed. What is broken leaves in force what was there.
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
                        "it is the signing certificate of {of}, so it would not prove the cluster: make it one of its own with `isthmus ca`"
                    );
                    self.complain(name, why);
                } else if common {
                    self.problems.remove(&name);
                    self.remotes.insert(cluster, Arc::new(authority));
                } else {
                    let why = "its root is not one of the own cluster's, so nobody here would believe what it signs";
                    self.complain(name, why.to_owned());
                }
            }
            Err(error) => self.complain(name, error.to_string()),
        }
    }

    /// What a cluster publishes about who signs there; true where something changed.
    fn learn(&mut self, (cluster, learned): Learned) -> bool {
        let place = format!("ConfigMap {ROOT_CONFIG_MAP} of {cluster}");
        match learned {
            Some(Ok(issuer)) if self.holder_of(&cluster, &issuer).is_some() => {
                let holder = self.holder_of(&cluster, &issuer).cloned().unwrap_or_default();
                self.complain_once(
                    place,
                    format!("the intermediate that it publishes is that of {holder}; it stays {holder}'s"),
                )
            }
            Some(Ok(issuer)) => {
                let cured = self.problems.remove(&place).is_some();
                self.published.insert(cluster, issuer.clone()) != Some(issuer) || cured
            }
            Some(Err(error)) => {
                self.complain_once(place, format!("the intermediate that it publishes is not believed: {error}"))
            }
            None => {
                let cured = self.problems.remove(&place).is_some();
                self.published.remove(&cluster).is_some() || cured
            }
        }
    }

    /// The other cluster that signs with this key. Certificates are no secret, so anybody can publish another's: who had it
    /// first keeps it.
    fn holder_of(&self, cluster: &Text, issuer: &Issuer) -> Option<&Text> {
        let signing = self.remotes.iter().chain([(&self.own, &self.own_authority)]);
        let signing = signing.map(|(of, authority)| (of, authority.issuer_of(of).public_key_sha256));
        let published = self.published.iter().map(|(of, issuer)| (of, issuer.public_key_sha256));
        let mut others = signing.chain(published).filter(|(of, _)| *of != cluster);
        others.find(|(_, key)| *key == issuer.public_key_sha256).map(|(of, _)| of)
    }

    /// True where it was not said before.
    fn complain_once(&mut self, place: String, why: String) -> bool {
        let new = self.problems.get(&place) != Some(&why);
        if new {
            self.complain(place, why);
        }
        new
    }

    fn complain(&mut self, secret: String, why: String) {
        tracing::error!(secret, why, "a signing certificate cannot be used; what was in force before stays");
        self.problems.insert(secret, why);
    }

    /// A Secret is gone. Without the own one the controller goes on with what it has: signing is worse stopped than old.
    fn delete(&mut self, name: &str) {
        self.problems.remove(name);
        match self.cluster_of(name) {
            Some(cluster) if cluster == self.own => {
                self.complain(name.to_owned(), "it was deleted; the last one stays in use until a restart".to_owned());
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
            Err(error) => tracing::error!(%error, "the trust bundle cannot be built; what was in force before stays"),
        }
    }
}

impl Book {
    /// Takes in what the watch of Secrets saw; true where a snapshot is worth making.
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
                // Told at the end of the list.
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
                tracing::debug!(%error, "signing certificates cannot be watched; trying again");
                return false;
            }
        }
        true
    }
}

/// Tells the index what is trusted, and whenever that changes.
pub async fn tell_trust(authorities: Authorities, events: tokio::sync::mpsc::Sender<event::Event>) {
    let mut changes = authorities.changes();
    let mut told = None;
    loop {
        let trust = changes.borrow_and_update().to_event();
        if told.as_ref() != Some(&trust) {
            told = Some(trust.clone());
            if events.send(event::Event::Trust(trust)).await.is_err() {
                return;
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
