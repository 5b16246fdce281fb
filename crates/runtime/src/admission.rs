//! Admission: which connections a listener keeps when it has as many as it may, fair by source.
//!
//! A connection is *pending* until it has proven itself: until its TLS handshake or the head of its request is complete. A
//! client that opens connections and says nothing, or never ends a head, has only pending ones. After that, a connection is in
//! use or idle.
//!
//! - Pending connections are limited in number and in time. At the limit, the source with the most loses its oldest one.
//! - All connections are limited in number. At the limit, the source with the most connections loses its oldest pending
//!   one, else an idle one; a connection in use is never closed. If none can be closed, the new connection is refused.
//! - A source may hold [`SHARE`] times as many connections as are still free, so one source gets four fifths of the limit,
//!   two get four ninths each, and some are always left for the next.
//!
//! So new connections are accepted at the limit, and those who hold the most pay for them. A source is an IPv4 address, or
//! a /64 of IPv6 ([`Source`]). All workers of a listener share one [`Admission`]: limits are exact across workers. Admitting
//! and ending a connection take a lock for less than a microsecond, independently of the number of connections and sources;
//! a request costs two uncontended atomic additions. This module knows nothing of proxies: the controller and the admin server use it
//! as well.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use telemetry::metrics::{Family, Registry};
use tokio::task::AbortHandle;
use tokio::time::Instant;

mod list;
mod ranking;
mod source;
mod table;
#[cfg(test)]
mod tests;

pub use source::Source;
pub use table::SHARE;
use table::{Id, Table};

/// The limits of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The maximum number of connections.
    pub connections: u32,
    /// The maximum number of pending connections. Each may hold as much memory as a head or a handshake takes.
    pub pending: u32,
    /// The maximum number of connections that are opened on behalf of admitted ones ([`Admitted::dial`]).
    pub dialled: u32,
    /// The maximum number of bytes that are held for admitted connections, because the next hop does not take them
    /// ([`Admitted::buffer`]).
    pub buffered: u64,
    /// How long a connection may be pending.
    pub deadline: Duration,
}

impl Default for Limits {
    /// Returns limits that are never reached.
    fn default() -> Self {
        let deadline = Duration::from_secs(60);
        Self { connections: u32::MAX, pending: u32::MAX, dialled: u32::MAX, buffered: u64::MAX / 8, deadline }
    }
}

/// The admission of a listener. Clones share the connections and limits.
#[derive(Clone)]
pub struct Admission(Arc<Shared>);

struct Shared {
    table: Mutex<Table>,
    deadline: Duration,
    counts: Counts,
}

/// What has happened to connections that were not simply admitted.
#[derive(Default)]
struct Counts {
    displaced_pending: AtomicU64,
    displaced_idle: AtomicU64,
    overdue: AtomicU64,
    refused: AtomicU64,
    not_dialled: AtomicU64,
    not_buffered: AtomicU64,
}

/// The number of open connections.
pub const OPEN: Family = Family {
    name: "isthmus_connections_open",
    help: "Open connections by listener and state: pending until the handshake or the first head is complete.",
    labels: &["listener", "state"],
};
/// The number of connections that were closed or refused because of a limit.
pub const CLOSED: Family = Family {
    name: "isthmus_connections_limited_total",
    help: "Connections closed or refused because of a limit, by listener and what happened: displaced_pending, displaced_idle, overdue, refused; or refused to open (not_dialled) or to hold bytes (not_buffered).",
    labels: &["listener", "outcome"],
};

/// An admitted connection. Dropping it gives its place to another.
#[derive(Debug)]
#[must_use = "the connection counts until this is dropped"]
pub struct Admitted {
    shared: Arc<Shared>,
    id: Id,
    activity: Arc<Activity>,
}

/// Whether a proven connection is in use.
#[derive(Debug, Default)]
struct Activity {
    uses: AtomicU32,
}

/// A use of a connection, such as a request in progress. The connection is not closed while it has one. `A` refers to an
/// [`Admitted`].
#[derive(Debug)]
#[must_use = "the connection is in use until this is dropped"]
pub struct Use<A: Deref<Target = Admitted>>(A);

/// A connection that was opened on behalf of an admitted one.
#[derive(Debug)]
#[must_use = "the connection counts until this is dropped"]
pub struct Dialled {
    shared: Arc<Shared>,
    source: u32,
}

/// Bytes that are held for an admitted connection.
#[derive(Debug)]
#[must_use = "the bytes count until this is dropped"]
pub struct Buffered {
    shared: Arc<Shared>,
    source: u32,
    bytes: u64,
}

impl Admission {
    /// Creates the admission of a listener.
    pub fn new(limits: Limits) -> Self {
        let table = Mutex::new(Table::new(limits));
        Self(Arc::new(Shared { table, deadline: limits.deadline, counts: Counts::default() }))
    }

    /// Admits a connection, which is pending at first, and closes another one if there is no room. `serve` spawns the task
    /// that serves the connection and owns the [`Admitted`]; the task is aborted if the connection is to be closed. Returns
    /// whether the connection was admitted: otherwise `serve` is not called.
    pub fn admit(&self, source: IpAddr, serve: impl FnOnce(Admitted) -> AbortHandle) -> bool {
        let activity = Arc::new(Activity::default());
        let admitted = self.0.lock().admit(Source::of(source), activity.clone(), Instant::now());
        let Some((id, displaced)) = admitted else {
            self.0.counts.refused.fetch_add(1, Relaxed);
            return false;
        };
        self.0.displace(displaced);
        let task = serve(Admitted { shared: self.0.clone(), id, activity });
        if let Some(task) = self.0.lock().attach(id, task) {
            // It was displaced before its task was known, or has ended.
            task.abort();
        }
        true
    }

    /// Closes connections that are pending for too long, for as long as it is polled. To be spawned once per listener.
    pub async fn enforce_deadline(self) {
        loop {
            let now = Instant::now();
            let (overdue, next) = self.0.lock().overdue(now, self.0.deadline);
            let count = overdue.len();
            overdue.iter().for_each(AbortHandle::abort);
            self.0.counts.overdue.fetch_add(count as u64, Relaxed);
            // A connection that is admitted meanwhile is not overdue before then.
            tokio::time::sleep_until(next).await;
        }
    }

    /// Returns the numbers of connections and of pending ones.
    pub fn open(&self) -> (u32, u32) {
        let table = self.0.lock();
        (table.len(), table.pending())
    }

    /// Exports the numbers of a listener.
    pub fn observe(&self, registry: &Registry, listener: &'static str) {
        let (of_open, of_closed) = (self.clone(), self.clone());
        registry.observe_gauge(OPEN, move |put| {
            let (all, pending) = of_open.open();
            put(&[listener, "pending"], f64::from(pending));
            put(&[listener, "proven"], f64::from(all - pending));
        });
        registry.observe_counter(CLOSED, move |put| {
            let counts = &of_closed.0.counts;
            for (outcome, count) in [
                ("displaced_pending", &counts.displaced_pending),
                ("displaced_idle", &counts.displaced_idle),
                ("overdue", &counts.overdue),
                ("refused", &counts.refused),
                ("not_dialled", &counts.not_dialled),
                ("not_buffered", &counts.not_buffered),
            ] {
                put(&[listener, outcome], count.load(Relaxed) as f64);
            }
        });
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // A panic under this lock is a fault of the table itself, which ends the worker; the others go on.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn displace(&self, displaced: table::Displaced) {
        for (victims, count) in
            [(displaced.pending, &self.counts.displaced_pending), (displaced.idle, &self.counts.displaced_idle)]
        {
            for task in victims {
                count.fetch_add(1, Relaxed);
                if let Some(task) = task {
                    task.abort();
                }
            }
        }
    }
}

impl Admitted {
    /// Marks the connection as proven: its handshake or head is complete. It is idle until it is used ([`Use`]).
    pub fn prove(&self) {
        self.shared.lock().prove(self.id);
    }

    /// Marks the connection as pending again: another head has begun and is not complete.
    pub fn suspect(&self) {
        let displaced = self.shared.lock().suspect(self.id, Instant::now());
        self.shared.displace(displaced);
    }

    /// Begins a use of the connection, to be ended with [`Admitted::end`]; [`Use`] does both.
    pub fn begin(&self) {
        self.activity.uses.fetch_add(1, Relaxed);
    }

    /// Ends a use of the connection.
    pub fn end(&self) {
        self.activity.uses.fetch_sub(1, Relaxed);
    }

    /// Counts a connection that is about to be opened on behalf of this one. Returns `None` if all are in use, or if this
    /// connection's source has its share of them.
    pub fn dial(&self) -> Option<Dialled> {
        let source = self.shared.lock().dial(self.id);
        if source.is_none() {
            self.shared.counts.not_dialled.fetch_add(1, Relaxed);
        }
        Some(Dialled { shared: self.shared.clone(), source: source? })
    }

    /// Begins to count bytes that are held for this connection. Returns `None` if the connection has lost its place.
    pub fn buffer(&self) -> Option<Buffered> {
        let source = self.shared.lock().keep(self.id)?;
        Some(Buffered { shared: self.shared.clone(), source, bytes: 0 })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.shared.lock().remove(self.id);
    }
}

impl<A: Deref<Target = Admitted>> Use<A> {
    /// Begins a use of a connection.
    pub fn of(admitted: A) -> Self {
        admitted.begin();
        Self(admitted)
    }

    /// Returns what refers to the connection.
    pub fn holder(&self) -> &A {
        &self.0
    }
}

impl<A: Deref<Target = Admitted>> Drop for Use<A> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Drop for Dialled {
    fn drop(&mut self) {
        self.shared.lock().hang_up(self.source);
    }
}

impl Buffered {
    /// Counts more bytes. Returns whether they may be held: whether there is room, within the share of the connection's source.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let grown = self.shared.lock().grow(self.source, bytes as u64);
        match grown {
            true => self.bytes += bytes as u64,
            false => drop(self.shared.counts.not_buffered.fetch_add(1, Relaxed)),
        }
        grown
    }

    /// Counts bytes as no longer held.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = (bytes as u64).min(self.bytes);
        self.bytes -= bytes;
        self.shared.lock().shrink(self.source, bytes);
    }
}

impl Drop for Buffered {
    fn drop(&mut self) {
        self.shared.lock().release_kept(self.source, self.bytes);
    }
}

impl Activity {
    fn is_idle(&self) -> bool {
        self.uses.load(Relaxed) == 0
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
