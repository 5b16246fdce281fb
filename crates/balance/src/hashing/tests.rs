//! Tests of consistent hashing.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const ALGORITHMS: [Algorithm; 2] =
    [Algorithm::RingHash { minimum_size: 1024 }, Algorithm::Maglev { table_size: 65_537 }];

fn names(count: usize) -> Vec<String> {
    (0..count).map(|at| format!("reviews.default@net/west/pod-{at}")).collect()
}

fn table(algorithm: Algorithm, names: &[String], weights: impl Fn(usize) -> u64) -> HashTable {
    let member = |(row, name)| Member { name, weight: weights(row), row: row as u32 };
    HashTable::build(algorithm, names.iter().map(|name| &**name).enumerate().map(member).collect()).expect("a table")
}

fn hashes() -> impl Iterator<Item = u64> {
    (0..20_000).map(mix)
}

fn shares(table: &HashTable) -> HashMap<usize, usize> {
    let mut shares = HashMap::new();
    for hash in hashes() {
        *shares.entry(table.find(hash, |_| true).expect("a row")).or_default() += 1;
    }
    shares
}

#[test]
fn requests_follow_the_weights() {
    for algorithm in ALGORITHMS {
        let shares = shares(&table(algorithm, &names(10), |row| if row == 0 { 5 } else { 1 }));
        assert_eq!(shares.len(), 10);
        let heavy = shares[&0] as f64 / 20_000.0;
        assert!((0.28..0.44).contains(&heavy), "{algorithm:?}: 5 of 14 is .357, got {heavy}");
    }
    let maglev = shares(&table(ALGORITHMS[1], &names(10), |_| 1));
    assert!(maglev.values().all(|count| (1800..2200).contains(count)), "Maglev is even: {maglev:?}");
}

/// The purpose of consistent hashing.
#[test]
fn a_removed_endpoint_moves_its_own_requests_only() {
    for algorithm in ALGORITHMS {
        let all = names(10);
        let before = table(algorithm, &all, |_| 1);
        let after = table(algorithm, &all[..9], |_| 1);
        let (mut moved, mut of_removed) = (0, 0);
        for hash in hashes() {
            let (old, new) = (before.find(hash, |_| true).unwrap(), after.find(hash, |_| true).unwrap());
            match old {
                9 => of_removed += 1,
                _ if old != new => moved += 1,
                _ => {}
            }
        }
        assert!((1000..3500).contains(&of_removed), "{algorithm:?}: {of_removed}");
        // A ring moves nothing else, a Maglev table a little.
        let tolerated = if matches!(algorithm, Algorithm::Maglev { .. }) { 800 } else { 0 };
        assert!(moved <= tolerated, "{algorithm:?} moved {moved} of 20000");
    }
}

#[test]
fn the_order_of_endpoints_does_not_matter() {
    for algorithm in ALGORITHMS {
        let mut names = names(7);
        let before = table(algorithm, &names, |_| 1);
        names.reverse();
        let after = table(algorithm, &names, |_| 1);
        assert!(hashes().all(|hash| before.find(hash, |_| true) == after.find(hash, |_| true).map(|row| 6 - row)));
    }
}

#[test]
fn endpoints_that_are_not_allowed_are_passed_over() {
    for algorithm in ALGORITHMS {
        let table = table(algorithm, &names(3), |_| 1);
        for hash in hashes().take(500) {
            let first = table.find(hash, |_| true).unwrap();
            let second = table.find(hash, |row| row != first).unwrap();
            let third = table.find(hash, |row| row != first && row != second).unwrap();
            assert_eq!(first + second + third, 3, "three different ones");
            assert_eq!(table.find(hash, |_| false), None);
        }
        // The requests of one endpoint are spread over the others.
        let seconds: Vec<usize> = hashes()
            .filter(|hash| table.find(*hash, |_| true) == Some(0))
            .filter_map(|hash| table.find(hash, |row| row != 0))
            .collect();
        let ones = seconds.iter().filter(|row| **row == 1).count();
        assert!(ones > seconds.len() / 5 && ones < seconds.len() * 4 / 5, "{algorithm:?}: {ones} of {}", seconds.len());
    }
}

#[test]
fn sizes_are_bounded() {
    let size = |algorithm, names: &[String], weights: fn(usize) -> u64| match table(algorithm, names, weights) {
        HashTable::Ring(points) => points.len(),
        HashTable::Maglev(table) => table.len(),
    };
    let (ring, maglev) =
        (|minimum_size| Algorithm::RingHash { minimum_size }, |table_size| Algorithm::Maglev { table_size });
    let three = names(3);
    assert_eq!(size(ring(1024), &three, |_| 1), 1536, "a power of two for each");
    assert_eq!(size(ring(0), &three, |_| 1), 3);
    assert!(size(ring(u32::MAX), &three, |_| 1) <= MAX_RING_SIZE as usize + 3);
    assert!(
        size(ring(1024), &three, |row| if row == 0 { 1 } else { u64::from(u32::MAX) }) <= MAX_RING_SIZE as usize + 6
    );
    assert_eq!(size(maglev(65_537), &three, |_| 1), 65_537);
    assert_eq!(size(maglev(0), &three, |_| 1), 3);
    assert_eq!(size(maglev(100), &three, |_| 1), 101, "rounded up to a prime");
    assert_eq!(prime_from(u64::from(MAX_TABLE_SIZE)), u64::from(MAX_TABLE_SIZE));
    // More endpoints than slots: some have none.
    assert_eq!(size(maglev(3), &names(20), |_| 1), 3);
    for algorithm in ALGORITHMS {
        assert_eq!(table(algorithm, &[], |_| 1).find(7, |_| true), None);
    }
}

proptest! {
    /// Whatever the weights are, a table is built, and every lookup returns the row of a member.
    #[test]
    fn lookups_return_members(
        weights in proptest::collection::vec(1..u64::from(u32::MAX), 1..20),
        size in any::<u32>(),
        hash in any::<u64>(),
        maglev in any::<bool>(),
    ) {
        let names = names(weights.len());
        let size = size % 5000;
        let algorithm = if maglev { Algorithm::Maglev { table_size: size } } else { Algorithm::RingHash { minimum_size: size } };
        let row = table(algorithm, &names, |row| weights[row]).find(hash, |_| true);
        prop_assert!(row.is_some_and(|row| row < weights.len()));
    }
}
