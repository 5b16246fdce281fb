//! Work for a few callers at a time, shared fairly by their sources.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::source_of;

/// The shares of a kind of work. Clones refer to the same shares.
#[derive(Clone)]
pub struct Shares {
    all: Arc<Semaphore>,
    each: usize,
    sources: Arc<Mutex<HashMap<IpAddr, Source>>>,
}

struct Source {
    share: Arc<Semaphore>,
    /// The callers that have a share or wait for one.
    callers: usize,
}

impl Shares {
    /// Creates `all` shares, of which one source has at most `each`.
    pub fn new(all: usize, each: usize) -> Self {
        Shares { all: Arc::new(Semaphore::new(all)), each, sources: Arc::default() }
    }

    /// Waits for a share: first behind the other callers of the source, then behind all that have their source's.
    pub async fn take(&self, address: IpAddr) -> Option<Share> {
        let caller = Caller::of(self, source_of(address));
        // The semaphores are never closed.
        let own = Arc::clone(&caller.share).acquire_owned().await.ok()?;
        let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Share { _own: own, _all: all, _caller: caller })
    }
}

/// A share. Dropping it returns it.
pub struct Share {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
    _caller: Caller,
}

/// A caller that is counted for as long as it has a share or waits for one.
struct Caller {
    sources: Arc<Mutex<HashMap<IpAddr, Source>>>,
    source: IpAddr,
    share: Arc<Semaphore>,
}

impl Caller {
    fn of(shares: &Shares, source: IpAddr) -> Self {
        let mut sources = lock(&shares.sources);
        let known = sources.entry(source);
        let known = known.or_insert_with(|| Source { share: Arc::new(Semaphore::new(shares.each)), callers: 0 });
        known.callers += 1;
        Caller { sources: Arc::clone(&shares.sources), source, share: Arc::clone(&known.share) }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut sources = lock(&self.sources);
        if let Some(known) = sources.get_mut(&self.source) {
            known.callers -= 1;
            if known.callers == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

/// Locks a mutex, also a poisoned one: every change under this lock is a single step.
fn lock(sources: &Mutex<HashMap<IpAddr, Source>>) -> MutexGuard<'_, HashMap<IpAddr, Source>> {
    sources.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn a_source_waits_for_itself_and_not_for_others() {
        let shares = Shares::new(3, 2);
        let (one, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let held = [shares.take(one).await.unwrap(), shares.take(one).await.unwrap()];
        assert!(shares.take(one).now_or_never().is_none(), "its share is used up");
        let another = shares.take(other).now_or_never().flatten();
        assert!(another.is_some(), "another source's is not");
        assert!(shares.take(other).now_or_never().is_none(), "all shares are used up");
        drop(held);
        assert!(shares.take(one).now_or_never().flatten().is_some());
        drop(another);
        assert!(lock(&shares.sources).is_empty(), "a source without callers is forgotten");
    }
}
