//! The identity of a process: a handle that all threads share, replaced as certificates rotate.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::{ClientConfig, ServerConfig};

use crate::alpn::Alpn;
use crate::credential::Credential;
use crate::expectation::{ClientAuth, Expectation};
use crate::spiffe::SpiffeId;
use crate::tls::{self, ClientRoots};
use crate::trust::{Trust, TrustError};

/// The maximum number of cached client configurations per protocol list; beyond it the cache is cleared. A proxy needs
/// one for each set of identities that it connects to. 4096 of them take about 4 MiB.
const MAX_CLIENTS: usize = 4096;

/// The TLS settings of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Accept {
    /// Whether clients must present a certificate.
    pub client: ClientAuth,
    /// The application protocols, most preferred first.
    pub alpn: Alpn,
}

/// A handle to the credential and the trust of a process. Clones are the same handle.
///
/// TLS configurations are built once and cached until the credential or the trust changes. Existing connections keep the
/// configuration that they started with.
#[derive(Clone)]
pub struct Identity {
    shared: Arc<SharedIdentity>,
}

struct SharedIdentity {
    current: ArcSwap<IdentityVersion>,
    /// Locked during a replacement, so that a new credential and a new trust that arrive at the same time are both kept.
    swapping: Mutex<()>,
}

struct IdentityVersion {
    generation: u64,
    credential: Credential,
    trust: Trust,
    clients: Mutex<HashMap<Alpn, HashMap<Expectation, Arc<ClientConfig>>>>,
    servers: Mutex<HashMap<Accept, Arc<ServerConfig>>>,
}

impl Identity {
    /// Creates a handle to a credential and a trust.
    pub fn new(credential: Credential, trust: Trust) -> Self {
        let state = IdentityVersion::new(1, credential, trust);
        Identity {
            shared: Arc::new(SharedIdentity { current: ArcSwap::from_pointee(state), swapping: Mutex::new(()) }),
        }
    }

    /// Returns the current credential.
    pub fn credential(&self) -> Credential {
        self.shared.current.load().credential.clone()
    }

    /// Returns the current trust.
    pub fn trust(&self) -> Trust {
        self.shared.current.load().trust.clone()
    }

    /// Returns the SPIFFE ID of this process.
    pub fn id(&self) -> SpiffeId {
        self.shared.current.load().credential.id().clone()
    }

    /// Returns the generation: a number that increases with each replacement.
    pub fn generation(&self) -> u64 {
        self.shared.current.load().generation
    }

    /// Replaces the credential.
    pub fn replace_credential(&self, credential: Credential) {
        self.swap(|state| (credential != state.credential).then(|| (credential.clone(), state.trust.clone())));
    }

    /// Replaces the trust. An equal trust has no effect.
    pub fn replace_trust(&self, trust: Trust) {
        self.swap(|state| (trust != state.trust).then(|| (state.credential.clone(), trust.clone())));
    }

    fn swap(&self, next: impl Fn(&IdentityVersion) -> Option<(Credential, Trust)>) {
        let _one_at_a_time = self.shared.swapping.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.shared.current.load();
        if let Some((credential, trust)) = next(&state) {
            self.shared.current.store(Arc::new(IdentityVersion::new(state.generation + 1, credential, trust)));
        }
    }

    /// Returns the configuration of a listener for mutual TLS.
    pub fn server_config(&self, accept: Accept) -> Arc<ServerConfig> {
        let state = self.shared.current.load();
        let mut servers = state.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let config = servers
            .entry(accept)
            .or_insert_with(|| Arc::new(tls::mesh_server(&state.credential, &state.trust, accept.client, accept.alpn)));
        Arc::clone(config)
    }

    /// Returns the configuration of a listener that requests no client certificates, such as a webhook's. It is not
    /// cached: a webhook server needs it once per generation.
    pub fn plain_server_config(&self, alpn: Alpn) -> Arc<ServerConfig> {
        Arc::new(tls::plain_server(&self.shared.current.load().credential, None, alpn))
    }

    /// Returns the same configuration, but with clients that must present a certificate under `clients`.
    pub fn verifying_server_config(&self, clients: &ClientRoots, alpn: Alpn) -> Arc<ServerConfig> {
        Arc::new(tls::plain_server(&self.shared.current.load().credential, Some(clients), alpn))
    }

    /// Returns the configuration of a connection to a peer that must prove one of the `expected` identities. An empty
    /// list refuses every peer.
    pub fn client_config(&self, expected: &[SpiffeId], alpn: Alpn) -> Arc<ClientConfig> {
        self.client_config_for(&Expectation::any_of(expected.iter().cloned()), alpn)
    }

    /// Returns the configuration of a connection to a peer that meets an expectation. Callers keep the expectation,
    /// which avoids building it for each connection.
    pub fn client_config_for(&self, expected: &Expectation, alpn: Alpn) -> Arc<ClientConfig> {
        let state = self.shared.current.load();
        let mut clients = state.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let of_alpn = clients.entry(alpn).or_default();
        if let Some(config) = of_alpn.get(expected) {
            return Arc::clone(config);
        }
        if of_alpn.len() >= MAX_CLIENTS {
            of_alpn.clear();
        }
        let config = Arc::new(tls::mesh_client(&state.credential, &state.trust, expected.clone(), alpn));
        of_alpn.insert(expected.clone(), Arc::clone(&config));
        config
    }

    /// Returns the configuration of a connection to the controller, which presents this process's credential and
    /// verifies the controller's DNS name.
    ///
    /// # Errors
    /// Returns an error if a root is not a valid trust anchor.
    pub fn controller_config(&self, alpn: Alpn) -> Result<Arc<ClientConfig>, TrustError> {
        let state = self.shared.current.load();
        tls::named_server_client(Some(&state.credential), state.trust.roots(), alpn).map(Arc::new)
    }
}

impl IdentityVersion {
    fn new(generation: u64, credential: Credential, trust: Trust) -> Self {
        IdentityVersion { generation, credential, trust, clients: Mutex::default(), servers: Mutex::default() }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.current.load();
        f.debug_struct("Identity")
            .field("generation", &state.generation)
            .field("credential", &state.credential)
            .field("trust", &state.trust)
            .finish()
    }
}
