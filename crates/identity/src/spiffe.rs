//! SPIFFE IDs of workloads: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
//!
//! The syntax is that of the SPIFFE-ID standard (trust domain: lower-case letters, digits, `.`, `-`, `_`; path
//! segments: letters, digits, `.`, `-`, `_`; at most 2048 bytes), restricted to the form that Istio uses. A similar
//! text is refused, not normalised: two spellings of one identity would allow a peer to bypass policies.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

const SCHEME: &str = "spiffe://";
/// The standard's limit for the whole ID, in bytes.
const MAX_ID: usize = 2048;
/// The standard's limit for the trust domain, in bytes.
const MAX_DOMAIN: usize = 255;

/// The SPIFFE ID of a workload. Cheap to clone; ordered and hashed by its text.
#[derive(Clone)]
pub struct SpiffeId {
    text: Arc<str>,
    domain_end: u16,
    namespace_end: u16,
}

/// Why a text is not the SPIFFE ID of a workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// The text is longer than 2048 bytes.
    #[error("the SPIFFE ID has {0} bytes; the limit is {MAX_ID}")]
    TooLong(usize),
    /// The text does not start with `spiffe://`.
    #[error("{0:?} does not start with \"spiffe://\"")]
    Scheme(String),
    /// The trust domain is empty, too long, or has invalid characters.
    #[error("{0:?} is not a valid trust domain (lower-case letters, digits, '.', '-' and '_')")]
    TrustDomain(String),
    /// The path is not `/ns/<namespace>/sa/<service account>`.
    #[error("{0:?} does not have the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Form(String),
    /// A path segment is empty, `.` or `..`, or has invalid characters.
    #[error("{0:?} is not a valid part of a SPIFFE ID (letters, digits, '.', '-' and '_')")]
    Segment(String),
}

impl SpiffeId {
    /// Creates an ID from its parts.
    ///
    /// # Errors
    /// Returns an error if a part is empty or has invalid characters.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, SpiffeError> {
        check_trust_domain(trust_domain)?;
        check_segment(namespace)?;
        check_segment(service_account)?;
        let text = format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}");
        if text.len() > MAX_ID {
            return Err(SpiffeError::TooLong(text.len()));
        }
        let domain_end = SCHEME.len() + trust_domain.len();
        let namespace_end = domain_end + "/ns/".len() + namespace.len();
        // Both fit: the text has at most 2048 bytes.
        Ok(SpiffeId { text: text.into(), domain_end: domain_end as u16, namespace_end: namespace_end as u16 })
    }

    /// Returns the ID as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the trust domain, such as `cluster.local`.
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..usize::from(self.domain_end)]
    }

    /// Returns the Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.text[usize::from(self.domain_end) + "/ns/".len()..usize::from(self.namespace_end)]
    }

    /// Returns the Kubernetes service account.
    pub fn service_account(&self) -> &str {
        &self.text[usize::from(self.namespace_end) + "/sa/".len()..]
    }
}

/// Checks the syntax of a trust domain.
///
/// # Errors
/// Returns [`SpiffeError::TrustDomain`] if the syntax is invalid.
pub(crate) fn check_trust_domain(domain: &str) -> Result<(), SpiffeError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    if domain.is_empty() || domain.len() > MAX_DOMAIN || !domain.bytes().all(allowed) {
        return Err(SpiffeError::TrustDomain(excerpt(domain)));
    }
    Ok(())
}

fn check_segment(segment: &str) -> Result<(), SpiffeError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if segment.is_empty() || segment == "." || segment == ".." || !segment.bytes().all(allowed) {
        return Err(SpiffeError::Segment(excerpt(segment)));
    }
    Ok(())
}

/// Limits the length of untrusted text in a message.
fn excerpt(text: &str) -> String {
    text.chars().take(120).collect()
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        if text.len() > MAX_ID {
            return Err(SpiffeError::TooLong(text.len()));
        }
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| SpiffeError::Scheme(excerpt(text)))?;
        let (domain, path) = rest.split_once('/').ok_or_else(|| SpiffeError::Form(excerpt(text)))?;
        check_trust_domain(domain)?;
        let mut segments = path.split('/');
        match (segments.next(), segments.next(), segments.next(), segments.next(), segments.next()) {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None) => SpiffeId::new(domain, namespace, account),
            _ => Err(SpiffeError::Form(excerpt(text))),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for SpiffeId {}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl std::hash::Hash for SpiffeId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl std::borrow::Borrow<str> for SpiffeId {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl serde::Serialize for SpiffeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> serde::Deserialize<'de> for SpiffeId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_parsed_and_formatted() {
        let id: SpiffeId = "spiffe://cluster.local/ns/default/sa/reviews".parse().unwrap();
        assert_eq!((id.trust_domain(), id.namespace(), id.service_account()), ("cluster.local", "default", "reviews"));
        assert_eq!(id, SpiffeId::new("cluster.local", "default", "reviews").unwrap());
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/default/sa/reviews");
    }

    #[test]
    fn invalid_ids_are_refused() {
        let table = [
            "",
            "spiffe://",
            "spiffe:///ns/a/sa/b",
            "spiffe://td",
            "spiffe://td/",
            "spiffe://td/ns/a",
            "spiffe://td/ns/a/sa/",
            "spiffe://td/ns//sa/b",
            "spiffe://td/ns/a/sa/b/",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td/sa/a/ns/b",
            "spiffe://td/ns/../sa/b",
            "spiffe://td/ns/./sa/b",
            "spiffe://td/ns/a%2f/sa/b",
            "spiffe://td/ns/a/sa/b?x=1",
            "spiffe://td/ns/a/sa/b#x",
            "spiffe://td:80/ns/a/sa/b",
            "spiffe://u@td/ns/a/sa/b",
            "spiffe://TD/ns/a/sa/b",
            "SPIFFE://td/ns/a/sa/b",
            "https://td/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b\0",
            "spiffe://td\0.evil/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b spiffe://td/ns/c/sa/d",
            "spiffe://td/ns/\u{e4}/sa/b",
        ];
        for text in table {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?} was accepted");
        }
        assert!(format!("spiffe://td/ns/a/sa/{}", "b".repeat(3000)).parse::<SpiffeId>().is_err());
        assert!(SpiffeId::new("td/ns/x", "a", "b").is_err());
        assert!(SpiffeId::new("td", "a/sa/b", "c").is_err());
    }
}
