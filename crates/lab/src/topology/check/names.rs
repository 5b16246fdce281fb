//! Names in topology files.

use api::names::{DNS_LABEL, is_dns_label};
use serde_saphyr::Spanned;

use super::super::diagnostic::Problem;

/// The result of checking a part of the file.
pub(super) type CheckResult<T> = Result<T, Problem>;

/// Checks that a name is a DNS label, as Kubernetes requires.
pub(super) fn label(name: &Spanned<String>, what: &str) -> CheckResult<String> {
    let text = &name.value;
    if is_dns_label(text) {
        return Ok(text.clone());
    }
    Err(Problem::new(name.referenced, format!("\"{text}\" is not a valid {what} name")).hint(DNS_LABEL))
}

/// Checks the name of a Service, which begins with a letter (RFC 1035).
pub(super) fn service(name: &Spanned<String>, what: &str) -> CheckResult<String> {
    let text = label(name, what)?;
    if text.starts_with(|first: char| first.is_ascii_lowercase()) {
        return Ok(text);
    }
    Err(Problem::new(name.referenced, format!("\"{text}\" is not a valid {what} name"))
        .hint("the name of a Service begins with a letter"))
}

/// Reports whether Kubernetes accepts the name of a port (RFC 6335).
pub(super) fn is_port_name(name: &str) -> bool {
    is_dns_label(name) && name.len() <= 15 && name.bytes().any(|byte| byte.is_ascii_lowercase()) && !name.contains("--")
}

pub(super) fn or_none(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
