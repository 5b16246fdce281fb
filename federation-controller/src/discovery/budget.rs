//! What the streams of one identity may hold: a certificate that is stolen, or a workload that has gone wrong, must not
//! take the controller's memory.
//!
//! Every pod of a service account has the same identity, so the limits grow with the pods that the account has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::inventory::Inventory;
use identity::Peer;

/// The streams of an identity without pods, and the further ones for each pod. A pod has one stream, and a second one while
/// it reconnects; a dead one is noticed within half a minute.
const STREAMS: (usize, usize) = (8, 4);
/// The same for its connections. A renewal has one of its own.
const CONNECTIONS: (usize, usize) = (16, 8);
/// What the streams of an identity without pods hold, in the bytes of [`wire::delta::Server::weight`]: the subscriptions of
/// a gateway of 10,000 services, with 100,000 endpoints.
const BYTES: usize = 32 << 20;
/// The further bytes for each pod: some 4,000 names.
const BYTES_OF_POD: usize = 1 << 20;
/// The pods that an account is assumed to have while the pods of its cluster are not all known.
const UNKNOWN_PODS: usize = 1000;

/// The streams, or the connections, of all identities.
#[derive(Debug)]
pub struct Budgets {
    number: (usize, usize),
    held: Arc<Mutex<HashMap<Owner, Held>>>,
}

/// An identity, and the cluster that proves it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Owner {
    cluster: Option<Arc<str>>,
    id: String,
    namespace: String,
    account: String,
}

#[derive(Debug, Default)]
struct Held {
    streams: usize,
    bytes: usize,
}

/// Why a stream is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    /// The identity has too many streams.
    #[error("{id} has {limit} discovery streams, and may not open another: it has {pods} known pods")]
    Streams {
        /// The identity.
        id: String,
        /// The number of streams that it may have.
        limit: usize,
        /// The number of its pods.
        pods: usize,
    },
    /// The streams of the identity hold too much.
    #[error(
        "the subscriptions of {id} take {bytes} bytes in all, and may take {limit}: it has {pods} known pods; subscribe to fewer names"
    )]
    Bytes {
        /// The identity.
        id: String,
        /// What its streams hold.
        bytes: usize,
        /// What its streams may hold.
        limit: usize,
        /// The number of its pods.
        pods: usize,
    },
}

impl Exceeded {
    /// Returns the reason as a metric label.
    pub fn word(&self) -> &'static str {
        match self {
            Exceeded::Streams { .. } => "too many streams",
            Exceeded::Bytes { .. } => "too many names",
        }
    }
}

impl Owner {
    /// Returns the owner of a peer's streams.
    pub fn of(peer: &Peer) -> Self {
        Owner {
            cluster: peer.cluster.clone(),
            id: peer.id.to_string(),
            namespace: peer.id.namespace().to_owned(),
            account: peer.id.service_account().to_owned(),
        }
    }

    /// Returns the number of pods of the account. A scan: it is made only for an identity that is above the base limit.
    pub fn pods(&self, inventory: &Inventory) -> usize {
        let clusters =
            inventory.clusters().filter(|cluster| self.cluster.as_ref().is_none_or(|of| *cluster.info.name == **of));
        let (mut pods, mut known) = (0, false);
        for cluster in clusters {
            known = true;
            if !cluster.synced() && !cluster.restored {
                return UNKNOWN_PODS;
            }
            let own = |pod: &&crate::objects::Pod| {
                *pod.template.namespace == *self.namespace && *pod.template.service_account == *self.account
            };
            pods += cluster.pods().values().filter(own).count();
        }
        if known { pods } else { UNKNOWN_PODS }
    }
}

impl Budgets {
    /// Creates the budgets of streams.
    pub fn of_streams() -> Self {
        Budgets { number: STREAMS, held: Arc::default() }
    }

    /// Creates the budgets of connections.
    pub fn of_connections() -> Self {
        Budgets { number: CONNECTIONS, held: Arc::default() }
    }

    /// Opens a stream or a connection of an identity.
    ///
    /// # Errors
    /// Returns [`Exceeded`] if the identity has too many.
    pub fn open(&self, owner: Owner, pods: impl FnOnce(&Owner) -> usize) -> Result<Account, Exceeded> {
        let open = lock(&self.held).get(&owner).map_or(0, |held| held.streams);
        let (base, of_pod) = self.number;
        if open >= base {
            let pods = pods(&owner);
            let limit = base + pods * of_pod;
            if open >= limit {
                return Err(Exceeded::Streams { id: owner.id, limit, pods });
            }
        }
        lock(&self.held).entry(owner.clone()).or_default().streams += 1;
        Ok(Account { held: Arc::clone(&self.held), owner, bytes: 0 })
    }
}

/// The account of one stream. Dropping it returns what the stream holds.
#[derive(Debug)]
pub struct Account {
    held: Arc<Mutex<HashMap<Owner, Held>>>,
    owner: Owner,
    bytes: usize,
}

impl Account {
    /// Sets what the stream holds now.
    ///
    /// # Errors
    /// Returns [`Exceeded`] if that is too much with the other streams of the identity.
    pub fn set(&mut self, bytes: usize, pods: impl FnOnce(&Owner) -> usize) -> Result<(), Exceeded> {
        let total = {
            let mut all = lock(&self.held);
            let held = all.entry(self.owner.clone()).or_default();
            held.bytes = held.bytes - self.bytes + bytes;
            held.bytes
        };
        let grown = bytes > self.bytes;
        self.bytes = bytes;
        // A stream that holds less is never at fault.
        if total <= BYTES || !grown {
            return Ok(());
        }
        let pods = pods(&self.owner);
        let limit = BYTES + pods * BYTES_OF_POD;
        if total <= limit {
            return Ok(());
        }
        Err(Exceeded::Bytes { id: self.owner.id.clone(), bytes: total, limit, pods })
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut all = lock(&self.held);
        if let Some(held) = all.get_mut(&self.owner) {
            held.streams -= 1;
            held.bytes -= self.bytes;
            if held.streams == 0 {
                all.remove(&self.owner);
            }
        }
    }
}

/// Locks a mutex, also a poisoned one: every change under this lock is a single step.
fn lock(held: &Mutex<HashMap<Owner, Held>>) -> MutexGuard<'_, HashMap<Owner, Held>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(account: &str) -> Owner {
        let id = identity::SpiffeId::new("cluster.local", "default", account).unwrap();
        Owner::of(&Peer { id, cluster: Some("west".into()) })
    }

    #[test]
    fn an_identity_has_its_own_limits_which_grow_with_its_pods() {
        let budgets = Budgets::of_streams();
        let mut open: Vec<Account> = (0..STREAMS.0).map(|_| budgets.open(owner("a"), |_| 0).unwrap()).collect();
        let refused = budgets.open(owner("a"), |_| 0).unwrap_err();
        assert_eq!(refused.word(), "too many streams");
        assert!(refused.to_string().contains("ns/default/sa/a"), "{refused}");
        assert!(budgets.open(owner("b"), |_| 0).is_ok(), "another identity has a limit of its own");
        open.extend((0..STREAMS.1).map(|_| budgets.open(owner("a"), |_| 1).unwrap()));

        let half = BYTES / 2 + 1;
        open[0].set(half, |_| 0).unwrap();
        assert_eq!(open[1].set(half, |_| 0).unwrap_err().word(), "too many names");
        open[1].set(half - 10, |_| 0).unwrap();
        open[1].set(half, |_| 1).unwrap();
        drop(open);
        assert!(lock(&budgets.held).is_empty());
    }
}
