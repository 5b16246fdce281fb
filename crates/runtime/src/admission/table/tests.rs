use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering::Relaxed;

use rand::RngExt;

use super::*;

fn source(number: u32) -> Source {
    Source::of(IpAddr::V4(Ipv4Addr::from(number)))
}

/// A table with the connections that it admitted and did not displace, in the order of their arrival.
struct Rig {
    table: Table,
    now: Instant,
    open: Vec<(u32, Id)>,
}

impl Rig {
    fn new(connections: u32, pending: u32) -> Self {
        let limits = Limits { connections, pending, ..Limits::default() };
        Self { table: Table::new(limits), now: Instant::now(), open: Vec::new() }
    }

    /// Admits a connection, and returns it and the number of displaced ones: pending and idle.
    fn admit(&mut self, from: u32) -> Option<(Id, usize, usize)> {
        let (id, displaced) = self.table.admit(source(from), Arc::default(), self.now)?;
        self.drop_displaced();
        self.open.push((from, id));
        Some((id, displaced.pending.len(), displaced.idle.len()))
    }

    fn admit_all(&mut self, from: u32, count: u32) {
        for _ in 0..count {
            self.admit(from);
        }
    }

    fn drop_displaced(&mut self) {
        let table = &mut self.table;
        let displaced: Vec<Id> = self.open.iter().map(|(_, id)| *id).filter(|id| table.is_displaced(*id)).collect();
        self.open.retain(|(_, id)| !displaced.contains(id));
        displaced.into_iter().for_each(|id| table.remove(id));
    }

    fn count(&self, from: u32) -> usize {
        self.open.iter().filter(|(source, _)| *source == from).count()
    }

    fn prove_all(&mut self, from: u32) {
        for (_, id) in self.open.iter().filter(|(source, _)| *source == from) {
            self.table.prove(*id);
        }
    }
}

impl Table {
    fn is_displaced(&mut self, id: Id) -> bool {
        self.entry(id).is_some_and(|entry| entry.state == State::Displaced)
    }

    fn activity(&mut self, id: Id) -> Arc<Activity> {
        self.entry(id).unwrap().activity.clone()
    }
}

#[test]
fn the_source_with_the_most_pending_connections_loses_its_oldest() {
    let mut rig = Rig::new(1000, 10);
    rig.admit_all(1, 3);
    rig.admit_all(2, 7);
    let oldest = rig.open[3].1;
    assert_eq!(rig.admit(3).unwrap().1, 1);
    assert!(rig.open.iter().all(|(_, id)| *id != oldest), "the oldest of the source with the most");
    rig.admit_all(2, 100);
    assert_eq!((rig.count(1), rig.count(2), rig.count(3)), (3, 6, 1), "it pays for its own");
    assert_eq!((rig.table.len(), rig.table.pending()), (10, 10));
}

#[test]
fn a_proven_connection_is_not_pending() {
    let mut rig = Rig::new(1000, 10);
    rig.admit_all(1, 10);
    rig.prove_all(1);
    assert_eq!(rig.table.pending(), 0);
    rig.admit_all(2, 11);
    assert_eq!((rig.count(1), rig.count(2)), (10, 10));
    let id = rig.open[0].1;
    let displaced = rig.table.suspect(id, rig.now);
    assert_eq!(displaced.pending.len(), 1, "a head that begins takes the place of another");
    assert_eq!(rig.table.pending(), 10);
}

#[test]
fn one_source_takes_at_most_four_fifths() {
    let mut rig = Rig::new(1000, 1000);
    for _ in 0..800 {
        let (id, ..) = rig.admit(1).unwrap();
        rig.table.prove(id);
        rig.table.activity(id).uses.fetch_add(1, Relaxed);
    }
    assert!(rig.admit(1).is_none(), "its connections are in use");
    for other in 2..50 {
        assert_eq!(rig.admit(other).map(|(_, pending, idle)| (pending, idle)), Some((0, 0)), "{other}");
    }
}

#[test]
fn at_the_limit_the_largest_source_loses_an_idle_connection() {
    let mut rig = Rig::new(100, 100);
    for other in 0..50 {
        rig.admit_all(other, 2);
    }
    assert_eq!(rig.table.len(), 100);
    (0..50).for_each(|source| rig.prove_all(source));
    let in_use = rig.open[0].1;
    rig.table.activity(in_use).uses.fetch_add(1, Relaxed);
    for new in 100..110 {
        assert_eq!(rig.admit(new).map(|(_, pending, idle)| (pending, idle)), Some((0, 1)), "{new}");
    }
    assert_eq!(rig.table.len(), 100);
    assert!(rig.open.iter().any(|(_, id)| *id == in_use), "a connection in use stays");
}

#[test]
fn connections_are_overdue_after_the_deadline_and_not_before() {
    let mut rig = Rig::new(100, 100);
    let deadline = Duration::from_secs(10);
    rig.admit(1);
    rig.now += Duration::from_secs(4);
    rig.admit(1);
    let proven = rig.admit(1).unwrap().0;
    rig.table.prove(proven);
    let (_, next) = rig.table.overdue(rig.now, deadline);
    assert_eq!((next, rig.table.len()), (rig.now + Duration::from_secs(6), 3));
    let (_, next) = rig.table.overdue(next, deadline);
    assert_eq!((next, rig.table.len()), (rig.now + deadline, 2));
    let (_, later) = rig.table.overdue(next, deadline);
    assert_eq!((later, rig.table.len()), (next + deadline, 1));
}

#[test]
fn dialled_connections_are_shared_by_source() {
    let limits = Limits { dialled: 100, ..Limits::default() };
    let mut table = Table::new(limits);
    let mut admit = |from| table.admit(source(from), Arc::default(), Instant::now()).unwrap().0;
    let (one, two) = (admit(1), admit(2));
    let dialled: Vec<u32> = std::iter::from_fn(|| table.dial(one)).collect();
    assert_eq!(dialled.len(), 80);
    assert!(table.dial(two).is_some());
    table.remove(one);
    dialled.into_iter().for_each(|account| table.hang_up(account));
    assert_eq!(table.accounts.len() - table.free_accounts.len(), 1, "a source without connections is forgotten");
    assert!(table.dial(one).is_none(), "the connection has ended");
}

#[test]
fn bytes_that_are_held_are_shared_by_source() {
    let mut table = Table::new(Limits { buffered: 1000, ..Limits::default() });
    let mut admit = |from| table.admit(source(from), Arc::default(), Instant::now()).unwrap().0;
    let (one, two) = (admit(1), admit(2));
    let (one, two) = (table.keep(one).unwrap(), table.keep(two).unwrap());
    let held = (0..).take_while(|_| table.grow(one, 10)).count();
    assert_eq!(held, 80);
    assert!(table.grow(two, 100) && !table.grow(two, 10_000));
    table.shrink(one, 500);
    assert!(table.grow(one, 10));
    table.release_kept(one, 310);
    assert_eq!(table.buffered, 100);
}

/// Compares the table with counts that are computed anew after each of many random changes.
#[test]
fn counts_and_order_hold_through_random_changes() {
    let mut random = rand::rng();
    for _ in 0..50 {
        let (connections, pending) = (random.random_range(1..40), random.random_range(1..20));
        let mut rig = Rig::new(connections, pending);
        for _ in 0..400 {
            let chosen = (!rig.open.is_empty()).then(|| random.random_range(0..rig.open.len()));
            match (random.random_range(0..6), chosen) {
                (0..3, _) => {
                    let _ = rig.admit(random.random_range(0..6));
                }
                (3, Some(chosen)) => {
                    let (_, id) = rig.open.remove(chosen);
                    rig.table.remove(id);
                }
                (4, Some(chosen)) => rig.table.prove(rig.open[chosen].1),
                (_, Some(chosen)) => drop(rig.table.suspect(rig.open[chosen].1, rig.now)),
                (_, None) => {}
            }
            rig.drop_displaced();
            rig.check(connections, pending);
        }
        for (_, id) in std::mem::take(&mut rig.open) {
            rig.table.remove(id);
        }
        rig.check(connections, pending);
        assert!(rig.table.by_source.is_empty());
    }
}

impl Rig {
    fn check(&mut self, connections: u32, pending: u32) {
        let table = &self.table;
        assert_eq!(table.len() as usize, self.open.len());
        assert!(table.len() <= connections && table.pending() <= pending);
        let is_pending = |entry: &Entry| matches!(entry.state, State::Pending { .. });
        assert_eq!(table.entries.iter().filter(|entry| is_pending(entry)).count(), table.pending() as usize);
        let mut walked = 0;
        let mut next = table.pending.front();
        while let Some(index) = next {
            walked += 1;
            next = table.entries[index as usize].in_pending.next();
        }
        assert_eq!(walked, table.pending());
        let largest = table.by_held.greatest(&table.accounts, 1, |account| &account.by_held).next();
        let held = |account: u32| table.accounts[account as usize].held;
        let expected = table.by_source.values().map(|account| held(*account)).max();
        assert_eq!(largest.map(held), expected.filter(|most| *most > 0));
        for (source, account) in &table.by_source {
            let entries = || table.entries.iter().filter(|entry| entry.source == *account);
            let open = entries().filter(|entry| is_pending(entry) || entry.state == State::Proven).count();
            assert_eq!(held(*account) as usize, open, "{source:?}");
        }
    }
}
