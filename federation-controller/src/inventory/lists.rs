//! The state of each kind's list in one cluster, and when an empty list is believed.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use crate::objects::event::ClusterRole;
use crate::objects::{Key, Kind, Text};

/// An empty list of a kind of which the cluster had objects is believed after this long of an unbroken link.
///
/// An API server that comes back without its data, or behind a broken proxy, answers with empty lists. A person or a probe
/// takes tens of seconds to notice and stop it. Deletions that a watch reports are believed at once.
pub const CONFIRM_EMPTY: Duration = Duration::from_secs(30);

/// The lists of all kinds.
#[derive(Debug, Default)]
pub(super) struct Lists {
    lists: [List; Kind::ALL.len()],
}

#[derive(Debug, Default)]
struct List {
    /// A list has been complete since the process started, or the cluster denies the kind.
    complete: bool,
    /// Why the cluster denies the kind.
    denied: Option<Text>,
    /// The objects of the list in progress.
    running: Option<HashSet<Key>>,
    /// The last list was unexpectedly empty: when it ended, and the objects that have appeared since.
    doubtful: Option<(SystemTime, HashSet<Key>)>,
}

impl Lists {
    /// Returns whether every kind that is watched in the cluster has been listed since the process started.
    pub(super) fn complete(&self, role: ClusterRole) -> bool {
        Kind::watched_in(role).all(|kind| self.lists[kind as usize].complete)
    }

    /// Returns the kinds whose last list was unexpectedly empty and is not believed yet.
    pub(super) fn doubtful(&self) -> Vec<Kind> {
        Kind::ALL.into_iter().filter(|kind| self.lists[*kind as usize].doubtful.is_some()).collect()
    }

    /// Returns the kinds that the cluster denies, and why.
    pub(super) fn denied(&self) -> impl Iterator<Item = (Kind, &Text)> {
        Kind::ALL.into_iter().filter_map(|kind| Some((kind, self.lists[kind as usize].denied.as_ref()?)))
    }

    /// Returns whether a list runs.
    pub(super) fn running(&self) -> bool {
        self.lists.iter().any(|list| list.running.is_some())
    }

    /// Begins a list.
    pub(super) fn begin(&mut self, kind: Kind) {
        self.lists[kind as usize].running = Some(HashSet::new());
    }

    /// Notes that the cluster denies a kind: its list does not end, and nothing waits for it. The known objects stay.
    pub(super) fn deny(&mut self, kind: Kind, why: Text) {
        let list = &mut self.lists[kind as usize];
        (list.complete, list.running, list.denied) = (true, None, Some(why));
    }

    /// Ends a list. Returns the known objects that no longer exist: those that are not in the list, or none if the list is
    /// doubtful.
    pub(super) fn end(&mut self, kind: Kind, known: Vec<Key>, now: SystemTime) -> Vec<Key> {
        let list = &mut self.lists[kind as usize];
        let Some(seen) = list.running.take() else { return Vec::new() };
        (list.complete, list.denied) = (true, None);
        if !seen.iter().any(is_evidence) && known.iter().any(is_evidence) {
            list.doubtful.get_or_insert((now, seen));
            return Vec::new();
        }
        list.doubtful = None;
        known.into_iter().filter(|key| !seen.contains(key)).collect()
    }

    /// Believes the empty list of a kind if nothing contradicted it for [`CONFIRM_EMPTY`] while the link was up. Returns the
    /// objects that the cluster has.
    pub(super) fn confirm(&mut self, kind: Kind, connected_since: SystemTime, now: SystemTime) -> Option<HashSet<Key>> {
        let list = &mut self.lists[kind as usize];
        let (since, _) = list.doubtful.as_ref()?;
        let age = now.duration_since(connected_since.max(*since)).unwrap_or_default();
        if age < CONFIRM_EMPTY {
            return None;
        }
        list.doubtful.take().map(|(_, seen)| seen)
    }

    /// Notes that an object exists.
    pub(super) fn add(&mut self, kind: Kind, key: &Key) {
        for seen in self.open(kind) {
            seen.insert(key.clone());
        }
    }

    /// Notes that an object was deleted.
    pub(super) fn remove(&mut self, kind: Kind, key: &Key) {
        for seen in self.open(kind) {
            seen.remove(key);
        }
    }

    fn open(&mut self, kind: Kind) -> impl Iterator<Item = &mut HashSet<Key>> {
        let list = &mut self.lists[kind as usize];
        [list.running.as_mut(), list.doubtful.as_mut().map(|(_, seen)| seen)].into_iter().flatten()
    }
}

/// Returns whether an object shows that the cluster has its data. The objects of every new cluster do not.
fn is_evidence(key: &Key) -> bool {
    match &*key.namespace {
        "" => !matches!(&*key.name, "default" | "kube-system" | "kube-public" | "kube-node-lease"),
        "default" => &*key.name != "kubernetes",
        _ => true,
    }
}
