//! What the workload accepted: who called it, at which port, by which method and path. `isthmus authz suggest` proposes
//! policies from it.
//!
//! All of it is bounded, whatever clients send: [`MAX_ENTRIES`] combinations of a proxy, [`MAX_OF_CALLER`] of a caller and
//! port, paths generalised ([`shape`]), and [`LOOKUPS`] combinations a second that a worker looks for. A request of a
//! combination that its worker knows costs a hash of its path and an addition: workers count in cells of their own.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use identity::Peer;
use rand::random;

mod shape;
#[cfg(test)]
mod tests;

use shape::{REST, shape};

/// The number of combinations of a proxy. Each takes some 300 bytes.
const MAX_ENTRIES: usize = 256;
/// The number of combinations of a caller and port.
const MAX_OF_CALLER: usize = 64;
/// The number of names below one path for a method. With more, they are taken for parameters: any path below it is one
/// combination.
const MAX_CHILDREN: usize = 16;
/// The number of combinations that a worker finds without a lookup.
const SLOTS: usize = 512;
/// The number of lookups of a worker in a second. One takes some ten microseconds; requests beyond are not counted.
const LOOKUPS: u32 = 64;
/// The longest method that is recorded. Policies match the case of methods, and `*` in them is a pattern.
const MAX_METHOD: usize = 16;

/// What a proxy has accepted since it started. Clones refer to the same state.
#[derive(Debug, Clone, Default)]
pub struct ObservedTraffic {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    since: Instant,
    table: Mutex<Table>,
}

impl Default for Shared {
    fn default() -> Self {
        Shared { since: Instant::now(), table: Mutex::default() }
    }
}

/// A combination of what was accepted, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The caller's SPIFFE ID; `None` without mutual TLS. Then methods and paths are not recorded.
    pub principal: Option<Arc<str>>,
    /// The cluster that the caller's certificate proves.
    pub cluster: Option<Arc<str>>,
    /// The port of the application.
    pub port: u16,
    /// The method; `None` for opaque connections.
    pub method: Option<Box<str>>,
    /// The path as a template of AuthorizationPolicies; empty for opaque connections.
    pub path: Box<str>,
    /// The number of requests or connections.
    pub count: u64,
}

#[derive(Debug, Default)]
struct Table {
    entries: Vec<Entry>,
    workers: u32,
    /// Of each worker, what it did not record.
    unrecorded: Vec<Arc<AtomicU64>>,
}

#[derive(Debug)]
struct Entry {
    principal: Option<Arc<str>>,
    cluster: Option<Arc<str>>,
    port: u16,
    method: Option<Box<str>>,
    path: Box<str>,
    /// The counts, each with the worker that adds to it. A worker has several after combinations became one.
    cells: Vec<(u32, Arc<AtomicU64>)>,
}

/// A caller, and the port of the application that it called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Called<'a> {
    pub(crate) peer: Option<&'a Peer>,
    pub(crate) port: u16,
}

impl ObservedTraffic {
    /// Returns the recorder of a worker.
    pub(super) fn worker(&self) -> WorkerObserved {
        let mut table = lock(&self.shared.table);
        table.workers += 1;
        let unrecorded = Arc::<AtomicU64>::default();
        table.unrecorded.push(unrecorded.clone());
        let (slots, lookups) = (RefCell::default(), Cell::new((Instant::now(), LOOKUPS)));
        WorkerObserved { traffic: self.clone(), id: table.workers, seed: random(), slots, lookups, unrecorded }
    }

    /// Returns the time since the recording began.
    pub fn age(&self) -> Duration {
        self.shared.since.elapsed()
    }

    /// Returns the number of accepted requests and connections that are in no combination.
    pub fn unrecorded(&self) -> u64 {
        lock(&self.shared.table).unrecorded.iter().map(|cell| cell.load(Relaxed)).sum()
    }

    /// Returns what was accepted, at most 256 combinations.
    pub fn accepted(&self) -> Vec<Accepted> {
        let table = lock(&self.shared.table);
        let accepted = table.entries.iter().map(|entry| Accepted {
            principal: entry.principal.clone(),
            cluster: entry.cluster.clone(),
            port: entry.port,
            method: entry.method.clone(),
            path: entry.path.clone(),
            count: entry.cells.iter().map(|(_, cell)| cell.load(Relaxed)).sum(),
        });
        accepted.collect()
    }
}

/// The recorder of one worker.
#[derive(Debug)]
pub(super) struct WorkerObserved {
    traffic: ObservedTraffic,
    id: u32,
    /// Makes fingerprints differ between proxies, so that nobody can prepare paths whose fingerprints are equal.
    seed: u64,
    /// Known fingerprints with their cells, each at its place; allocated with the first request.
    slots: RefCell<Vec<Slot>>,
    /// When lookups were granted, and how many are left.
    lookups: Cell<(Instant, u32)>,
    unrecorded: Arc<AtomicU64>,
}

type Slot = Option<(u64, Arc<AtomicU64>)>;

impl WorkerObserved {
    /// Returns the fingerprint of a caller and port, with which those of its requests begin.
    pub(super) fn fingerprint(&self, called: Called<'_>) -> u64 {
        let seed = self.seed ^ u64::from(called.port);
        let Some(peer) = called.peer else { return seed };
        let cluster = peer.cluster.as_deref().unwrap_or_default();
        shape::hash(shape::hash(seed, peer.id.as_str()), cluster)
    }

    /// Counts a request that was accepted. `caller` is the fingerprint of `called`.
    pub(super) fn request(&self, caller: u64, called: Called<'_>, method: &str, path: &str, now: Instant) {
        if called.peer.is_none() {
            return self.count(caller, now, |table, id| table.cell(id, called, None, ""));
        }
        let fingerprint = shape::fingerprint(shape::hash(caller, method), path);
        self.count(fingerprint, now, |table, id| {
            let usual = method.len() <= MAX_METHOD && method.bytes().all(|byte| byte.is_ascii_uppercase());
            usual.then(|| table.cell(id, called, Some(method), &shape(path)))?
        });
    }

    /// Counts an opaque connection that was accepted.
    pub(super) fn connection(&self, called: Called<'_>) {
        let fingerprint = self.fingerprint(called);
        self.count(fingerprint, Instant::now(), |table, id| table.cell(id, called, None, ""));
    }

    fn count(&self, fingerprint: u64, now: Instant, find: impl FnOnce(&mut Table, u32) -> Option<Arc<AtomicU64>>) {
        let mut slots = self.slots.borrow_mut();
        // The remainder is less than the number of slots.
        let place = (fingerprint % SLOTS as u64) as usize;
        match slots.get(place) {
            Some(Some((of, cell))) if *of == fingerprint => return add(cell),
            Some(_) => {}
            None => slots.resize(SLOTS, None),
        }
        let (granted, left) = self.lookups.get();
        let renewed = now.saturating_duration_since(granted) >= Duration::from_secs(1);
        let (granted, left) = if renewed { (now, LOOKUPS) } else { (granted, left) };
        if left == 0 {
            return add(&self.unrecorded);
        }
        self.lookups.set((granted, left - 1));
        let found = find(&mut lock(&self.traffic.shared.table), self.id);
        let cell = found.unwrap_or_else(|| self.unrecorded.clone());
        add(&cell);
        slots[place] = Some((fingerprint, cell));
    }
}

/// Adds one to a cell that only this thread writes.
fn add(cell: &AtomicU64) {
    cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed);
}

impl Table {
    /// Returns the worker's cell of a combination. Returns `None` if there are too many.
    fn cell(&mut self, id: u32, called: Called<'_>, method: Option<&str>, path: &str) -> Option<Arc<AtomicU64>> {
        if let Some(known) = self.entries.iter_mut().find(|of| of.is(called, method) && covers(&of.path, path)) {
            return Some(known.cell(id));
        }
        let of_method = self.entries.iter().filter(|of| of.is(called, method));
        let mut general = generalised(path, of_method.map(|of| &*of.path));
        if general.is_none() && self.entries.iter().filter(|of| of.called(called)).count() >= MAX_OF_CALLER {
            general = (!path.is_empty()).then(|| format!("/{REST}"));
        }
        let path = general.unwrap_or_else(|| path.to_owned());
        let mut cells = Vec::new();
        self.entries.retain_mut(|of| {
            let covered = of.is(called, method) && covers(&path, &of.path);
            if covered {
                cells.append(&mut of.cells);
            }
            !covered
        });
        if self.entries.len() >= MAX_ENTRIES
            || self.entries.iter().filter(|of| of.called(called)).count() >= MAX_OF_CALLER
        {
            return None;
        }
        let principal = called.peer.map(|peer| Arc::from(peer.id.as_str()));
        let cluster = called.peer.and_then(|peer| peer.cluster.clone());
        let (port, method, path) = (called.port, method.map(Box::from), path.into());
        self.entries.push(Entry { principal, cluster, port, method, path, cells });
        self.entries.last_mut().map(|of| of.cell(id))
    }
}

impl Entry {
    fn called(&self, called: Called<'_>) -> bool {
        let cluster = called.peer.and_then(|peer| peer.cluster.as_ref());
        self.port == called.port
            && self.principal.as_deref() == called.peer.map(|peer| peer.id.as_str())
            && self.cluster.as_ref() == cluster
    }

    fn is(&self, called: Called<'_>, method: Option<&str>) -> bool {
        self.called(called) && self.method.as_deref() == method
    }

    fn cell(&mut self, id: u32) -> Arc<AtomicU64> {
        if let Some((_, cell)) = self.cells.iter().find(|(of, _)| *of == id) {
            return cell.clone();
        }
        let cell = Arc::<AtomicU64>::default();
        self.cells.push((id, cell.clone()));
        cell
    }
}

/// Returns whether a template is another one, or stands for all of what that one stands for.
fn covers(template: &str, other: &str) -> bool {
    template == other || template.strip_suffix(REST).is_some_and(|prefix| other.starts_with(prefix))
}

/// Returns the template of everything below the first directory that would have too many names with a new path. `None`: none
/// would.
fn generalised<'a>(path: &str, others: impl Iterator<Item = &'a str> + Clone) -> Option<String> {
    let ends = path.match_indices('/').map(|(at, _)| at + 1);
    let crowded = |directory: &&str| {
        let name = |path: &'a str| path.strip_prefix(directory)?.split('/').next();
        let mut names: Vec<&str> = others.clone().filter_map(name).collect();
        names.sort_unstable();
        names.dedup();
        let own = path[directory.len()..].split('/').next().unwrap_or_default();
        names.len() >= MAX_CHILDREN && names.binary_search(&own).is_err()
    };
    ends.map(|end| &path[..end]).find(crowded).map(|directory| format!("{directory}{REST}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
