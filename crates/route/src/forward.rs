//! Where the requests of a route go.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::fault::is_in;
use crate::{HeaderEdits, Regex, Retries};

/// A destination of requests or connections.
#[derive(Debug, Clone, PartialEq)]
pub struct Destination {
    /// The hostname of a service.
    pub host: Arc<str>,
    /// The service's port; `None`: the port that the client connected to.
    pub port: Option<u16>,
    /// The subset; empty: all endpoints.
    pub subset: Arc<str>,
    /// Relative to the route's other destinations.
    pub weight: u32,
    /// Changes of the request's headers.
    pub request_headers: HeaderEdits,
    /// Changes of the response's headers.
    pub response_headers: HeaderEdits,
}

/// Requests go to a destination.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Forward {
    /// The destinations, of which one is chosen by weight.
    pub destinations: Box<[Destination]>,
    /// The time limit of a request with all attempts.
    pub timeout: Option<Duration>,
    /// The shorter one of the time limits of a request and of an attempt in milliseconds, for the header that announces it.
    /// Made once, so that requests share it.
    pub announced_timeout: Option<HeaderValue>,
    /// When requests are repeated; `None`: the mesh's default.
    pub retries: Option<Retries>,
    /// Changes of path and authority.
    pub rewrite: Rewrite,
    /// Destinations that receive copies of requests.
    pub mirrors: Box<[Mirror]>,
}

/// Changes of a request's path and authority.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rewrite {
    /// Of the path.
    pub path: Option<RewritePath>,
    /// The new authority.
    pub authority: Option<Box<str>>,
}

/// A change of a request's path.
#[derive(Debug, Clone, PartialEq)]
pub enum RewritePath {
    /// Of a route that matched by a prefix, its replacement; of any other, the whole path.
    Matched(Box<str>),
    /// The whole path.
    Full(Box<str>),
    /// Every match of an expression in the path, and what replaces it, with `\1` for groups.
    Regex(Regex, Box<str>),
}

/// A destination that receives copies of requests. Its responses are dropped.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    /// The destination.
    pub destination: Destination,
    /// The share of the requests in parts in a million.
    pub share: u32,
}

/// Chooses a destination by weight, with 64 random bits. Returns `None` if there is none, or all weights are 0.
pub fn choose(destinations: &[Destination], random: u64) -> Option<usize> {
    // The weight of an only destination is ignored, as in Istio.
    if destinations.len() == 1 {
        return Some(0);
    }
    let total: u64 = destinations.iter().map(|destination| u64::from(destination.weight)).sum();
    let at = u64::try_from((u128::from(random) * u128::from(total)) >> 64).unwrap_or_default();
    let mut end = 0;
    destinations.iter().position(|destination| {
        end += u64::from(destination.weight);
        at < end
    })
}

/// Returns the share of each destination that [`choose`] gives it, from 0 to 1; all 0 if it chooses none.
pub fn shares(destinations: &[Destination]) -> Vec<f64> {
    let total: u64 = destinations.iter().map(|destination| u64::from(destination.weight)).sum();
    match destinations {
        [_] => vec![1.0],
        _ => destinations.iter().map(|of| if total == 0 { 0.0 } else { f64::from(of.weight) / total as f64 }).collect(),
    }
}

impl Mirror {
    /// Returns whether a request with these random bits is copied.
    pub fn takes(&self, random: u64) -> bool {
        is_in(self.share, random)
    }
}

impl Rewrite {
    /// Returns the new path and query for a path (without its query) and the query of a request. `matched` is the length of
    /// the prefix that matched, if the route's condition was a prefix.
    pub fn path_and_query(&self, path: &str, query: Option<&str>, matched: Option<usize>) -> Option<String> {
        let replaced;
        let (start, rest) = match self.path.as_ref()? {
            RewritePath::Matched(uri) => (&**uri, matched.and_then(|length| path.get(length..)).unwrap_or_default()),
            RewritePath::Full(uri) => (&**uri, ""),
            RewritePath::Regex(regex, substitution) => {
                replaced = String::from_utf8(regex.replace_all(path.as_bytes(), substitution)).ok()?;
                (replaced.as_str(), "")
            }
        };
        let slash = if start.starts_with('/') { "" } else { "/" };
        let (mark, query) = query.map_or(("", ""), |query| ("?", query));
        // One allocation of the right size.
        Some([slash, start, rest, mark, query].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(weight: u32) -> Destination {
        Destination {
            host: "reviews".into(),
            port: None,
            subset: Arc::default(),
            weight,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
        }
    }

    #[test]
    fn destinations_are_chosen_by_weight() {
        let destinations = [destination(90), destination(0), destination(10)];
        let mut counts = [0; 3];
        for step in 0..1000_u64 {
            counts[choose(&destinations, step * (u64::MAX / 1000) + u64::MAX / 2000).unwrap()] += 1;
        }
        assert_eq!(counts, [900, 0, 100]);
        assert_eq!(shares(&destinations), [0.9, 0.0, 0.1]);
        assert_eq!(shares(&[destination(0)]), [1.0]);
        assert_eq!(shares(&[destination(0), destination(0)]), [0.0, 0.0]);
        assert_eq!(choose(&[destination(0)], 7), Some(0), "an only destination needs no weight");
        assert_eq!(choose(&[destination(0), destination(0)], 7), None);
        assert_eq!(choose(&[], 7), None);
        assert_eq!(choose(&[destination(u32::MAX), destination(u32::MAX)], u64::MAX), Some(1));
    }

    #[test]
    fn paths_are_rewritten_as_in_envoy() {
        let rewrite = |path| Rewrite { path: Some(path), authority: None };
        let regex = || RewritePath::Regex(Regex::anywhere("^/v1/(.*)$").unwrap(), r"/\1/v2".into());
        for (path, request, query, matched, expected) in [
            (RewritePath::Matched("/new".into()), "/old/x", Some("q=1"), Some(4), "/new/x?q=1"),
            (RewritePath::Matched("/".into()), "/old/x", None, Some(4), "//x"),
            (RewritePath::Matched("/new".into()), "/old", None, None, "/new"),
            (RewritePath::Matched("new".into()), "/old", Some(""), None, "/new?"),
            (RewritePath::Full("/all".into()), "/old/x", Some("q"), Some(4), "/all?q"),
            (regex(), "/v1/a/b", Some("q"), None, "/a/b/v2?q"),
            (regex(), "/v3/a", None, None, "/v3/a"),
        ] {
            let rewritten = rewrite(path.clone()).path_and_query(request, query, matched);
            assert_eq!(rewritten.as_deref(), Some(expected), "{path:?}");
        }
        assert_eq!(Rewrite::default().path_and_query("/a", None, None), None);
    }
}
