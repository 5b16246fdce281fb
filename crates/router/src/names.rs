//! Names with wildcards, and the best match for a name.

use std::collections::HashMap;

/// The longest name that is looked up by its parts; a longer one is no DNS name, and matches `*` alone.
const MAX_NAME: usize = 253;

/// Values by name: `a.example.com`, `*.example.com` or `*`, in lower case.
#[derive(Debug, Clone)]
pub(crate) struct Names<T> {
    exact: HashMap<Box<str>, T>,
    /// By what follows the `*`, with the dot.
    suffixes: HashMap<Box<str>, T>,
    any: Option<T>,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), suffixes: HashMap::new(), any: None }
    }
}

impl<T> Names<T> {
    /// Returns the value of a name or wildcard, which is made if there is none.
    pub(crate) fn entry(&mut self, name: &str) -> &mut T
    where
        T: Default,
    {
        match name.strip_prefix('*') {
            Some("") => self.any.get_or_insert_with(T::default),
            Some(suffix) => self.suffixes.entry(suffix.into()).or_default(),
            None => self.exact.entry(name.into()).or_default(),
        }
    }

    /// Returns the value of the best match for a name: the name itself, else the longest wildcard. A wildcard stands for at least one
    /// character.
    pub(crate) fn find(&self, name: &str) -> Option<&T> {
        if name.len() <= MAX_NAME {
            if let Some(found) = self.exact.get(name) {
                return Some(found);
            }
            if !self.suffixes.is_empty() {
                let dots = name.match_indices('.').filter(|(at, _)| *at > 0);
                if let Some(found) = dots.map(|(at, _)| &name[at..]).find_map(|suffix| self.suffixes.get(suffix)) {
                    return Some(found);
                }
            }
        }
        self.any.as_ref()
    }

    /// Returns the same names with other values.
    pub(crate) fn map<U>(self, mut value: impl FnMut(T) -> U) -> Names<U> {
        Names {
            exact: self.exact.into_iter().map(|(name, of)| (name, value(of))).collect(),
            suffixes: self.suffixes.into_iter().map(|(name, of)| (name, value(of))).collect(),
            any: self.any.map(value),
        }
    }

    /// Returns all names with their values, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (String, &T)> {
        let exact = self.exact.iter().map(|(name, of)| (name.to_string(), of));
        let suffixes = self.suffixes.iter().map(|(suffix, of)| (format!("*{suffix}"), of));
        exact.chain(suffixes).chain(self.any.iter().map(|of| ("*".to_owned(), of)))
    }
}

/// Returns the name that is in two names, if there is one: `a.example.com` of itself and `*.example.com`.
pub(crate) fn common<'a>(one: &'a str, other: &'a str) -> Option<&'a str> {
    if covers(one, other) {
        Some(other)
    } else if covers(other, one) {
        Some(one)
    } else {
        None
    }
}

/// Returns whether a name or wildcard stands for all that `name` stands for.
fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => {
            let rest = name.strip_prefix('*').unwrap_or(name);
            rest.ends_with(suffix) && (rest.len() > suffix.len() || name.starts_with('*') || suffix.is_empty())
        }
        None => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_match_is_the_name_itself_then_the_longest_wildcard() {
        let mut names: Names<&str> = Names::default();
        for name in ["a.example.com", "*.example.com", "*.b.example.com"] {
            *names.entry(name) = name;
        }
        let long = format!("{}.example.com", "x.".repeat(200));
        for (name, expected) in [
            ("a.example.com", Some("a.example.com")),
            ("c.example.com", Some("*.example.com")),
            ("x.a.example.com", Some("*.example.com")),
            ("x.b.example.com", Some("*.b.example.com")),
            ("b.example.com", Some("*.example.com")),
            ("example.com", None),
            (".example.com", None),
            ("", None),
            (&long, None),
        ] {
            assert_eq!(names.find(name).copied(), expected, "{name}");
        }
        *names.entry("*") = "*";
        assert_eq!((names.find("").copied(), names.find(&long).copied()), (Some("*"), Some("*")));
        assert_eq!(names.iter().count(), 4);
    }

    #[test]
    fn what_two_names_have_in_common_is_the_narrower_one() {
        for (one, other, expected) in [
            ("a.b", "a.b", Some("a.b")),
            ("*", "a.b", Some("a.b")),
            ("*.b", "a.b", Some("a.b")),
            ("*.b", "*.a.b", Some("*.a.b")),
            ("*.b", "*", Some("*.b")),
            ("*", "*", Some("*")),
            ("*.b", "b", None),
            ("*.a", "*.b", None),
            ("a", "b", None),
        ] {
            assert_eq!(common(one, other), expected, "{one} {other}");
            assert_eq!(common(other, one), expected, "{other} {one}");
        }
    }
}
