//! The resources of a router: listeners, routes and certificates, beside those that every proxy has.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use identity::edge::ServerCertificate;
use proxy::mesh::{MeshStore, route_table};
use wire::Kind;
use wire::client::{Store, Subscriber};
use wire::delta::{Body, Changed, Rejected, Rejection, Update};
use wire::discovery::{Listeners, ServerTls};

use crate::config::Published;
use crate::convert::{Builder, Credentials, Tables, check};
use crate::files;

/// How often files are looked at: certificates are renewed hours before they expire.
const FILES_INTERVAL: Duration = Duration::from_secs(5);
/// Between the collection and the host in the name of a RouteTable.
const HOST: char = '|';

/// All resources that the controller has pushed.
pub(crate) struct RouterStore {
    mesh: MeshStore,
    namespace: Arc<str>,
    own: Arc<Mutex<State>>,
}

/// The resources that only routers have.
struct State {
    published: Arc<Published>,
    subscriber: Arc<OnceLock<Subscriber>>,
    listeners: Option<Listeners>,
    tables: Tables,
    /// The collections whose subscription has been answered.
    answered: HashSet<Box<str>>,
    credentials: Credentials,
    builder: Builder,
}

impl RouterStore {
    /// Creates an empty store of a router in this namespace, with a store of what every proxy has.
    pub(crate) fn new(mesh: MeshStore, namespace: Arc<str>) -> Self {
        let own = State {
            published: Arc::default(),
            subscriber: mesh.subscriber(),
            listeners: None,
            tables: Tables::new(),
            answered: HashSet::new(),
            credentials: Credentials::new(),
            builder: Builder::new(),
        };
        Self { mesh, namespace, own: Arc::new(Mutex::new(own)) }
    }

    /// Returns the publication of configurations.
    pub(crate) fn published(&self) -> Arc<Published> {
        self.lock().published.clone()
    }

    /// Returns a task that builds the configuration again when files change, for as long as it runs.
    pub(crate) fn follow_files(&self) -> impl Future<Output = ()> + use<> {
        let own = self.own.clone();
        async move {
            loop {
                tokio::time::sleep(FILES_INTERVAL).await;
                let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
                if own.servers().any(files::are_used_by) {
                    // It was valid before, and validity does not depend on files.
                    let _ = own.publish();
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply_own(&self, update: Update) -> Vec<Rejection> {
        let mut own = self.lock();
        let mut rejected = Vec::new();
        for name in &update.removed {
            own.remove(update.kind, name);
        }
        for Changed { name, aliases: _, body } in update.changed {
            if let Err(reason) = own.change(&name, body, &self.namespace) {
                rejected.push(Rejection { name, reason });
            }
        }
        if let Err(reason) = own.publish() {
            tracing::warn!(%reason, "the listeners are invalid; the ones before them stay in force");
        }
        rejected
    }
}

impl Store for RouterStore {
    fn apply(&mut self, update: Update) -> Result<(), Rejected> {
        let rejected = match update.kind {
            Kind::Listeners | Kind::Credential => self.apply_own(update),
            Kind::RouteTable => {
                let is_own = |name: &str| self.lock().is_collected(name);
                let (own, changed) = update.changed.into_iter().partition(|changed| is_own(&changed.name));
                let (own_removed, removed) = update.removed.into_iter().partition(|name| is_own(name));
                let own = Update { kind: update.kind, changed: own, removed: own_removed };
                let mut rejected = self.apply_own(own);
                let rest = Update { kind: update.kind, changed, removed };
                if !rest.changed.is_empty() || !rest.removed.is_empty() {
                    rejected.extend(self.mesh.update(rest).rejected);
                }
                rejected
            }
            _ => self.mesh.update(update).rejected,
        };
        if rejected.is_empty() { Ok(()) } else { Err(Rejected(rejected)) }
    }
}

impl State {
    fn servers(&self) -> impl Iterator<Item = &ServerTls> {
        let listeners = self.listeners.iter().flat_map(|of| &of.listeners);
        listeners.flat_map(|of| &of.servers).filter_map(|server| server.tls.as_ref())
    }

    /// Returns whether a name of a RouteTable is a collection, or in one.
    fn is_collected(&self, name: &str) -> bool {
        name.contains(HOST) || self.collections().contains(name)
    }

    fn collections(&self) -> BTreeSet<&str> {
        let listeners = self.listeners.iter().flat_map(|of| &of.listeners);
        listeners.flat_map(|of| &of.servers).map(|server| server.routes.as_str()).collect()
    }

    fn credential_names(&self) -> BTreeSet<&str> {
        let names = self.servers().flat_map(|tls| tls.credentials.iter().chain([&tls.ca_credential]));
        names.map(String::as_str).filter(|name| !name.is_empty()).collect()
    }

    fn change(&mut self, name: &str, body: Body, namespace: &Arc<str>) -> Result<(), String> {
        match body {
            Body::Listeners(message) => {
                check(&message)?;
                self.refer(message);
            }
            Body::Credential(message) => {
                let (chain, key) = (&message.certificate_chain, &message.private_key);
                let parsed = ServerCertificate::parse(chain, key, &message.ca_certificates, &message.crl)?;
                self.credentials.insert(name.into(), Arc::new(parsed));
            }
            Body::RouteTable(message) => {
                let (collection, host) = name.split_once(HOST).ok_or("the name has no host")?;
                let table = Arc::new(route_table(&message, namespace)?);
                self.answered.insert(collection.into());
                self.tables.entry(collection.into()).or_default().insert(host.into(), table);
            }
            other => return Err(format!("this proxy does not use resources of type {}", other.kind())),
        }
        Ok(())
    }

    fn remove(&mut self, kind: Kind, name: &str) {
        match (kind, name.split_once(HOST)) {
            (Kind::RouteTable, Some((collection, host))) => {
                if let Some(tables) = self.tables.get_mut(collection) {
                    tables.remove(host);
                }
            }
            (Kind::RouteTable, None) => {
                // The collection is empty.
                self.answered.insert(name.into());
                self.tables.remove(name);
            }
            (Kind::Listeners, _) => self.refer(Listeners::default()),
            // A certificate stays in use until another one takes its place: who replaces a Secret may delete it first.
            _ => tracing::debug!(%kind, name, "the controller has no such resource"),
        }
    }

    /// Replaces the listeners, and subscribes to what they name.
    fn refer(&mut self, listeners: Listeners) {
        let old = self.names();
        self.listeners = Some(listeners);
        let new = self.names();
        if let Some(subscriber) = self.subscriber.get() {
            for (kind, name) in new.difference(&old) {
                subscriber.subscribe(*kind, &**name);
            }
            for (kind, name) in old.difference(&new) {
                subscriber.unsubscribe(*kind, &**name);
            }
        }
        let kept = |kind: Kind, name: &str| new.contains(&(kind, name.into()));
        self.tables.retain(|name, _| kept(Kind::RouteTable, name));
        self.answered.retain(|name| kept(Kind::RouteTable, name));
        self.credentials.retain(|name, _| kept(Kind::Credential, name));
    }

    /// Returns what the listeners name.
    fn names(&self) -> BTreeSet<(Kind, Box<str>)> {
        let routes = self.collections().into_iter().map(|name| (Kind::RouteTable, name.into()));
        let credentials = self.credential_names().into_iter().map(|name| (Kind::Credential, name.into()));
        routes.chain(credentials).collect()
    }

    /// Publishes the configuration, once the routes of all servers have arrived; until then the previous one stays in force.
    fn publish(&mut self) -> Result<(), String> {
        let Some(listeners) = &self.listeners else { return Ok(()) };
        if self.collections().iter().any(|name| !self.answered.contains(*name)) {
            return Ok(());
        }
        self.published.replace(self.builder.build(listeners, &self.tables, &self.credentials)?);
        Ok(())
    }
}
