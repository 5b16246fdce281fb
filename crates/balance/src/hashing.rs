//! Consistent hashing: which endpoint the hash of a request leads to.
//!
//! The position of an endpoint depends only on its name, so all workers and all proxies agree, and a change of the
//! endpoints moves few requests: with n endpoints, about one in n if one is added or removed.
//!
//! Sources: Envoy's "Ring hash" and "Maglev" pages; Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", section 3.4.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::Algorithm;

/// The maximum number of points on a ring. Envoy's is 8 times as high; 16 MiB for each worker is enough.
pub const MAX_RING_SIZE: u32 = 1 << 20;
/// The maximum size of a Maglev table. Envoy's is five times as high, and takes a second to fill.
pub const MAX_TABLE_SIZE: u32 = 1_000_003;

/// An endpoint of a table: its name, its weight, and the value that a lookup returns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member<'a> {
    pub(crate) name: &'a str,
    pub(crate) weight: u64,
    pub(crate) row: u32,
}

/// A table for lookups by hash.
#[derive(Debug)]
pub(crate) enum HashTable {
    /// Points in the order of their positions.
    Ring(Vec<(u64, u32)>),
    Maglev(Vec<u32>),
}

impl HashTable {
    /// Builds the table of an algorithm, if it has one. Members are sorted by name, whatever their order is.
    pub(crate) fn build(algorithm: Algorithm, mut members: Vec<Member<'_>>) -> Option<Self> {
        members.sort_unstable_by_key(|member| member.name);
        match algorithm {
            Algorithm::RingHash { minimum_size } => Some(Self::Ring(ring(&members, minimum_size))),
            Algorithm::Maglev { table_size } => Some(Self::Maglev(maglev(&members, table_size))),
            Algorithm::LeastRequest | Algorithm::RoundRobin | Algorithm::Random => None,
        }
    }

    /// Returns the first row in the order of a hash that `allowed` accepts.
    pub(crate) fn find(&self, hash: u64, allowed: impl Fn(usize) -> bool) -> Option<usize> {
        match self {
            Self::Ring(points) => {
                let start = points.partition_point(|(position, _)| *position < hash);
                let (before, after) = points.split_at(start);
                after.iter().chain(before).map(|(_, row)| *row as usize).find(|row| allowed(*row))
            }
            Self::Maglev(table) => {
                let size = table.len() as u64;
                // Further hashes spread the requests of an endpoint that is not allowed over all others.
                let hashes = std::iter::successors(Some(hash), |hash| Some(mix(*hash))).take(16);
                let start = hash.checked_rem(size)? as usize;
                let (before, after) = table.split_at(start);
                hashes
                    .map(|hash| table[(hash % size) as usize] as usize)
                    .find(|row| allowed(*row))
                    .or_else(|| after.iter().chain(before).map(|row| *row as usize).find(|row| allowed(*row)))
            }
        }
    }
}

/// Returns the points of a ring: for the endpoint of the least weight the least power of two with which the ring has
/// `minimum_size` points, for the others in proportion. With Envoy's least whole number, a change of the number of endpoints
/// changes the number of points of each, which moves requests between those that stay.
fn ring(members: &[Member<'_>], minimum_size: u32) -> Vec<(u64, u32)> {
    let total: u128 = members.iter().map(|member| u128::from(member.weight)).sum();
    let least = members.iter().map(|member| u128::from(member.weight)).min().unwrap_or(0);
    if least == 0 {
        return Vec::new();
    }
    let minimum = u128::from(minimum_size.clamp(1, MAX_RING_SIZE));
    // As a fraction of `total`, the number of points of the endpoint of the least weight, rounded up.
    let of_least = (minimum * least).div_ceil(total).next_power_of_two();
    let size = (of_least * total / least).min(u128::from(MAX_RING_SIZE)).max(members.len() as u128);
    let mut points = Vec::with_capacity(size as usize);
    // The sums of weights, so that rounding adds up to nothing.
    let mut sum = 0;
    for member in members {
        let first = sum * size / total;
        sum += u128::from(member.weight);
        let count = (sum * size).div_ceil(total).saturating_sub(first).max(1);
        let base = hash_of(member.name, 0);
        points.extend((0..count as u64).map(|at| (mix(base.wrapping_add(at.wrapping_mul(GOLDEN))), member.row)));
    }
    points.sort_unstable();
    points
}

/// Returns a Maglev table: the endpoints take slots in turn, each in an order of its own, lighter ones less often.
fn maglev(members: &[Member<'_>], table_size: u32) -> Vec<u32> {
    let size = prime_from(u64::from(table_size.clamp(3, MAX_TABLE_SIZE)));
    /// The next slot of an endpoint, the step to the one after it, and the number of slots taken.
    struct Turns {
        next: u64,
        skip: u64,
        taken: u64,
    }
    let turns = |member: &Member<'_>| Turns {
        next: hash_of(member.name, 0) % size,
        skip: hash_of(member.name, 1) % (size - 1) + 1,
        taken: 0,
    };
    let mut turns: Vec<Turns> = members.iter().map(turns).collect();
    // When each endpoint takes its next slot, in a time in which an endpoint of weight w takes w slots. The bits of
    // positive floating-point numbers have the order of the numbers.
    let due = |at: usize, taken: u64| Reverse((((taken + 1) as f64 / members[at].weight.max(1) as f64).to_bits(), at));
    let mut queue: BinaryHeap<_> = (0..members.len()).map(|at| due(at, 0)).collect();
    const FREE: u32 = u32::MAX;
    let mut table = vec![FREE; if members.is_empty() { 0 } else { size as usize }];
    for _ in 0..table.len() {
        let Some(Reverse((_, at))) = queue.pop() else { break };
        let turn = &mut turns[at];
        while table[turn.next as usize] != FREE {
            turn.next = (turn.next + turn.skip) % size;
        }
        table[turn.next as usize] = members[at].row;
        turn.taken += 1;
        queue.push(due(at, turn.taken));
    }
    table
}

/// Returns the least prime that is not less than a number; [`MAX_TABLE_SIZE`] is one.
fn prime_from(from: u64) -> u64 {
    let is_prime = |number: u64| (2..).take_while(|by| by * by <= number).all(|by| !number.is_multiple_of(by));
    (from..).find(|number| is_prime(*number)).unwrap_or(u64::from(MAX_TABLE_SIZE))
}

/// The step of the SplitMix64 generator.
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Returns the SplitMix64 generator's output for a state.
pub(crate) fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn hash_of(name: &str, seed: u64) -> u64 {
    mix(stable_hash(name.as_bytes()) ^ mix(seed))
}

/// Returns a hash that is the same in every process and every version: FNV-1a, mixed.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

#[cfg(test)]
mod tests;
