//! Limits that a proxy counts itself (Envoy: `local_ratelimit`).

use std::sync::OnceLock;
use std::time::Instant;

use crate::bucket::{Level, Rate, TokenBucket};
use crate::by_value::BucketsByValue;
use crate::descriptor::Descriptor;

/// A limit that the proxy counts itself, with the buckets that its workers share.
#[derive(Debug)]
pub struct LocalLimit {
    rate: Option<Rate>,
    descriptors: Box<[DescriptorLimit]>,
    bucket_of_others: bool,
    per_connection: bool,
    shared: Buckets,
}

/// The limit of requests with a descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescriptorLimit {
    /// The entries of the descriptor, in order.
    pub entries: Box<[EntryPattern]>,
    /// The limit.
    pub rate: Rate,
}

/// An entry that a descriptor has to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryPattern {
    /// The key.
    pub key: Box<str>,
    /// The value; `None`: each value has a bucket of its own.
    pub value: Option<Box<str>>,
}

/// The buckets of a limit: of all connections together, or of one.
#[derive(Debug)]
pub struct Buckets {
    start: Instant,
    all: TokenBucket,
    of_descriptors: Box<[OfDescriptor]>,
}

#[derive(Debug)]
enum OfDescriptor {
    One(TokenBucket),
    /// Made with the first request that has a value.
    ByValue(OnceLock<BucketsByValue>),
}

/// The outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken<'a> {
    /// Nothing limits the request.
    Unlimited,
    /// There was a token.
    Granted(Level<'a>),
    /// There was none.
    Exceeded(Level<'a>),
}

impl DescriptorLimit {
    fn matches(&self, descriptor: &Descriptor<'_>) -> bool {
        self.entries.len() == descriptor.len()
            && self.entries.iter().zip(descriptor).all(|(pattern, entry)| {
                *pattern.key == *entry.key && pattern.value.as_deref().is_none_or(|value| *value == *entry.value)
            })
    }

    fn is_by_value(&self) -> bool {
        self.entries.iter().any(|entry| entry.value.is_none())
    }
}

impl LocalLimit {
    /// Creates a limit: of all requests, and of those with descriptors. With `bucket_of_others`, those with descriptors do not count
    /// against the limit of all. With `per_connection`, each connection has buckets of its own.
    pub fn new(
        rate: Option<Rate>,
        mut descriptors: Vec<DescriptorLimit>,
        bucket_of_others: bool,
        per_connection: bool,
        now: Instant,
    ) -> Self {
        // As in Envoy, the slowest one first.
        descriptors.sort_by_key(|of| std::cmp::Reverse(of.rate.cost()));
        let shared = Buckets::of(&descriptors, now);
        Self { rate, descriptors: descriptors.into(), bucket_of_others, per_connection, shared }
    }

    /// Returns whether descriptors of requests matter.
    pub fn uses_descriptors(&self) -> bool {
        !self.descriptors.is_empty()
    }

    /// Returns whether each connection has buckets of its own.
    pub fn is_per_connection(&self) -> bool {
        self.per_connection
    }

    /// Returns buckets for one connection.
    pub fn connection(&self, now: Instant) -> Buckets {
        Buckets::of(&self.descriptors, now)
    }

    /// Takes a token from each bucket of a request. `buckets`: those of its connection, if it has its own.
    pub fn take(&self, descriptors: &[Descriptor<'_>], buckets: Option<&Buckets>, now: Instant) -> Taken<'_> {
        let buckets = buckets.unwrap_or(&self.shared);
        let elapsed = now.saturating_duration_since(buckets.start);
        let mut granted = None;
        for (limit, bucket) in self.descriptors.iter().zip(&buckets.of_descriptors) {
            for descriptor in descriptors.iter().filter(|descriptor| limit.matches(descriptor)) {
                let taken = match bucket {
                    OfDescriptor::One(bucket) => bucket.take(&limit.rate, elapsed),
                    OfDescriptor::ByValue(buckets) => {
                        buckets.get_or_init(BucketsByValue::default).take(descriptor, &limit.rate, elapsed)
                    }
                };
                match taken {
                    Ok(level) => granted = granted.or(Some(level)),
                    Err(level) => return Taken::Exceeded(level),
                }
            }
        }
        if let Some(rate) = self.rate.as_ref().filter(|_| granted.is_none() || !self.bucket_of_others) {
            match buckets.all.take(rate, elapsed) {
                Ok(level) => granted = granted.or(Some(level)),
                Err(level) => return Taken::Exceeded(level),
            }
        }
        granted.map_or(Taken::Unlimited, Taken::Granted)
    }
}

impl Buckets {
    fn of(descriptors: &[DescriptorLimit], now: Instant) -> Self {
        let bucket = |limit: &DescriptorLimit| match limit.is_by_value() {
            true => OfDescriptor::ByValue(OnceLock::new()),
            false => OfDescriptor::One(TokenBucket::default()),
        };
        Self { start: now, all: TokenBucket::default(), of_descriptors: descriptors.iter().map(bucket).collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::descriptor::Entry;

    fn rate(tokens: u32) -> Rate {
        Rate::new(tokens, tokens, Duration::from_secs(60)).unwrap()
    }

    fn limit(entries: &[(&str, Option<&str>)], tokens: u32) -> DescriptorLimit {
        let entry =
            |(key, value): &(&str, Option<&str>)| EntryPattern { key: (*key).into(), value: value.map(Into::into) };
        DescriptorLimit { entries: entries.iter().map(entry).collect(), rate: rate(tokens) }
    }

    fn descriptor(entries: &[(&'static str, &'static str)]) -> Vec<Descriptor<'static>> {
        vec![entries.iter().map(|(key, value)| Entry { key, value: (*value).into() }).collect()]
    }

    #[test]
    fn descriptors_have_buckets_and_all_requests_have_one() {
        let now = Instant::now();
        let descriptors = || {
            vec![limit(&[("path", Some("/a"))], 2), limit(&[("user", None)], 1), limit(&[("a", None), ("b", None)], 1)]
        };
        let granted = |local: &LocalLimit, of: &[(&'static str, &'static str)], count: usize| {
            (0..count).filter(|_| !matches!(local.take(&descriptor(of), None, now), Taken::Exceeded(_))).count()
        };
        let local = LocalLimit::new(Some(rate(10)), descriptors(), false, false, now);
        assert_eq!(granted(&local, &[("path", "/a")], 5), 2);
        assert_eq!(granted(&local, &[("user", "x")], 5), 1);
        assert_eq!(granted(&local, &[("user", "y")], 5), 1);
        assert_eq!(granted(&local, &[("a", "1"), ("b", "1")], 5), 1);
        assert_eq!(granted(&local, &[("a", "1"), ("b", "2")], 5), 1);
        // Six tokens of the bucket of all were taken.
        assert_eq!(granted(&local, &[("b", "1"), ("a", "1")], 9), 4, "the order of entries counts");
        assert_eq!(granted(&local, &[("user", "z")], 1), 0, "the bucket of all is empty");

        let local = LocalLimit::new(Some(rate(1)), descriptors(), true, false, now);
        assert_eq!(granted(&local, &[("path", "/a")], 5), 2, "does not count against the bucket of all");
        assert_eq!(granted(&local, &[("path", "/b")], 5), 1);
        let local = LocalLimit::new(None, descriptors(), false, false, now);
        assert_eq!(local.take(&descriptor(&[("path", "/b")]), None, now), Taken::Unlimited);
    }

    #[test]
    fn connections_have_buckets_of_their_own() {
        let now = Instant::now();
        let local = LocalLimit::new(Some(rate(1)), Vec::new(), false, true, now);
        for _ in 0..2 {
            let of = local.connection(now);
            assert!(matches!(local.take(&[], Some(&of), now), Taken::Granted(_)));
            assert!(matches!(local.take(&[], Some(&of), now), Taken::Exceeded(_)));
        }
    }
}
