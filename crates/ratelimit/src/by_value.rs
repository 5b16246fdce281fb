//! The buckets of values that clients choose, bounded in number.
//!
//! A bucket that is full again equals a new one, so its place is given to another value. While all places that a value may
//! have are in use, it shares one bucket with all others of which this is true: whoever makes up values has the rate of one value
//! with them, and takes no memory.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::bucket::{self, Level, Rate, TokenBucket};

/// The number of sets. A value has its place in one of them.
const SETS: usize = 512;
/// The number of places of a set. With half of all places in use, about one value in 250 finds none.
const PLACES: usize = 16;
/// The number of values that have buckets at a time.
pub const VALUES: usize = SETS * PLACES;

/// Buckets by value. A set has a lock, which is held for some ten instructions, so that a value has one bucket alone.
#[derive(Debug)]
pub struct BucketsByValue {
    /// Of a seed of its own, so that nobody can choose values of one set.
    hasher: RandomState,
    sets: Box<[Mutex<Vec<Place>>]>,
    /// Of the values without a place.
    others: TokenBucket,
}

/// The bucket of a value.
#[derive(Debug)]
struct Place {
    /// The hash of the value. Two values with one hash, one pair in 2⁶⁴, would share the bucket.
    value: u64,
    /// The time at which the bucket is full again.
    full: u64,
}

impl Default for BucketsByValue {
    fn default() -> Self {
        let sets = (0..SETS).map(|_| Mutex::default()).collect();
        Self { hasher: RandomState::new(), sets, others: TokenBucket::default() }
    }
}

impl BucketsByValue {
    /// Takes a token from the bucket of a value, as [`TokenBucket::take`] does.
    ///
    /// # Errors
    /// Returns the level if there is no token.
    pub fn take<'a>(&self, value: impl Hash, rate: &'a Rate, elapsed: Duration) -> Result<Level<'a>, Level<'a>> {
        let (hash, now) = (self.hasher.hash_one(value), bucket::parts(elapsed));
        let set = &self.sets[hash as usize % SETS];
        // A panic cannot leave a set half changed.
        let mut places = set.lock().unwrap_or_else(PoisonError::into_inner);
        let place = match places.iter().position(|place| place.value == hash) {
            Some(index) => &mut places[index],
            None => match places.iter().position(|place| place.full <= now) {
                Some(index) => {
                    places[index] = Place { value: hash, full: 0 };
                    &mut places[index]
                }
                None if places.len() < PLACES => {
                    places.push(Place { value: hash, full: 0 });
                    let last = places.len() - 1;
                    &mut places[last]
                }
                None => {
                    drop(places);
                    return self.others.take(rate, elapsed);
                }
            },
        };
        let (next, level) = bucket::taken(place.full, rate, now)?;
        place.full = next;
        Ok(level)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    fn rate() -> Rate {
        Rate::new(2, 2, Duration::from_secs(60)).unwrap()
    }

    #[test]
    fn each_value_has_a_bucket() {
        let buckets = BucketsByValue::default();
        let take = |value: &str, seconds| buckets.take(value, &rate(), Duration::from_secs(seconds)).is_ok();
        assert_eq!(["a", "a", "a", "b", "b", "b"].map(|value| take(value, 0)), [true, true, false, true, true, false]);
        assert_eq!(["a", "a"].map(|value| take(value, 30)), [true, false]);
    }

    #[test]
    fn values_that_a_client_makes_up_share_one_bucket() {
        let buckets = BucketsByValue::default();
        let granted = (0..10 * VALUES).filter(|value| buckets.take(value, &rate(), Duration::ZERO).is_ok()).count();
        // Each place once, and the shared bucket.
        assert!(granted <= VALUES + 2, "{granted}");
        let held: usize = buckets.sets.iter().map(|set| set.lock().unwrap().capacity()).sum();
        assert!(held <= VALUES, "{held} places");
        // Places are free again once their buckets are full.
        assert!(buckets.take("new", &rate(), Duration::from_secs(30)).is_ok());
    }

    #[test]
    fn values_are_exact_under_contention() {
        let (buckets, granted) = (BucketsByValue::default(), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let taken = (0..2_000).filter(|n| buckets.take(n % 100, &rate(), Duration::ZERO).is_ok()).count();
                    granted.fetch_add(taken, Ordering::Relaxed);
                });
            }
        });
        assert_eq!(granted.into_inner(), 200);
    }
}
