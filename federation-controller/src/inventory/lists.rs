//! The state of each kind's list in one cluster, and when an empty list is believed.
//!
//! An API server that comes back without its data, or behind a broken proxy, answers with empty lists. So an empty list of a
//! kind of which the cluster had objects removes nothing. It is believed after [`CONFIRM_EMPTY`] of an unbroken link, and of a
//! remote cluster only with a second signal: the list is repeated and still empty, or the data path to the cluster is dead as
//! well. While proxies still reach pods of the cluster, lists without pods and endpoints are not believed at all.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use crate::objects::event::ClusterRole;
use crate::objects::{Key, Kind, Text};

/// An empty list of a kind of which the cluster had objects is believed after this long of an unbroken link at the earliest.
///
/// A person or a probe takes tens of seconds to notice that a server has lost its data, and stop it. Deletions that a watch
/// reports are believed at once.
pub const CONFIRM_EMPTY: Duration = Duration::from_secs(30);

/// What proxies say about the pods of a cluster.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PathEvidence {
    /// When a proxy of another cluster last reached a pod.
    pub(super) alive: Option<SystemTime>,
    /// A quorum of proxies does not reach the cluster.
    pub(super) dead: bool,
}

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
    /// The last list was unexpectedly empty.
    doubtful: Option<Doubt>,
}

/// An unexpectedly empty list.
#[derive(Debug)]
struct Doubt {
    /// When it ended.
    since: SystemTime,
    /// The objects that have appeared since.
    seen: HashSet<Key>,
    /// When a repetition that began long enough after it ended, empty again.
    repeated: bool,
    /// When a repetition was last asked for.
    asked: Option<SystemTime>,
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
            match &mut list.doubtful {
                Some(doubt) => {
                    doubt.repeated |= now.duration_since(doubt.since).is_ok_and(|age| age >= CONFIRM_EMPTY);
                    doubt.seen = seen;
                }
                None => list.doubtful = Some(Doubt { since: now, seen, repeated: false, asked: None }),
            }
            return Vec::new();
        }
        list.doubtful = None;
        known.into_iter().filter(|key| !seen.contains(key)).collect()
    }

    /// Believes the empty list of a kind if it is confirmed. `path` is what proxies say of a remote cluster; `None`: the cluster
    /// is the controller's own. Returns the objects that the cluster has.
    pub(super) fn confirm(
        &mut self,
        kind: Kind,
        connected_since: SystemTime,
        path: Option<PathEvidence>,
        now: SystemTime,
    ) -> Option<HashSet<Key>> {
        let list = &mut self.lists[kind as usize];
        let doubt = list.doubtful.as_ref()?;
        let age = now.duration_since(connected_since.max(doubt.since)).unwrap_or_default();
        let contradicted = |path: &PathEvidence| proves(kind) && path.alive.is_some_and(|alive| alive > doubt.since);
        let confirmed = path.is_none_or(|path| path.dead || (doubt.repeated && !contradicted(&path)));
        if age < CONFIRM_EMPTY || !confirmed {
            return None;
        }
        list.doubtful.take().map(|doubt| doubt.seen)
    }

    /// Returns whether lists are to be repeated, because one was unexpectedly empty and the link has been up since for long
    /// enough. They are asked for once in that time.
    pub(super) fn take_relist(&mut self, connected_since: SystemTime, now: SystemTime) -> bool {
        let passed = |since: SystemTime| now.duration_since(since).is_ok_and(|age| age >= CONFIRM_EMPTY);
        let mut doubts = self.lists.iter_mut().filter_map(|list| list.doubtful.as_mut());
        let due = |doubt: &&mut Doubt| {
            !doubt.repeated && passed(connected_since.max(doubt.since)) && doubt.asked.is_none_or(passed)
        };
        let mut found = false;
        while let Some(doubt) = doubts.find(due) {
            doubt.asked = Some(now);
            found = true;
        }
        found
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
        [list.running.as_mut(), list.doubtful.as_mut().map(|doubt| &mut doubt.seen)].into_iter().flatten()
    }
}

/// Returns whether a pod that answers proves that the cluster has objects of a kind. Exports and the like are what this
/// controller tells the cluster's gateway, which would go on forwarding.
fn proves(kind: Kind) -> bool {
    matches!(kind, Kind::Pod | Kind::Slice)
}

/// Returns whether an object shows that the cluster has its data. The objects of every new cluster do not.
fn is_evidence(key: &Key) -> bool {
    match &*key.namespace {
        "" => !matches!(&*key.name, "default" | "kube-system" | "kube-public" | "kube-node-lease"),
        "default" => &*key.name != "kubernetes",
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Returns lists of which that of a kind is unexpectedly empty since second 100.
    fn doubtful(kind: Kind) -> (Lists, Vec<Key>) {
        let (mut lists, known) = (Lists::default(), vec![Key::new("shop", "a")]);
        lists.begin(kind);
        assert!(lists.end(kind, known.clone(), at(100)).is_empty());
        (lists, known)
    }

    #[test]
    fn an_empty_list_of_a_remote_cluster_needs_a_second_signal() {
        let path = PathEvidence::default();
        let dead = PathEvidence { dead: true, ..path };
        let alive = |seconds| PathEvidence { alive: Some(at(seconds)), ..path };
        // The kind, when the list is repeated, what proxies say, since when the link is up, now, and whether it is believed.
        for (kind, repeated, path, connected, now, believed) in [
            (Kind::Pod, None, None, 0, 129, false),
            (Kind::Pod, None, None, 0, 130, true),
            (Kind::Pod, None, None, 110, 139, false),
            (Kind::Pod, None, Some(path), 0, 1_000, false),
            (Kind::Pod, Some(120), Some(path), 0, 1_000, false),
            (Kind::Pod, Some(131), Some(path), 0, 131, true),
            (Kind::Pod, Some(131), Some(path), 125, 131, false),
            (Kind::Pod, None, Some(dead), 0, 129, false),
            (Kind::Pod, None, Some(dead), 0, 130, true),
            (Kind::Pod, Some(131), Some(alive(90)), 0, 131, true),
            (Kind::Pod, Some(131), Some(alive(101)), 0, 1_000, false),
            (Kind::Slice, Some(131), Some(alive(101)), 0, 1_000, false),
            (Kind::Export, Some(131), Some(alive(101)), 0, 1_000, true),
        ] {
            let (mut lists, known) = doubtful(kind);
            if let Some(repeated) = repeated {
                lists.begin(kind);
                assert!(lists.end(kind, known, at(repeated)).is_empty());
            }
            let found = lists.confirm(kind, at(connected), path, at(now));
            assert_eq!(found.is_some(), believed, "{kind:?} {repeated:?} {path:?} {connected} {now}");
        }
    }

    #[test]
    fn a_repetition_is_asked_for_once_in_a_while_and_ends_the_doubt_if_it_is_not_empty() {
        let (mut lists, known) = doubtful(Kind::Pod);
        assert!(!lists.take_relist(at(0), at(129)));
        assert!(!lists.take_relist(at(120), at(149)), "the link was lost in between");
        assert!(lists.take_relist(at(120), at(150)));
        assert!(!lists.take_relist(at(120), at(179)));
        assert!(lists.take_relist(at(120), at(180)));
        lists.begin(Kind::Pod);
        lists.add(Kind::Pod, &known[0]);
        assert!(lists.end(Kind::Pod, known, at(181)).is_empty());
        assert!(lists.doubtful().is_empty() && !lists.take_relist(at(0), at(1_000)));
    }
}
