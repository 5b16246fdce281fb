//! The string patterns of policies.
//!
//! A `*` stands at one end or is the whole pattern. Istio takes other uses literally without a word, which reads like a
//! rule and matches nothing; here they are refused.

use std::sync::Arc;

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a pattern: {reason}")]
pub struct InvalidPattern {
    text: String,
    reason: &'static str,
}

/// A pattern over a whole string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// `abc`
    Exact(Arc<str>),
    /// `abc*`
    Prefix(Arc<str>),
    /// `*abc`
    Suffix(Arc<str>),
    /// `*`: anything but the empty string.
    Present,
}

impl Pattern {
    /// Parses one.
    ///
    /// # Errors
    /// Where it is empty or a `*` stands elsewhere than at one end.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let invalid = |reason| InvalidPattern { text: text.to_owned(), reason };
        if text == "*" {
            return Ok(Pattern::Present);
        }
        let (pattern, literal): (fn(Arc<str>) -> Pattern, &str) = if let Some(suffix) = text.strip_prefix('*') {
            (Pattern::Suffix, suffix)
        } else if let Some(prefix) = text.strip_suffix('*') {
            (Pattern::Prefix, prefix)
        } else {
            (Pattern::Exact, text)
        };
        if literal.contains('*') {
            return Err(invalid("a '*' may only stand at its beginning or at its end"));
        }
        if literal.is_empty() {
            return Err(invalid("it is empty"));
        }
        Ok(pattern(literal.into()))
    }

    /// Whether it matches.
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Pattern::Exact(literal) => value == &**literal,
            Pattern::Prefix(literal) => value.starts_with(&**literal),
            Pattern::Suffix(literal) => value.ends_with(&**literal),
            Pattern::Present => !value.is_empty(),
        }
    }

    /// Whether it matches without regard to ASCII case, as host names are compared.
    pub fn matches_ignoring_case(&self, value: &str) -> bool {
        let (value, literal) = (value.as_bytes(), self.literal().as_bytes());
        match self {
            Pattern::Exact(_) => value.eq_ignore_ascii_case(literal),
            Pattern::Prefix(_) => value.get(..literal.len()).is_some_and(|head| head.eq_ignore_ascii_case(literal)),
            Pattern::Suffix(_) => {
                value.len().checked_sub(literal.len()).is_some_and(|start| value[start..].eq_ignore_ascii_case(literal))
            }
            Pattern::Present => !value.is_empty(),
        }
    }

    fn literal(&self) -> &str {
        match self {
            Pattern::Exact(literal) | Pattern::Prefix(literal) | Pattern::Suffix(literal) => literal,
            Pattern::Present => "",
        }
    }
}

/// A pattern over a path: like [`Pattern`], or a template with `{*}` for one segment and at most one `{**}`, after all
/// others, for any number of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathPattern {
    /// Without operators in braces.
    Plain(Pattern),
    /// With them.
    Template(Vec<Piece>),
}

/// A piece of a path template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// These characters.
    Literal(Arc<str>),
    /// `{*}`: one segment that is not empty.
    Segment,
    /// `{**}`: any characters.
    Rest,
}

impl PathPattern {
    /// Parses one.
    ///
    /// # Errors
    /// Where a template's operator is not a whole segment, follows `{**}`, or stands beside a bare `*`; or as
    /// [`Pattern::parse`].
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        if !text.contains(['{', '}']) {
            return Pattern::parse(text).map(PathPattern::Plain);
        }
        let invalid = |reason| InvalidPattern { text: text.to_owned(), reason };
        let Some(path) = text.strip_prefix('/') else { return Err(invalid("a path template begins with '/'")) };
        let mut pieces = Vec::new();
        let mut literal = String::new();
        for segment in path.split('/') {
            literal.push('/');
            let piece = match segment {
                "{*}" => Piece::Segment,
                "{**}" => Piece::Rest,
                _ if segment.contains(['{', '}', '*']) => {
                    return Err(invalid("in a template \"{*}\" and \"{**}\" stand alone between slashes"));
                }
                _ => {
                    literal.push_str(segment);
                    continue;
                }
            };
            if pieces.contains(&Piece::Rest) {
                return Err(invalid("\"{**}\" must be the last operator"));
            }
            pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
            pieces.push(piece);
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.into()));
        }
        Ok(PathPattern::Template(pieces))
    }

    /// Whether a path, without its query, matches.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            PathPattern::Plain(pattern) => pattern.matches(path),
            PathPattern::Template(pieces) => follows(pieces, path),
        }
    }
}

fn follows(pieces: &[Piece], mut path: &str) -> bool {
    for (i, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Literal(literal) => match path.strip_prefix(&**literal) {
                Some(rest) => path = rest,
                None => return false,
            },
            Piece::Segment => {
                let end = path.find('/').unwrap_or(path.len());
                if end == 0 {
                    return false;
                }
                path = &path[end..];
            }
            // Nothing but one literal can follow.
            Piece::Rest => {
                return match pieces.get(i + 1) {
                    Some(Piece::Literal(literal)) => path.ends_with(&**literal),
                    _ => true,
                };
            }
        }
    }
    path.is_empty()
}

#[cfg(test)]
mod tests;
