//! What is to be written for the registered workloads.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::networking::WorkloadGroupSpec;
use tokio::time::Instant;
use wire::discovery::ApplicationHealth;

use crate::inventory::Inventory;
use crate::inventory::registered::{Member, account_of, admit, group_of};
use crate::objects::{Key, Record as _, Text, WorkloadEntry};

/// The number of writes of one turn.
const WRITES: usize = 100;
/// The time for a write to arrive by the watch, before it is made again.
const AGAIN: Duration = Duration::from_secs(5);
/// The shortest time between writes of the health of one entry, however often its proxy reports another.
const BETWEEN: Duration = Duration::from_secs(1);
/// The time that proxies have to connect to a controller that has started, before their entries are removed.
const FIRST: Duration = Duration::from_secs(60);

/// An entry that is to be registered.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NewEntry {
    /// The namespace and name.
    pub(super) key: Key,
    /// The name of the WorkloadGroup.
    pub(super) group: Text,
    pub(super) ip: IpAddr,
    pub(super) network: Text,
    pub(super) account: Text,
    /// The cluster of the controller, which the entry names as its writer.
    pub(super) controller: Text,
    pub(super) spec: Arc<WorkloadGroupSpec>,
}

/// Something to write.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// Creates an entry.
    Register(NewEntry),
    /// Deletes an entry.
    Remove(Key),
    /// Sets the condition `Healthy` of an entry.
    Health { key: Key, healthy: bool },
}

impl Action {
    fn key(&self) -> &Key {
        match self {
            Action::Register(entry) => &entry.key,
            Action::Remove(key) | Action::Health { key, .. } => key,
        }
    }
}

/// The state from which plans are made.
#[derive(Debug)]
pub(super) struct Plan {
    grace: Duration,
    began: Option<Instant>,
    /// Since when registered entries have had no proxy.
    away: HashMap<Key, Instant>,
    /// The entries whose proxies have been connected to this process.
    seen: HashSet<Key>,
    /// What was written last for each entry, and when.
    written: HashMap<Key, (Action, Instant)>,
    /// The reasons that have been logged.
    refused: HashMap<Key, String>,
}

impl Plan {
    pub(super) fn new(grace: Duration) -> Self {
        Plan {
            grace,
            began: None,
            away: HashMap::new(),
            seen: HashSet::new(),
            written: HashMap::new(),
            refused: HashMap::new(),
        }
    }

    /// Returns what is to be written now.
    pub(super) fn next(&mut self, inventory: &Inventory, members: &[Member], now: Instant) -> Vec<Action> {
        let Some(own) = inventory.primary() else { return Vec::new() };
        let began = *self.began.get_or_insert(now);
        let members = self.admitted(inventory, members);
        let mut actions = Vec::new();
        for (key, member) in &members {
            self.seen.insert((*key).clone());
            match own.workload_entries().get(key) {
                Some(entry) => actions.extend(health(entry, member)),
                None => {
                    let group = Key { namespace: key.namespace.clone(), name: member.group.clone() };
                    let spec = own.workload_groups().get(&group).and_then(|group| group.spec.clone());
                    actions.extend(spec.map(|spec| {
                        Action::Register(NewEntry {
                            key: (*key).clone(),
                            group: member.group.clone(),
                            ip: member.ip,
                            network: member.network.clone(),
                            account: account_of(&spec).into(),
                            controller: own.info.name.clone(),
                            spec,
                        })
                    }));
                }
            }
        }
        let registered = own.workload_entries().values().filter(|entry| group_of(entry).is_some());
        let without: HashSet<Key> =
            registered.map(WorkloadEntry::key).filter(|key| !members.contains_key(key)).collect();
        self.away.retain(|key, _| without.contains(key));
        for key in without {
            let since = *self.away.entry(key.clone()).or_insert(now);
            // What connected to the process before this one may still be about to come back.
            let due = if self.seen.contains(&key) { since + self.grace } else { began + self.grace.max(FIRST) };
            if now >= due {
                self.seen.remove(&key);
                actions.push(Action::Remove(key));
            }
        }
        self.written.retain(|_, (_, at)| now < *at + AGAIN);
        actions.retain(|action| match self.written.get(action.key()) {
            Some((written, _)) if written == action => false,
            Some((_, at)) => !matches!(action, Action::Health { .. }) || now >= *at + BETWEEN,
            None => true,
        });
        actions.truncate(WRITES);
        self.written.extend(actions.iter().map(|action| (action.key().clone(), (action.clone(), now))));
        actions
    }

    /// Returns the proxies that may be registered, by the names of their entries. Each refusal is logged once.
    fn admitted<'a>(&mut self, inventory: &Inventory, members: &'a [Member]) -> BTreeMap<&'a Key, &'a Member> {
        let mut admitted = BTreeMap::new();
        let mut refused = HashMap::new();
        for member in members {
            match admit(inventory, member) {
                Ok(()) => _ = admitted.insert(&member.entry, member),
                Err(why) => {
                    if self.refused.get(&member.entry) != Some(&why) {
                        tracing::warn!(entry = %member.entry, why, "a workload is not registered");
                    }
                    refused.insert(member.entry.clone(), why);
                }
            }
        }
        self.refused = refused;
        admitted
    }
}

/// Returns the write by which an entry has the health that its proxy reports.
fn health(entry: &WorkloadEntry, member: &Member) -> Option<Action> {
    let spec = entry.spec.as_ref()?;
    let healthy = match member.health {
        ApplicationHealth::Unknown => return None,
        ApplicationHealth::Healthy => true,
        ApplicationHealth::Unhealthy => false,
    };
    (spec.unready == healthy).then(|| Action::Health { key: entry.key(), healthy })
}

#[cfg(test)]
mod tests;
