//! The changes that wait for compilation, by the cluster that caused them.
//!
//! A cluster that changes much has many changes, and they wait for its own turns only: each turn takes as many changes of each
//! cluster that has some. A change that two clusters cause is taken once.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Bound;

use super::Group;
use crate::objects::{Key, Text};

/// The changes of all clusters.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// By cluster; empty: the controller itself.
    origins: BTreeMap<Text, Origin>,
}

/// The changes that one cluster caused.
#[derive(Debug, Default)]
struct Origin {
    groups: BTreeSet<Group>,
    /// Affected Services, of which the hostnames are not in `groups` yet: a list of pods affects each Service many times.
    services: HashSet<Key>,
    /// The last change that was taken. The next ones are taken after it, so that none waits without end.
    taken: Option<Group>,
}

impl Pending {
    /// Adds changes.
    pub(super) fn groups(&mut self, origin: &Text, groups: impl IntoIterator<Item = Group>) {
        let mut groups = groups.into_iter().peekable();
        if groups.peek().is_some() {
            self.origin(origin).groups.extend(groups);
        }
    }

    /// Adds changes of Services.
    pub(super) fn services(&mut self, origin: &Text, services: impl IntoIterator<Item = Key>) {
        let mut services = services.into_iter().peekable();
        if services.peek().is_some() {
            self.origin(origin).services.extend(services);
        }
    }

    /// Returns whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }

    /// Takes at most `limit` changes, as many of each cluster. `group` returns the group of a Service.
    pub(super) fn take(&mut self, limit: usize, mut group: impl FnMut(&Key) -> Group) -> Vec<Group> {
        for origin in self.origins.values_mut() {
            let services = std::mem::take(&mut origin.services);
            origin.groups.extend(services.iter().map(&mut group));
        }
        let mut taken: Vec<Group> = Vec::new();
        while !self.origins.is_empty() && taken.len() < limit {
            let share = ((limit - taken.len()) / self.origins.len()).max(1);
            let before = taken.len();
            for origin in self.origins.values_mut() {
                origin.take(share.min(limit - taken.len()), &mut taken);
            }
            for origin in self.origins.values_mut() {
                taken[before..].iter().for_each(|group| _ = origin.groups.remove(group));
            }
            self.origins.retain(|_, origin| !origin.groups.is_empty());
        }
        let mut unique = HashSet::new();
        taken.retain(|group| unique.insert(group.clone()));
        taken
    }

    /// Takes one change before the others. Returns whether there was one.
    pub(super) fn take_one(&mut self, group: &Group) -> bool {
        let mut had = false;
        for origin in self.origins.values_mut() {
            had |= origin.groups.remove(group);
        }
        self.origins.retain(|_, origin| !origin.groups.is_empty() || !origin.services.is_empty());
        had
    }

    fn origin(&mut self, origin: &Text) -> &mut Origin {
        self.origins.entry(origin.clone()).or_default()
    }
}

impl Origin {
    fn take(&mut self, limit: usize, to: &mut Vec<Group>) {
        if self.groups.len() <= limit {
            self.taken = None;
            to.extend(std::mem::take(&mut self.groups));
            return;
        }
        let after = self.taken.take().map_or(Bound::Unbounded, Bound::Excluded);
        let mut taken: Vec<Group> = self.groups.range((after, Bound::Unbounded)).take(limit).cloned().collect();
        let rest = limit - taken.len();
        taken.extend(self.groups.iter().take(rest).cloned());
        taken.iter().for_each(|group| _ = self.groups.remove(group));
        self.taken = taken.last().cloned();
        to.extend(taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str) -> Group {
        Group::Service(name.into())
    }

    fn take(pending: &mut Pending, limit: usize) -> Vec<String> {
        let taken = pending.take(limit, |key| group(&key.name)).into_iter();
        taken.map(|group| if let Group::Service(name) = group { name.to_string() } else { String::new() }).collect()
    }

    #[test]
    fn changes_of_one_cluster_beyond_the_limit_are_taken_in_turn() {
        let mut pending = Pending::default();
        let east: Text = "east".into();
        pending.groups(&east, (0..5).map(|i| group(&i.to_string())));
        assert_eq!(take(&mut pending, 2), ["0", "1"]);
        // A change that repeats does not keep the others waiting.
        pending.groups(&east, [group("0")]);
        assert_eq!(take(&mut pending, 2), ["2", "3"]);
        assert_eq!(take(&mut pending, 2), ["0", "4"]);
        assert!(pending.is_empty());
    }

    #[test]
    fn a_cluster_with_many_changes_does_not_delay_those_of_others() {
        let mut pending = Pending::default();
        let (rogue, west): (Text, Text) = ("rogue".into(), "west".into());
        pending.services(&rogue, (0..20_000).map(|i| Key::new("a", &format!("a{i}"))));
        for turn in 0..3 {
            pending.services(&west, [Key::new("default", &format!("reviews-{turn}"))]);
            let taken = take(&mut pending, 1024);
            assert_eq!(taken.len(), 1024);
            assert!(taken.contains(&format!("reviews-{turn}")), "in the first turn after it");
        }
        // A change that both cause is taken once.
        pending.services(&west, [Key::new("a", "a19999")]);
        assert!(take(&mut pending, 10).contains(&"a19999".to_owned()));
        let rest = take(&mut pending, usize::MAX);
        assert!(!rest.contains(&"a19999".to_owned()) && pending.is_empty());
        assert_eq!(rest.len() + 3 * 1023 + 10, 20_000);
    }
}
