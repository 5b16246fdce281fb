//! The store of pushed resources, and the routes that follow from them.
//!
//! The store runs on the control thread. It subscribes to the endpoints of each exported service, and publishes routes after
//! each update. An invalid resource is rejected, and the previous version stays.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use identity::Identity;
use proxy::mesh::{MeshStore, ProxyLocation, Published, SharedMap};
use wire::client::Subscriber;
use wire::delta::{Rejected, Update};

use crate::routes::Routes;

#[cfg(test)]
mod tests;

/// The store.
pub struct RouteStore {
    location: ProxyLocation,
    mesh: MeshStore,
    published: Arc<Published>,
    names: SharedMap<Box<str>, (Arc<str>, u16)>,
    routes: Arc<ArcSwap<Routes>>,
}

impl RouteStore {
    /// Creates an empty store of a gateway. `identity` receives the mesh's trust bundle once it is set.
    pub fn new(location: ProxyLocation, identity: Arc<OnceLock<Identity>>) -> Self {
        let mesh = MeshStore::new(location.clone(), move |trust| {
            if let Some(identity) = identity.get() {
                identity.replace_trust(trust);
            }
        });
        let published = mesh.published();
        Self { location, mesh, published, names: SharedMap::default(), routes: Arc::default() }
    }

    /// Returns the published routes.
    pub fn routes(&self) -> Arc<ArcSwap<Routes>> {
        self.routes.clone()
    }

    /// Returns the cell for the subscriber, which exists only after discovery has received the store.
    pub fn subscriber(&self) -> Arc<OnceLock<Subscriber>> {
        self.mesh.subscriber()
    }

    /// Replaces the server names of a service's ports.
    fn refresh_names(&mut self, hostname: &Arc<str>) {
        let before: Vec<Box<str>> =
            self.names.iter().filter(|(_, (of, _))| of == hostname).map(|(name, _)| name.clone()).collect();
        for name in before {
            self.names.remove(&name);
        }
        let Some(service) = self.mesh.current().services.get(hostname) else { return };
        for port in &service.ports {
            for name in &port.server_names {
                self.names.insert(name.clone(), (hostname.clone(), port.number));
            }
        }
    }
}

impl wire::client::Store for RouteStore {
    fn apply(&mut self, update: Update) -> Result<(), Rejected> {
        let applied = self.mesh.update(update);
        for hostname in &applied.services {
            self.refresh_names(hostname);
        }
        let ProxyLocation { cluster, network, .. } = self.location.clone();
        let routes = Routes::new(cluster, network, self.published.newest(), self.names.clone());
        self.routes.store(Arc::new(routes));
        for rejection in &applied.rejected {
            tracing::warn!(name = %rejection.name, reason = %rejection.reason, "rejected a resource");
        }
        if applied.rejected.is_empty() { Ok(()) } else { Err(Rejected(applied.rejected)) }
    }
}
