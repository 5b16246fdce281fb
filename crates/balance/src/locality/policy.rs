//! Locality policy: in which order localities are used, and which shares of traffic they receive.
//!
//! The semantics are those of Istio's `localityLbSetting`, with two additions that users of Istio have asked for:
//! `distribute` together with `failover`, and a `distribute` that says nothing on some callers, who keep the ordinary
//! preference for near endpoints.

use std::sync::Arc;

use super::Locality;

/// A pattern of localities: `region/zone/subzone`, in which a part `*` or a part that is left out matches everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalityPattern([Option<Arc<str>>; 3]);

impl LocalityPattern {
    /// Parses a pattern. Parts beyond the third are ignored, as in Istio.
    pub fn parse(pattern: &str) -> Self {
        let mut parts = pattern.split('/').map(|part| (!part.is_empty() && part != "*").then(|| part.into()));
        Self(std::array::from_fn(|_| parts.next().flatten()))
    }

    /// Returns whether the pattern matches a locality.
    pub fn matches(&self, locality: &Locality) -> bool {
        let parts = [&locality.region, &locality.zone, &locality.subzone];
        self.0.iter().zip(parts).all(|(pattern, part)| pattern.as_ref().is_none_or(|pattern| pattern == part))
    }
}

/// The shares of traffic that the callers in some localities send to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// The callers.
    pub from: LocalityPattern,
    /// Localities and their weights. An endpoint belongs to the first pattern that matches.
    pub to: Vec<(LocalityPattern, u32)>,
}

/// The order in which endpoints are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Preference {
    /// All alike.
    Off,
    /// Near ones first.
    #[default]
    Distance,
    /// By [`crate::Endpoint::priority`].
    Priority,
    /// By [`crate::Endpoint::priority`] and, of equal ones, near ones first.
    PriorityThenDistance,
}

/// Which localities are used first, and which shares of traffic they receive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalityPolicy {
    /// The order of endpoints.
    pub preference: Preference,
    /// Regions, and the one that takes over for each before all others.
    pub failover: Vec<(Arc<str>, Arc<str>)>,
    /// The shares of localities. The first entry that matches the caller counts; without one, there are no shares.
    pub distribute: Vec<Distribution>,
}

impl LocalityPolicy {
    /// Returns the shares for a caller, if it has any.
    pub(crate) fn shares_for(&self, own: &Locality) -> Option<&[(LocalityPattern, u32)]> {
        let found = self.distribute.iter().find(|distribution| distribution.from.matches(own));
        found.filter(|_| self.preference != Preference::Off).map(|distribution| &*distribution.to)
    }

    /// Returns whether localities without a share take over from those with one.
    pub(crate) fn takes_over(&self) -> bool {
        !self.failover.is_empty() || matches!(self.preference, Preference::Priority | Preference::PriorityThenDistance)
    }

    /// Returns the rank of an endpoint: endpoints of a lower rank are used first.
    pub(crate) fn rank(&self, own: &Locality, locality: &Locality, priority: u32) -> u32 {
        match self.preference {
            Preference::Off => 0,
            Preference::Distance => self.distance(own, locality),
            Preference::Priority => priority,
            // Istio's formula: there are five distances.
            Preference::PriorityThenDistance => priority.saturating_mul(5) + self.distance(own, locality),
        }
    }

    /// Returns the distance, with 4 for regions other than the one that takes over for the caller's.
    fn distance(&self, own: &Locality, locality: &Locality) -> u32 {
        let distance = locality.distance_from(own).into();
        let takes_over = self.failover.iter().find(|(from, _)| *from == own.region).map(|(_, to)| to);
        if distance == 3 && takes_over.is_some_and(|to| *to != locality.region) { 4 } else { distance }
    }
}

/// A label of `failoverPriority`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PriorityLabel {
    key: Arc<str>,
    /// The value that is preferred; `None`: the caller's own.
    value: Option<Arc<str>>,
}

/// The labels of `failoverPriority`, the most important first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FailoverPriority(Vec<PriorityLabel>);

/// The label whose mismatch ranks an endpoint behind all others, if it is the first one.
const NETWORK: &str = "topology.istio.io/network";

impl FailoverPriority {
    /// Parses labels of the form `key` or `key=value`.
    pub fn parse<'a>(labels: impl IntoIterator<Item = &'a str>) -> Self {
        let label = |label: &str| match label.split_once('=') {
            Some((key, value)) if !value.contains('=') => PriorityLabel { key: key.into(), value: Some(value.into()) },
            Some((key, _)) => PriorityLabel { key: key.into(), value: None },
            None => PriorityLabel { key: label.into(), value: None },
        };
        Self(labels.into_iter().map(label).collect())
    }

    /// Returns whether there are no labels.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the priority of an endpoint for [`crate::Endpoint::priority`]: 0 if all labels match, higher the earlier
    /// the first mismatch is. `own` and `of` return the values of the caller's and the endpoint's labels; empty if unset.
    pub fn rank<'a>(&self, own: impl Fn(&str) -> &'a str, of: impl Fn(&str) -> &'a str) -> u32 {
        let count = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        let mut rank = 0;
        for (at, label) in (0..count).zip(&self.0) {
            let preferred = label.value.as_deref().unwrap_or_else(|| own(&label.key));
            if preferred == of(&label.key) {
                continue;
            }
            // Endpoints of other networks are ranked among themselves by the remaining labels.
            if at == 0 && *label.key == *NETWORK {
                rank = count;
                continue;
            }
            return rank + count - at;
        }
        rank
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locality(text: &str) -> Locality {
        let mut parts = text.split('/');
        let mut next = || parts.next().unwrap_or_default();
        Locality::new(next(), next(), next())
    }

    #[test]
    fn patterns_match_by_parts() {
        for (pattern, of, matches) in [
            ("*", "a/b/c", true),
            ("", "a/b/c", true),
            ("*", "", true),
            ("a", "a/b/c", true),
            ("a/*", "a/b/c", true),
            ("a/*/c", "a/b/c", true),
            ("a/*/d", "a/b/c", false),
            ("a/b", "a/b/c", true),
            ("a/b/c", "a/b/c", true),
            ("a/b/c/d", "a/b/c", true),
            ("a/b/c", "a/b", false),
            ("a/c", "a/b/c", false),
            ("b", "a/b/c", false),
            ("*/b", "a/b/c", true),
        ] {
            assert_eq!(LocalityPattern::parse(pattern).matches(&locality(of)), matches, "{pattern} of {of}");
        }
    }

    #[test]
    fn ranks_follow_preference_and_failover() {
        let failover = vec![("us".into(), "eu".into()), ("us".into(), "asia".into()), ("eu".into(), "us".into())];
        let policy = |preference, failover: &Vec<(Arc<str>, Arc<str>)>| LocalityPolicy {
            preference,
            failover: failover.clone(),
            distribute: vec![],
        };
        use Preference::{Distance, Off, Priority, PriorityThenDistance};
        for (preference, failover, own, of, priority, rank) in [
            (Distance, &vec![], "us/a/1", "us/a/1", 7, 0),
            (Distance, &vec![], "us/a/1", "us/a/2", 7, 1),
            (Distance, &vec![], "us/a/1", "us/b/1", 7, 2),
            (Distance, &vec![], "us/a/1", "eu/a/1", 7, 3),
            (Distance, &vec![], "", "eu/a/1", 7, 0),
            (Distance, &failover, "us/a/1", "us/b/1", 7, 2),
            (Distance, &failover, "us/a/1", "eu/a/1", 7, 3),
            (Distance, &failover, "us/a/1", "asia", 7, 4),
            (Distance, &failover, "us/a/1", "", 7, 4),
            (Distance, &failover, "asia", "eu", 7, 3),
            (Priority, &failover, "us/a/1", "asia", 7, 7),
            (PriorityThenDistance, &failover, "us/a/1", "eu", 2, 13),
            (PriorityThenDistance, &failover, "us/a/1", "asia", 2, 14),
            (Off, &failover, "us/a/1", "asia", 2, 0),
        ] {
            let policy = policy(preference, failover);
            assert_eq!(policy.rank(&locality(own), &locality(of), priority), rank, "{preference:?} {own} {of}");
        }
    }

    #[test]
    fn the_first_entry_for_the_caller_counts() {
        let to = |weight| vec![(LocalityPattern::parse("*"), weight)];
        let entry = |from, weight| Distribution { from: LocalityPattern::parse(from), to: to(weight) };
        let mut policy = LocalityPolicy {
            distribute: vec![entry("us/a", 1), entry("us", 2), entry("eu", 3)],
            ..LocalityPolicy::default()
        };
        let weight = |policy: &LocalityPolicy, own| policy.shares_for(&locality(own)).map(|to| to[0].1);
        assert_eq!(weight(&policy, "us/a/1"), Some(1));
        assert_eq!(weight(&policy, "us/b"), Some(2));
        assert_eq!(weight(&policy, "eu"), Some(3));
        assert_eq!(weight(&policy, "asia"), None);
        policy.preference = Preference::Off;
        assert_eq!(weight(&policy, "us/a/1"), None);
    }

    #[test]
    fn failover_priority_ranks_by_the_first_mismatch() {
        let rank = |labels: &[&str], own: &[(&'static str, &'static str)], of: &[(&'static str, &'static str)]| {
            let find = |among: &[(&'static str, &'static str)], key: &str| {
                among.iter().find(|(known, _)| *known == key).map_or("", |(_, value)| *value)
            };
            FailoverPriority::parse(labels.iter().copied()).rank(|key| find(own, key), |key| find(of, key))
        };
        let own = &[("a", "1"), ("b", "2"), (NETWORK, "n1")];
        assert_eq!(rank(&["a", "b"], own, &[("a", "1"), ("b", "2")]), 0);
        assert_eq!(rank(&["a", "b"], own, &[("a", "1"), ("b", "3")]), 1);
        assert_eq!(rank(&["a", "b"], own, &[("a", "2"), ("b", "2")]), 2, "a later match does not count");
        assert_eq!(rank(&["a", "b"], own, &[]), 2);
        assert_eq!(rank(&["c"], own, &[]), 0, "unset on both sides is a match");
        assert_eq!(rank(&["a=7", "b"], own, &[("a", "7"), ("b", "2")]), 0, "the value replaces the caller's");
        assert_eq!(rank(&["a=7", "b"], own, &[("a", "1"), ("b", "2")]), 2);
        assert_eq!(rank(&["a=7=8"], own, &[("a", "1")]), 0, "not a value");
        assert_eq!(rank(&[NETWORK, "a", "b"], own, &[(NETWORK, "n1"), ("a", "2")]), 2);
        assert_eq!(rank(&[NETWORK, "a", "b"], own, &[(NETWORK, "n2"), ("a", "1"), ("b", "2")]), 3);
        assert_eq!(rank(&[NETWORK, "a", "b"], own, &[(NETWORK, "n2"), ("a", "2")]), 5);
        assert_eq!(rank(&["a", NETWORK], own, &[("a", "1"), (NETWORK, "n2")]), 1, "special as the first label only");
        assert_eq!(rank(&[], own, &[]), 0);
    }
}
