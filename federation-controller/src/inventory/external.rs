//! The servers that policies of action CUSTOM ask.

use api::mesh::ExternalAuthorization;

use super::Inventory;

/// The number of providers that a message names.
const NAMED: usize = 5;

impl Inventory {
    /// Returns the provider of this name in the mesh settings.
    ///
    /// # Errors
    /// Returns the reason why there is none, and what to do.
    pub fn external_authorization(&self, name: &str) -> Result<&ExternalAuthorization, String> {
        let providers = &self.mesh().external_authorizations;
        let Some(provider) = providers.iter().find(|provider| provider.name == name) else {
            let names: Vec<&str> = providers.iter().take(NAMED).map(|provider| provider.name.as_str()).collect();
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(format!(
                "extensionProviders of the mesh settings has no envoyExtAuthzHttp or envoyExtAuthzGrpc called {name:?} \
                 (known: {known}); add it there, or name another one"
            ));
        };
        let ExternalAuthorization { hostname, namespace, .. } = provider;
        let of_service = self.settings().service_of(hostname);
        if of_service.is_some_and(|service| !namespace.is_empty() && *service.namespace != **namespace) {
            return Err(format!(
                "service {hostname} of provider {name} is not in namespace {namespace}; correct either"
            ));
        }
        Ok(provider)
    }

    /// Returns why a provider refuses everything, if so: it or its service does not exist.
    pub(super) fn missing_provider(&self, name: &str) -> Option<String> {
        let provider = match self.external_authorization(name) {
            Ok(provider) => provider,
            Err(reason) => return Some(reason),
        };
        let ExternalAuthorization { hostname, port, .. } = provider;
        let mut definitions = self.definitions(hostname).peekable();
        let of_entries = self.entries(hostname).into_iter().filter_map(|entry| entry.spec.as_ref());
        if of_entries.flat_map(|spec| &spec.ports).any(|of| of.number == u32::from(*port)) {
            return None;
        }
        if definitions.peek().is_none() {
            return Some(format!(
                "service {hostname} of provider {name} does not exist; create it, or correct its name"
            ));
        }
        let has_port = definitions.any(|definition| definition.service.ports.iter().any(|of| of.number == *port));
        (!has_port).then(|| format!("service {hostname} of provider {name} has no port {port}; correct the port"))
    }
}
