//! What an analysis finds.

use std::collections::BTreeSet;

use serde::Serialize;

use super::object::{Object, Origin};
use crate::networking::Severity;

/// Something that an analysis found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Message {
    /// The file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The cluster, of an object of a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The kind of the object.
    pub kind: String,
    /// The name of the object, with its namespace.
    pub name: String,
    /// The path of the field.
    pub field: String,
    /// The code.
    pub code: &'static str,
    /// How bad it is.
    pub level: Severity,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Message {
    /// Returns the object as messages name it.
    pub fn origin(&self) -> String {
        match &*self.name {
            "" => self.kind.clone(),
            name => format!("{} {name}", self.kind),
        }
    }

    /// Returns the file and the line, or the cluster.
    pub fn reference(&self) -> String {
        match (&self.file, self.line, &self.cluster) {
            (Some(file), Some(line), _) => format!("{file}:{line}"),
            (Some(file), None, _) => file.clone(),
            (None, _, Some(cluster)) => cluster.clone(),
            (None, _, None) => String::new(),
        }
    }
}

/// What is not reported: a code for some objects, as `IST0101=VirtualService shop/*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suppression {
    code: String,
    origin: String,
}

impl std::str::FromStr for Suppression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=').map(|(code, origin)| (code.trim(), origin.trim())) {
            Some((code, origin)) if !code.is_empty() && !origin.is_empty() => {
                Ok(Suppression { code: code.to_owned(), origin: origin.to_owned() })
            }
            _ => Err(format!("{text:?} is not CODE=KIND NAMESPACE/NAME, such as \"IST0101=VirtualService shop/*\"")),
        }
    }
}

impl Suppression {
    fn applies(&self, message: &Message) -> bool {
        self.code == message.code && matches(&self.origin, &message.origin())
    }
}

/// Returns whether a text has the form of a pattern, in which `*` is any text. The number of steps is the product of both
/// lengths at most.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The annotation of an object with the codes that are not reported of it, separated by commas, or `*`.
const SUPPRESS: &str = "galley.istio.io/analyze-suppress";

/// Collects messages.
#[derive(Default)]
pub(super) struct Report {
    messages: BTreeSet<Message>,
}

impl Report {
    /// Reports something about a field of an object.
    pub(super) fn add(
        &mut self,
        object: &Object,
        code: &'static str,
        level: Severity,
        field: &str,
        message: impl Into<String>,
    ) {
        let suppressed = object.annotation(SUPPRESS).unwrap_or_default();
        if suppressed.split(',').any(|of| matches!(of.trim(), "*") || of.trim() == code) {
            return;
        }
        let (file, line, cluster) = match &object.origin {
            Origin::File { path, lines } => (Some(path.to_string()), Some(lines.of(field)), None),
            Origin::Cluster(name) => (None, None, Some(name.to_string())),
        };
        self.messages.insert(Message {
            file,
            line,
            cluster,
            kind: object.kind().to_owned(),
            name: object.full_name(),
            field: field.to_owned(),
            code,
            level,
            message: message.into(),
        });
    }

    /// Returns the messages in order, without those that are suppressed.
    pub(super) fn finish(self, suppressions: &[Suppression]) -> Vec<Message> {
        let wanted = |message: &Message| !suppressions.iter().any(|of| of.applies(message));
        self.messages.into_iter().filter(wanted).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_is_any_text() {
        for (pattern, yes, no) in [
            ("a", "a", "ab"),
            ("*", "", "\0"),
            ("Service shop/*", "Service shop/a", "Service b/a"),
            ("*/a", "b/a", "b/aa"),
            ("a*b*c", "a1b2c", "a1c"),
            ("a*a", "aa", "a"),
        ] {
            assert!(matches(pattern, yes), "{pattern}");
            assert!(pattern == "*" || !matches(pattern, no), "{pattern}");
        }
    }
}
