//! Names in topology files.

use serde_saphyr::Spanned;

use super::super::diagnostic::Problem;

/// The result of checking a part of the file.
pub(super) type CheckResult<T> = Result<T, Problem>;

/// Checks that a name is a DNS label, as Kubernetes requires.
pub(super) fn label(name: &Spanned<String>, what: &str) -> CheckResult<String> {
    let text = &name.value;
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    let valid = text.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
    if valid {
        return Ok(text.clone());
    }
    Err(Problem::new(name.referenced, format!("\"{text}\" is not a valid {what} name"))
        .hint("lower-case letters, digits and dashes, at most 63, beginning and ending with a letter or digit"))
}

pub(super) fn or_none(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
