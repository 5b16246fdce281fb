//! The routes of services, as they arrive.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use route::Table;
use wire::discovery::RouteTable;

use super::convert::{self, Client};
use super::scope::Scope;

/// The routes of the services that the proxy knows.
#[derive(Debug, Default)]
pub(super) struct Routes {
    client: Client,
    by_host: HashMap<Arc<str>, Held>,
}

/// The routes of one service. The message is kept: what it means depends on the own pod's labels.
#[derive(Debug, Default)]
struct Held {
    message: Option<Box<RouteTable>>,
    /// The namespace of the VirtualService; empty: the routes are not of one.
    namespace: Arc<str>,
    table: Arc<Table>,
}

impl Routes {
    /// Creates an empty set for a pod of a namespace.
    pub(super) fn new(namespace: Arc<str>) -> Self {
        Self { client: Client { namespace, labels: BTreeMap::new() }, by_host: HashMap::new() }
    }

    /// Takes the routes of a service.
    ///
    /// # Errors
    /// Returns an error if they are invalid. The previous ones stay.
    pub(super) fn put(&mut self, hostname: &str, message: RouteTable) -> Result<(), String> {
        let table = Arc::new(convert::routes(&message, &self.client)?);
        let source = message.source.split_once('/').filter(|_| message.source_kind.is_empty());
        let namespace = source.map(|(namespace, _)| namespace.into()).unwrap_or_default();
        // The conditions of most tables are not about clients.
        let message = depends_on_client(&message).then(|| Box::new(message));
        self.by_host.insert(hostname.into(), Held { message, namespace, table });
        Ok(())
    }

    /// Returns the own pod, as conditions see it.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Notes that a service has no routes.
    pub(super) fn put_none(&mut self, hostname: &str) {
        self.by_host.insert(hostname.into(), Held::default());
    }

    /// Forgets a service.
    pub(super) fn remove(&mut self, hostname: &str) {
        self.by_host.remove(hostname);
    }

    /// Returns the routes of a service, without those of a VirtualService that is not in the scope; `None` until they
    /// have arrived.
    pub(super) fn get(&self, hostname: &str, scope: Option<&Scope>) -> Option<Arc<Table>> {
        let held = self.by_host.get(hostname)?;
        let imported = held.namespace.is_empty() || scope.is_none_or(|scope| scope.imports(&held.namespace, hostname));
        Some(if imported { held.table.clone() } else { Arc::default() })
    }

    /// Sets the own pod's labels. Returns the services whose routes may have changed.
    pub(super) fn set_labels(&mut self, labels: BTreeMap<String, String>) -> Vec<Arc<str>> {
        if self.client.labels == labels {
            return Vec::new();
        }
        self.client.labels = labels;
        let mut changed = Vec::new();
        for (hostname, held) in &mut self.by_host {
            let Some(message) = &held.message else { continue };
            // It was valid before, and validity does not depend on the client.
            if let Ok(table) = convert::routes(message, &self.client) {
                held.table = Arc::new(table);
                changed.push(hostname.clone());
            }
        }
        changed
    }
}

fn depends_on_client(message: &RouteTable) -> bool {
    message.http.iter().flat_map(|route| &route.matches).any(|of| of.client.is_some())
        || message.tls.iter().flat_map(|route| &route.matches).any(|of| of.client.is_some())
        || message.tcp.iter().flat_map(|route| &route.matches).any(|of| of.client.is_some())
}
