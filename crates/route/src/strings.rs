//! Patterns of strings.

use regex::bytes::{Regex as Compiled, RegexBuilder};

/// The maximum length of a regular expression. Istio's is 1,024 characters of RE2, of which a class such as `\w` is longer here.
const MAX_LENGTH: usize = 12 * 1024;
/// The maximum size of a compiled expression in bytes: what validation permits, and a quarter for the anchors. A search takes time linear in the length of the value, at any size.
const MAX_COMPILED: usize = 5 << 18;

/// The error for a regular expression that is invalid or too large.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the regular expression {pattern:?} {reason}")]
pub struct InvalidRegex {
    pattern: String,
    reason: String,
}

/// A regular expression, bounded in size. A search takes linear time, as in RE2.
#[derive(Debug, Clone)]
pub struct Regex {
    pattern: Box<str>,
    compiled: Compiled,
}

impl Regex {
    /// Compiles an expression that has to match the whole value.
    ///
    /// # Errors
    /// Returns an error if the expression is invalid, or too large as a text or when compiled.
    pub fn whole(pattern: &str) -> Result<Self, InvalidRegex> {
        Self::compile(pattern, &format!(r"\A(?:{pattern})\z"))
    }

    /// Compiles an expression that is searched for in a value.
    ///
    /// # Errors
    /// As [`Regex::whole`].
    pub fn anywhere(pattern: &str) -> Result<Self, InvalidRegex> {
        Self::compile(pattern, pattern)
    }

    fn compile(pattern: &str, text: &str) -> Result<Self, InvalidRegex> {
        let invalid = |reason: String| InvalidRegex { pattern: pattern.chars().take(80).collect(), reason };
        if pattern.len() > MAX_LENGTH {
            return Err(invalid(format!("is longer than {MAX_LENGTH} bytes")));
        }
        let build = |text| RegexBuilder::new(text).size_limit(MAX_COMPILED).dfa_size_limit(MAX_COMPILED).build();
        // By itself first: its parentheses must not close those that `text` adds.
        let compiled = build(pattern).and_then(|alone| if text == pattern { Ok(alone) } else { build(text) });
        let compiled = compiled.map(|compiled| Self { pattern: pattern.into(), compiled });
        compiled.map_err(|error| match error {
            regex::Error::CompiledTooBig(limit) => invalid(format!("takes more than {limit} bytes when compiled")),
            error => invalid(format!("is invalid: {error}")),
        })
    }

    /// Returns the expression.
    pub fn as_str(&self) -> &str {
        &self.pattern
    }

    /// Returns whether the expression matches.
    pub fn is_match(&self, value: &[u8]) -> bool {
        self.compiled.is_match(value)
    }

    /// Replaces every match. `\0` to `\9` in `substitution` are the groups of the expression, `\\` is a backslash.
    pub fn replace_all(&self, value: &[u8], substitution: &str) -> Vec<u8> {
        let replaced = self.compiled.replace_all(value, |captures: &regex::bytes::Captures<'_>| {
            let mut out = Vec::new();
            let mut characters = substitution.bytes();
            while let Some(byte) = characters.next() {
                match byte {
                    b'\\' => match characters.next() {
                        Some(digit @ b'0'..=b'9') => {
                            let group = captures.get(usize::from(digit - b'0'));
                            out.extend_from_slice(group.map_or(&[], |group| group.as_bytes()));
                        }
                        Some(other) => out.push(other),
                        None => out.push(b'\\'),
                    },
                    byte => out.push(byte),
                }
            }
            out
        });
        replaced.into_owned()
    }
}

/// Two expressions are equal if their texts are.
impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.compiled.as_str() == other.compiled.as_str()
    }
}

/// A pattern of a string.
#[derive(Debug, Clone, PartialEq)]
pub enum StringMatch {
    /// Exactly this value.
    Exact(Box<str>),
    /// Exactly this value, in any case.
    ExactIgnoreCase(Box<str>),
    /// A value that begins so.
    Prefix(Box<str>),
    /// A value that begins so, in any case.
    PrefixIgnoreCase(Box<str>),
    /// A path whose segments begin with these (Gateway API: PathPrefix). Without a `/` at the end.
    PathPrefix(Box<str>),
    /// A regular expression.
    Regex(Regex),
    /// Any value.
    Present,
}

impl StringMatch {
    /// Returns whether the pattern matches a value.
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => value == exact.as_bytes(),
            Self::ExactIgnoreCase(exact) => value.eq_ignore_ascii_case(exact.as_bytes()),
            Self::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
            Self::PrefixIgnoreCase(prefix) => {
                value.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
            }
            Self::PathPrefix(prefix) => {
                value.strip_prefix(prefix.as_bytes()).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
            }
            Self::Regex(regex) => regex.is_match(value),
            Self::Present => true,
        }
    }

    /// Returns the length of the beginning that a prefix pattern has matched; `None` for other patterns.
    pub fn prefix_length(&self) -> Option<usize> {
        match self {
            Self::Prefix(prefix) | Self::PrefixIgnoreCase(prefix) | Self::PathPrefix(prefix) => Some(prefix.len()),
            Self::Exact(_) | Self::ExactIgnoreCase(_) | Self::Regex(_) | Self::Present => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_values() {
        let regex = |text| StringMatch::Regex(Regex::whole(text).unwrap());
        for (pattern, matching, others) in [
            (StringMatch::Exact("/a".into()), &["/a"][..], &["/A", "/a/", "/ab", ""][..]),
            (StringMatch::ExactIgnoreCase("/a".into()), &["/a", "/A"], &["/ab"]),
            (StringMatch::Prefix("/foo".into()), &["/foo", "/foobar", "/foo/bar"], &["/Foo", "/fo", ""]),
            (StringMatch::PrefixIgnoreCase("/foo".into()), &["/FOObar"], &["/fo"]),
            (StringMatch::PathPrefix("/foo".into()), &["/foo", "/foo/", "/foo/bar"], &["/foobar", "/fo"]),
            (StringMatch::PathPrefix("".into()), &["/", "/a", ""], &["a"]),
            (regex("a|bc"), &["a", "bc"], &["ab", "abc", "xa"]),
            (regex(".*Chrome.*"), &["Chrome", "x Chrome/1 y"], &["chrome"]),
            (StringMatch::Present, &["", "x"], &[]),
        ] {
            for value in matching {
                assert!(pattern.matches(value.as_bytes()), "{pattern:?} {value:?}");
            }
            for value in others {
                assert!(!pattern.matches(value.as_bytes()), "{pattern:?} {value:?}");
            }
        }
    }

    #[test]
    fn an_alternative_does_not_escape_from_the_anchors() {
        assert!(Regex::whole(r"a)|(b").is_err(), "unbalanced within its own group");
        assert!(!Regex::whole("a|b").unwrap().is_match(b"ax"));
    }

    #[test]
    fn expressions_are_bounded() {
        for pattern in [
            "(",
            "[",
            r"\k<a>",
            r"(?=a)",
            r"\1",
            &"a".repeat(MAX_LENGTH + 1),
            r"(\pL{1000}){1000}",
            "(((a{100}){100}){100})",
        ] {
            assert!(Regex::whole(pattern).is_err(), "{pattern:.40}");
        }
        assert!(Regex::whole(&"[0-9A-Za-z_]".repeat(1024)).is_ok());
    }

    #[test]
    fn groups_are_substituted() {
        let regex = Regex::anywhere("^/service/([^/]+)(/.*)$").unwrap();
        assert_eq!(regex.replace_all(b"/service/foo/v1/api", r"\2/instance/\1"), b"/v1/api/instance/foo");
        assert_eq!(Regex::anywhere("one").unwrap().replace_all(b"/one/one/x", "two"), b"/two/two/x");
        assert_eq!(Regex::anywhere("x").unwrap().replace_all(b"axb", r"\0\\\7\"), br"ax\\b");
    }
}
