//! The connections of a listener and their sources: who is admitted, and who loses a place for it. No IO, no clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::list::{Links, List};
use super::ranking::Ranking;
use super::{Activity, Limits, Source};

/// A source may hold this many times as many connections as are free. Known from switches as a dynamic threshold (Choudhury
/// and Hahne, 1998): no source can take all, and the shares follow the number of sources without a setting.
pub const SHARE: u64 = 4;
/// The number of proven connections of a source that are looked at to find an idle one.
const STEPS: u32 = 16;
/// The number of sources that are looked at to find one with a connection to close, the largest first.
const SOURCES: usize = 8;
/// The number of overdue connections that are closed at a time.
const BATCH: usize = 256;

/// A place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id {
    index: u32,
    generation: u32,
}

/// The tasks of connections that lost their places; `None` if the task is not known yet.
#[derive(Debug, Default)]
pub(super) struct Displaced {
    pub(super) pending: Vec<Option<AbortHandle>>,
    pub(super) idle: Vec<Option<AbortHandle>>,
}

/// A connection.
#[derive(Debug)]
struct Entry {
    generation: u32,
    source: u32,
    state: State,
    task: Option<AbortHandle>,
    activity: Arc<Activity>,
    in_source: Links,
    in_pending: Links,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Pending {
        since: Instant,
    },
    Proven,
    /// It lost its place, and its task has not ended yet.
    Displaced,
    /// The place is free.
    Free,
}

/// A source with its connections.
#[derive(Debug)]
struct Account {
    source: Source,
    held: u32,
    pending_count: u32,
    dialled: u32,
    /// The number of holders of buffered bytes, and the bytes.
    kept: u32,
    buffered: u64,
    /// The oldest first.
    pending: List,
    /// The oldest first, except that those found in use are behind the others.
    proven: List,
    by_held: Links,
    by_pending: Links,
}

#[derive(Debug)]
pub(super) struct Table {
    limits: Limits,
    len: u32,
    pending_count: u32,
    dialled: u32,
    buffered: u64,
    entries: Vec<Entry>,
    free_entries: Vec<u32>,
    /// All pending connections, the oldest first.
    pending: List,
    accounts: Vec<Account>,
    free_accounts: Vec<u32>,
    /// A keyed hash, so that nobody can choose addresses whose hashes collide.
    by_source: HashMap<Source, u32>,
    by_held: Ranking,
    by_pending: Ranking,
}

impl Table {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            len: 0,
            pending_count: 0,
            dialled: 0,
            buffered: 0,
            entries: Vec::new(),
            free_entries: Vec::new(),
            pending: List::default(),
            accounts: Vec::new(),
            free_accounts: Vec::new(),
            by_source: HashMap::new(),
            by_held: Ranking::default(),
            by_pending: Ranking::default(),
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn pending(&self) -> u32 {
        self.pending_count
    }

    /// Admits a connection, or returns `None` if there is no room and no connection can be closed for it.
    pub(super) fn admit(&mut self, source: Source, activity: Arc<Activity>, now: Instant) -> Option<(Id, Displaced)> {
        let mut displaced = Displaced::default();
        let account = self.account(source);
        if !self.make_room(account, &mut displaced) {
            self.release(account);
            return None;
        }
        // Its only connection may have made the room.
        let account = self.account(source);
        let (state, task, links) = (State::Free, None, Links::default());
        let index = self.free_entries.pop().unwrap_or_else(|| {
            let (activity, in_source, in_pending) = (activity.clone(), links, links);
            self.entries.push(Entry { generation: 0, source: account, state, task, activity, in_source, in_pending });
            self.entries.len() as u32 - 1
        });
        let entry = &mut self.entries[index as usize];
        (entry.source, entry.activity) = (account, activity);
        let id = Id { index, generation: entry.generation };
        self.len += 1;
        let held = &mut self.accounts[account as usize].held;
        *held += 1;
        let change = (*held - 1, *held);
        self.by_held.change(&mut self.accounts, account, change, |account| &mut account.by_held);
        self.enter_pending(index, now, &mut displaced);
        Some((id, displaced))
    }

    /// Sets the task of a connection. Returns it if the connection has lost its place in the meantime.
    pub(super) fn attach(&mut self, id: Id, task: AbortHandle) -> Option<AbortHandle> {
        let entry = self.entry(id)?;
        if entry.state == State::Displaced {
            return Some(task);
        }
        entry.task = Some(task);
        None
    }

    /// Frees the place of a connection that has ended.
    pub(super) fn remove(&mut self, id: Id) {
        if self.entry(id).is_none() {
            return;
        }
        self.leave(id.index);
        let entry = &mut self.entries[id.index as usize];
        entry.state = State::Free;
        entry.task = None;
        entry.generation = entry.generation.wrapping_add(1);
        self.free_entries.push(id.index);
    }

    /// Moves a connection from the pending to the proven ones.
    pub(super) fn prove(&mut self, id: Id) {
        if self.entry(id).is_some_and(|entry| matches!(entry.state, State::Pending { .. })) {
            self.leave_pending(id.index);
            self.enter_proven(id.index);
        }
    }

    /// Moves a connection from the proven to the pending ones.
    pub(super) fn suspect(&mut self, id: Id, now: Instant) -> Displaced {
        let mut displaced = Displaced::default();
        if self.entry(id).is_some_and(|entry| entry.state == State::Proven) {
            self.leave_proven(id.index);
            self.enter_pending(id.index, now, &mut displaced);
        }
        displaced
    }

    /// Counts a connection that is opened on behalf of another one, and returns the account that it counts for.
    pub(super) fn dial(&mut self, id: Id) -> Option<u32> {
        let free = self.limits.dialled.saturating_sub(self.dialled);
        let index = self.account_of(id)?;
        let account = &mut self.accounts[index as usize];
        if u64::from(account.dialled) >= SHARE * u64::from(free) {
            return None;
        }
        account.dialled += 1;
        self.dialled += 1;
        Some(index)
    }

    /// Counts a dialled connection as closed.
    pub(super) fn hang_up(&mut self, account: u32) {
        self.accounts[account as usize].dialled -= 1;
        self.dialled -= 1;
        self.release(account);
    }

    /// Keeps the account of a connection, for bytes that are held for it.
    pub(super) fn keep(&mut self, id: Id) -> Option<u32> {
        let index = self.account_of(id)?;
        self.accounts[index as usize].kept += 1;
        Some(index)
    }

    /// Counts more bytes as held, if there is room.
    pub(super) fn grow(&mut self, account: u32, bytes: u64) -> bool {
        let free = self.limits.buffered.saturating_sub(self.buffered);
        let account = &mut self.accounts[account as usize];
        if bytes > free || account.buffered + bytes > SHARE * free {
            return false;
        }
        account.buffered += bytes;
        self.buffered += bytes;
        true
    }

    /// Counts bytes as no longer held.
    pub(super) fn shrink(&mut self, account: u32, bytes: u64) {
        self.accounts[account as usize].buffered -= bytes;
        self.buffered -= bytes;
    }

    /// Counts the rest of a holder's bytes as no longer held, and lets go of the account.
    pub(super) fn release_kept(&mut self, account: u32, bytes: u64) {
        self.shrink(account, bytes);
        self.accounts[account as usize].kept -= 1;
        self.release(account);
    }

    /// Takes the places of connections that are pending for longer than `deadline`. Returns their tasks, and when to look again.
    pub(super) fn overdue(&mut self, now: Instant, deadline: Duration) -> (Vec<AbortHandle>, Instant) {
        let mut tasks = Vec::new();
        for _ in 0..BATCH {
            let Some(index) = self.pending.front() else { return (tasks, now + deadline) };
            if let State::Pending { since } = self.entries[index as usize].state
                && since + deadline > now
            {
                return (tasks, since + deadline);
            }
            tasks.extend(self.displace(index));
        }
        (tasks, now)
    }

    /// Makes room for one more connection of an account. Returns whether there is.
    fn make_room(&mut self, account: u32, displaced: &mut Displaced) -> bool {
        let free = self.limits.connections.saturating_sub(self.len);
        if free == 0 {
            let largest = self.by_held.greatest(&self.accounts, SOURCES, |account| &account.by_held);
            // Taking a place changes the ranking.
            let mut candidates = [0; SOURCES];
            let count = largest.zip(&mut candidates).map(|(account, candidate)| *candidate = account).count();
            return candidates[..count].iter().any(|account| self.take_place(*account, displaced));
        }
        let within_share = u64::from(self.accounts[account as usize].held) < SHARE * u64::from(free);
        within_share || self.take_place(account, displaced)
    }

    /// Takes the place of one of a source's connections: the oldest pending one, or one that is idle.
    fn take_place(&mut self, account: u32, displaced: &mut Displaced) -> bool {
        if let Some(index) = self.accounts[account as usize].pending.front() {
            displaced.pending.push(self.displace(index));
            return true;
        }
        let Some(index) = self.idle(account) else { return false };
        displaced.idle.push(self.displace(index));
        true
    }

    /// Finds an idle connection of a source, among its first proven ones. Those in use are put behind the others.
    fn idle(&mut self, account: u32) -> Option<u32> {
        for _ in 0..STEPS {
            let index = self.accounts[account as usize].proven.front()?;
            if self.entries[index as usize].activity.is_idle() {
                return Some(index);
            }
            self.leave_proven(index);
            self.enter_proven(index);
        }
        None
    }

    fn enter_pending(&mut self, index: u32, now: Instant, displaced: &mut Displaced) {
        if self.pending_count >= self.limits.pending {
            let most = self.by_pending.greatest(&self.accounts, 1, |account| &account.by_pending).next();
            if let Some(oldest) = most.and_then(|account| self.accounts[account as usize].pending.front()) {
                displaced.pending.push(self.displace(oldest));
            }
        }
        let number = self.entries[index as usize].source;
        self.entries[index as usize].state = State::Pending { since: now };
        self.pending_count += 1;
        self.pending.push_back(&mut self.entries, index, |entry| &mut entry.in_pending);
        let account = &mut self.accounts[number as usize];
        account.pending.push_back(&mut self.entries, index, |entry| &mut entry.in_source);
        account.pending_count += 1;
        let change = (account.pending_count - 1, account.pending_count);
        self.by_pending.change(&mut self.accounts, number, change, |account| &mut account.by_pending);
    }

    fn leave_pending(&mut self, index: u32) {
        let number = self.entries[index as usize].source;
        self.pending_count -= 1;
        self.pending.remove(&mut self.entries, index, |entry| &mut entry.in_pending);
        let account = &mut self.accounts[number as usize];
        account.pending.remove(&mut self.entries, index, |entry| &mut entry.in_source);
        account.pending_count -= 1;
        let change = (account.pending_count + 1, account.pending_count);
        self.by_pending.change(&mut self.accounts, number, change, |account| &mut account.by_pending);
    }

    fn enter_proven(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        entry.state = State::Proven;
        let account = &mut self.accounts[entry.source as usize];
        account.proven.push_back(&mut self.entries, index, |entry| &mut entry.in_source);
    }

    fn leave_proven(&mut self, index: u32) {
        let number = self.entries[index as usize].source;
        let account = &mut self.accounts[number as usize];
        account.proven.remove(&mut self.entries, index, |entry| &mut entry.in_source);
    }

    /// Takes the place of a connection, and returns its task if that is known.
    fn displace(&mut self, index: u32) -> Option<AbortHandle> {
        self.leave(index);
        let entry = &mut self.entries[index as usize];
        entry.state = State::Displaced;
        entry.task.take()
    }

    /// Takes a connection out of all lists and counts.
    fn leave(&mut self, index: u32) {
        match self.entries[index as usize].state {
            State::Pending { .. } => self.leave_pending(index),
            State::Proven => self.leave_proven(index),
            State::Displaced | State::Free => return,
        }
        let number = self.entries[index as usize].source;
        self.len -= 1;
        let held = &mut self.accounts[number as usize].held;
        *held -= 1;
        let change = (*held + 1, *held);
        self.by_held.change(&mut self.accounts, number, change, |account| &mut account.by_held);
        self.release(number);
    }

    /// Returns the account of a source.
    fn account(&mut self, source: Source) -> u32 {
        if let Some(index) = self.by_source.get(&source) {
            return *index;
        }
        let account = Account {
            source,
            held: 0,
            pending_count: 0,
            dialled: 0,
            kept: 0,
            buffered: 0,
            pending: List::default(),
            proven: List::default(),
            by_held: Links::default(),
            by_pending: Links::default(),
        };
        let index = match self.free_accounts.pop() {
            Some(index) => {
                self.accounts[index as usize] = account;
                index
            }
            None => {
                self.accounts.push(account);
                self.accounts.len() as u32 - 1
            }
        };
        self.by_source.insert(source, index);
        index
    }

    /// Forgets a source without connections.
    fn release(&mut self, index: u32) {
        let account = &self.accounts[index as usize];
        if account.held == 0
            && account.dialled == 0
            && account.kept == 0
            && self.by_source.remove(&account.source).is_some()
        {
            self.free_accounts.push(index);
        }
    }

    /// Returns the account of an open connection.
    fn account_of(&mut self, id: Id) -> Option<u32> {
        let entry = self.entry(id).filter(|entry| matches!(entry.state, State::Pending { .. } | State::Proven));
        Some(entry?.source)
    }

    fn entry(&mut self, id: Id) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(id.index as usize)?;
        (entry.generation == id.generation).then_some(entry)
    }
}

#[cfg(test)]
mod tests;
