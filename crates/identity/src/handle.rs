//! The handle on who this process is, shared by all of its threads and swapped as certificates rotate.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::{ClientConfig, ServerConfig};

use crate::alpn::Alpn;
use crate::credential::Credential;
use crate::spiffe::SpiffeId;
use crate::tls::{self, ClientAuth, Expectation};
use crate::trust::{Trust, TrustError};

/// Beyond this many client configurations the cache starts anew. A proxy holds one per set of identities that it calls;
/// 4096 of them are about 4 MiB, more than any sidecar should reach.
const MAX_CLIENTS: usize = 4096;

/// What a listener accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Accept {
    /// Whether clients must present a certificate.
    pub client: ClientAuth,
    /// Protocols, most preferred first.
    pub alpn: Alpn,
}

/// Who this process is and whom it believes. Clones are the same handle.
///
/// Configurations are built once for each combination and kept until the credential or the trust changes; then new
/// connections get new ones, and those that exist go on with what they began with.
#[derive(Clone)]
pub struct Identity {
    shared: Arc<Shared>,
}

struct Shared {
    current: ArcSwap<State>,
    /// Held while swapping, so that a new certificate and a new trust that arrive together both stay.
    swapping: Mutex<()>,
}

struct State {
    generation: u64,
    credential: Credential,
    trust: Trust,
    clients: Mutex<HashMap<Alpn, HashMap<Expectation, Arc<ClientConfig>>>>,
    servers: Mutex<HashMap<Accept, Arc<ServerConfig>>>,
}

impl Identity {
    /// A handle on this credential and trust.
    pub fn new(credential: Credential, trust: Trust) -> Self {
        let state = State::new(1, credential, trust);
        Identity { shared: Arc::new(Shared { current: ArcSwap::from_pointee(state), swapping: Mutex::new(()) }) }
    }

    /// The credential in force.
    pub fn credential(&self) -> Credential {
        self.shared.current.load().credential.clone()
    }

    /// The trust in force.
    pub fn trust(&self) -> Trust {
        self.shared.current.load().trust.clone()
    }

    /// Own SPIFFE id.
    pub fn id(&self) -> SpiffeId {
        self.shared.current.load().credential.id().clone()
    }

    /// Grows by one with every swap; what was made under an older number may be renewed at leisure.
    pub fn generation(&self) -> u64 {
        self.shared.current.load().generation
    }

    /// Puts a renewed credential in force.
    pub fn replace_credential(&self, credential: Credential) {
        self.swap(|state| (credential != state.credential).then(|| (credential.clone(), state.trust.clone())));
    }

    /// Puts a changed trust in force. An equal one changes nothing.
    pub fn replace_trust(&self, trust: Trust) {
        self.swap(|state| (trust != state.trust).then(|| (state.credential.clone(), trust.clone())));
    }

    fn swap(&self, next: impl Fn(&State) -> Option<(Credential, Trust)>) {
        let _one_at_a_time = self.shared.swapping.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.shared.current.load();
        if let Some((credential, trust)) = next(&state) {
            self.shared.current.store(Arc::new(State::new(state.generation + 1, credential, trust)));
        }
    }

    /// The configuration of a listener of the mesh.
    pub fn server_config(&self, accept: Accept) -> Arc<ServerConfig> {
        let state = self.shared.current.load();
        let mut servers = state.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let config = servers
            .entry(accept)
            .or_insert_with(|| Arc::new(tls::mesh_server(&state.credential, &state.trust, accept.client, accept.alpn)));
        Arc::clone(config)
    }

    /// The configuration of a listener that asks nobody for a certificate, such as a webhook's. Not cached: a webhook
    /// server asks once per generation.
    pub fn plain_server_config(&self, alpn: Alpn) -> Arc<ServerConfig> {
        Arc::new(tls::plain_server(&self.shared.current.load().credential, alpn))
    }

    /// The configuration of a connection to a peer that must prove one of these identities. With none, it refuses every
    /// peer.
    pub fn client_config(&self, expected: &[SpiffeId], alpn: Alpn) -> Arc<ClientConfig> {
        self.client_config_for(&Expectation::any_of(expected.iter().cloned()), alpn)
    }

    /// As [`Identity::client_config`], of an expectation kept ready by the caller, which spares building one for each
    /// connection.
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

    /// The configuration of a connection to the controller, known by its DNS name, presenting the own credential.
    ///
    /// # Errors
    /// [`TrustError`], where a root cannot be used as an anchor.
    pub fn controller_config(&self, alpn: Alpn) -> Result<Arc<ClientConfig>, TrustError> {
        let state = self.shared.current.load();
        tls::named_server_client(Some(&state.credential), state.trust.roots(), alpn).map(Arc::new)
    }
}

impl State {
    fn new(generation: u64, credential: Credential, trust: Trust) -> Self {
        State { generation, credential, trust, clients: Mutex::default(), servers: Mutex::default() }
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
