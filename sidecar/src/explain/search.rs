//! How the pod's resolver completes short names (`search` and `ndots` of resolv.conf(5)).

use std::path::Path;

/// The number of domains that are used: glibc's former limit, which Kubernetes keeps.
const MAX_DOMAINS: usize = 6;

/// The domains that complete short names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Search {
    domains: Vec<String>,
    /// A name with at least this number of dots is tried as it is first.
    dots: usize,
}

impl Search {
    /// Reads `resolv.conf`. A file that cannot be read has no domains, as for the resolver.
    pub(crate) fn read(path: &Path) -> Self {
        Self::parse(&std::fs::read_to_string(path).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let (mut domains, mut dots) = (Vec::new(), 1);
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                // The last line counts.
                Some("search") => domains = words.take(MAX_DOMAINS).map(str::to_owned).collect(),
                Some("options") => {
                    let given = words.rev().find_map(|option| option.strip_prefix("ndots:")?.parse().ok());
                    dots = given.unwrap_or(dots);
                }
                _ => {}
            }
        }
        Search { domains, dots }
    }

    /// Returns the full names that a host may stand for, in the order in which they are tried.
    pub(crate) fn names(&self, host: &str) -> Vec<String> {
        if let Some(full) = host.strip_suffix('.') {
            return vec![full.to_owned()];
        }
        let complete = |domain: &String| format!("{host}.{}", domain.trim_end_matches('.'));
        let mut names: Vec<String> = self.domains.iter().map(complete).collect();
        let at = if host.matches('.').count() >= self.dots { 0 } else { names.len() };
        names.insert(at, host.to_owned());
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed_first_and_long_ones_last() {
        let search = Search::parse("nameserver 10.0.0.1\nsearch a.svc.b svc.b\noptions timeout:2 ndots:2\n");
        for (host, names) in [
            ("x", vec!["x.a.svc.b", "x.svc.b", "x"]),
            ("x.y", vec!["x.y.a.svc.b", "x.y.svc.b", "x.y"]),
            ("x.y.z", vec!["x.y.z", "x.y.z.a.svc.b", "x.y.z.svc.b"]),
            ("x.", vec!["x"]),
        ] {
            assert_eq!(search.names(host), names, "{host}");
        }
        assert_eq!(Search::parse("").names("x.y"), ["x.y"]);
    }

    #[test]
    fn the_number_of_domains_is_bounded() {
        let search = Search::parse(&format!("search{}", " a.b".repeat(100)));
        assert_eq!(search.names("x").len(), MAX_DOMAINS + 1);
    }
}
