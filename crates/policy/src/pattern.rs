//! String and path patterns of policies.
//!
//! A `*` is allowed at one end of a pattern or as the whole pattern. Istio accepts it elsewhere too, but matches it
//! literally, so that such a rule matches nothing; here it is an error. Only in patterns of namespaces may it be anywhere.

use std::sync::Arc;

use crate::facts::Claims;

/// The error for a text that is not a valid pattern.
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
    /// Literals with any characters between them.
    Glob(Box<[Arc<str>]>),
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// Returns an error if the text is empty or has a `*` elsewhere than at one end.
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
            return Err(invalid("'*' is allowed only at the beginning or at the end"));
        }
        if literal.is_empty() {
            return Err(invalid("it is empty"));
        }
        Ok(pattern(literal.into()))
    }

    /// Parses a pattern in which `*` may be anywhere, as in those of namespaces.
    ///
    /// # Errors
    /// Returns an error if the text is empty.
    pub fn parse_glob(text: &str) -> Result<Self, InvalidPattern> {
        Pattern::parse(text).or_else(|error| match text.is_empty() {
            true => Err(error),
            false => Ok(Pattern::Glob(text.split('*').map(Arc::from).collect())),
        })
    }

    /// Parses a pattern of a header, of which `*` matches every value, also an empty one.
    ///
    /// # Errors
    /// As [`Pattern::parse`].
    pub fn parse_header(text: &str) -> Result<Self, InvalidPattern> {
        match text {
            "*" => Ok(Pattern::Prefix("".into())),
            _ => Pattern::parse(text),
        }
    }

    /// Returns whether the pattern matches a value.
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Pattern::Exact(literal) => value == &**literal,
            Pattern::Prefix(literal) => value.starts_with(&**literal),
            Pattern::Suffix(literal) => value.ends_with(&**literal),
            Pattern::Present => !value.is_empty(),
            Pattern::Glob(parts) => matches_glob(parts, value),
        }
    }

    /// Returns whether the pattern matches a value, ignoring ASCII case, as for host names.
    pub fn matches_ignoring_case(&self, text: &str) -> bool {
        let (value, literal) = (text.as_bytes(), self.literal().as_bytes());
        match self {
            Pattern::Exact(_) => value.eq_ignore_ascii_case(literal),
            Pattern::Prefix(_) => value.get(..literal.len()).is_some_and(|head| head.eq_ignore_ascii_case(literal)),
            Pattern::Suffix(_) => {
                value.len().checked_sub(literal.len()).is_some_and(|start| value[start..].eq_ignore_ascii_case(literal))
            }
            Pattern::Present | Pattern::Glob(_) => !value.is_empty() && self.matches(text),
        }
    }

    fn literal(&self) -> &str {
        match self {
            Pattern::Exact(literal) | Pattern::Prefix(literal) | Pattern::Suffix(literal) => literal,
            Pattern::Present | Pattern::Glob(_) => "",
        }
    }
}

/// Returns whether a value begins with the first literal, ends with the last one, and has the others in order between them.
/// Each literal is searched for once, from the end of the last one: linear time.
fn matches_glob(parts: &[Arc<str>], value: &str) -> bool {
    let [first, middle @ .., last] = parts else { return false };
    let Some(mut rest) = value.strip_prefix(&**first) else { return false };
    for part in middle {
        match rest.find(&**part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(&**last)
}

/// A pattern of the issuer and subject of a token, `<issuer>/<subject>`. The last `/` separates them, because issuers are URLs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenPrincipal {
    issuer: Pattern,
    subject: Pattern,
}

impl TokenPrincipal {
    /// Parses a pattern by Istio's rules. A `*` is allowed at one end; it stands for the issuer or the subject if it is all of
    /// it. Without a `/`, `*abc` is a pattern of subjects and `abc*` one of issuers.
    ///
    /// # Errors
    /// Returns an error if the text has a `*` elsewhere, or no subject.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let invalid = |reason| InvalidPattern { text: text.to_owned(), reason };
        let any = || Pattern::Present;
        // A literal that is empty matches as a prefix or suffix whatever is there.
        let (issuer, subject) = match text.rsplit_once('/') {
            _ if text == "*" => (any(), any()),
            Some((issuer, subject)) if text.starts_with('*') => (
                Pattern::parse(issuer)?,
                exact(subject).ok_or_else(|| invalid("it has no subject after the last '/', or a '*' at both ends"))?,
            ),
            Some((issuer, subject)) => {
                let issuer =
                    exact(issuer).ok_or_else(|| invalid("'*' is allowed only at the beginning or at the end"))?;
                (issuer, Pattern::parse(subject)?)
            }
            None if text.starts_with('*') => (any(), Pattern::parse(text)?),
            None if text.ends_with('*') => (Pattern::parse(text)?, any()),
            None => return Err(invalid("it is not <issuer>/<subject>")),
        };
        Ok(TokenPrincipal { issuer, subject })
    }

    /// Returns whether the pattern matches the claims of a token.
    pub fn matches(&self, claims: &dyn Claims) -> bool {
        let matches = |pattern: &Pattern, claim: Option<&str>| claim.is_some_and(|claim| pattern.matches(claim));
        matches(&self.issuer, claims.issuer()) && matches(&self.subject, claims.subject())
    }
}

fn exact(text: &str) -> Option<Pattern> {
    (!text.is_empty() && !text.contains('*')).then(|| Pattern::Exact(text.into()))
}

/// A pattern over a path: a [`Pattern`], or a template. In a template `{*}` matches one segment and `{**}`, which must
/// be the last operator, any number of segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathPattern {
    /// A pattern without template operators.
    Plain(Pattern),
    /// A template.
    Template(Vec<TemplatePiece>),
}

/// A piece of a path template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplatePiece {
    /// Literal characters.
    Literal(Arc<str>),
    /// `{*}`: one non-empty segment.
    Segment,
    /// `{**}`: any characters.
    Rest,
}

impl PathPattern {
    /// Parses a pattern or a template.
    ///
    /// # Errors
    /// Returns an error if an operator of a template is not a whole segment or follows `{**}`, if a template contains a
    /// bare `*`, and in the cases of [`Pattern::parse`].
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        if !text.contains(['{', '}']) {
            return Pattern::parse(text).map(PathPattern::Plain);
        }
        let invalid = |reason| InvalidPattern { text: text.to_owned(), reason };
        let Some(path) = text.strip_prefix('/') else { return Err(invalid("a path template must begin with '/'")) };
        let mut pieces = Vec::new();
        let mut literal = String::new();
        for segment in path.split('/') {
            literal.push('/');
            let piece = match segment {
                "{*}" => TemplatePiece::Segment,
                "{**}" => TemplatePiece::Rest,
                _ if segment.contains(['{', '}', '*']) => {
                    return Err(invalid("\"{*}\" and \"{**}\" must be whole segments of a path template"));
                }
                _ => {
                    literal.push_str(segment);
                    continue;
                }
            };
            if pieces.contains(&TemplatePiece::Rest) {
                return Err(invalid("\"{**}\" must be the last operator"));
            }
            pieces.push(TemplatePiece::Literal(std::mem::take(&mut literal).into()));
            pieces.push(piece);
        }
        if !literal.is_empty() {
            pieces.push(TemplatePiece::Literal(literal.into()));
        }
        Ok(PathPattern::Template(pieces))
    }

    /// Returns whether the pattern matches a path without its query.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            PathPattern::Plain(pattern) => pattern.matches(path),
            PathPattern::Template(pieces) => matches_template(pieces, path),
        }
    }
}

fn matches_template(pieces: &[TemplatePiece], mut path: &str) -> bool {
    for (i, piece) in pieces.iter().enumerate() {
        match piece {
            TemplatePiece::Literal(literal) => match path.strip_prefix(&**literal) {
                Some(rest) => path = rest,
                None => return false,
            },
            TemplatePiece::Segment => {
                let end = path.find('/').unwrap_or(path.len());
                if end == 0 {
                    return false;
                }
                path = &path[end..];
            }
            // At most one literal follows.
            TemplatePiece::Rest => {
                return match pieces.get(i + 1) {
                    Some(TemplatePiece::Literal(literal)) => path.ends_with(&**literal),
                    _ => true,
                };
            }
        }
    }
    path.is_empty()
}

#[cfg(test)]
mod tests;
