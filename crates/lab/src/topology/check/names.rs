//! Names in topology files.

use api::names::{DNS_LABEL, is_dns_label};
use serde_saphyr::Spanned;

use super::super::diagnostic::Problem;

/// Longest host name (RFC 1035 §2.3.4).
const MAX_HOST: usize = 253;
/// The domain of the clusters, whose names are those of Services and pods.
const CLUSTER_DOMAIN: &str = "cluster.local";

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

/// Checks a host name outside of the clusters: labels with dots between them.
pub(super) fn outside_host(raw: &Spanned<String>, what: &str) -> CheckResult<String> {
    let text = &raw.value;
    let labels: Vec<&str> = text.split('.').collect();
    let is_name = labels.len() > 1 && text.len() <= MAX_HOST && labels.iter().all(|label| is_dns_label(label));
    let is_address = labels.iter().all(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    if !is_name || is_address {
        return Err(Problem::new(raw.referenced, format!("\"{text}\" is not the host name of an {what}"))
            .hint("a name in lower case with at least one dot, without scheme and path, such as auth.example.com"));
    }
    if text.ends_with(&format!(".{CLUSTER_DOMAIN}")) || text == CLUSTER_DOMAIN {
        return Err(Problem::new(raw.referenced, format!("{what} \"{text}\" has the name of a Service"))
            .hint(format!("choose a name outside of {CLUSTER_DOMAIN}, such as auth.example.com")));
    }
    Ok(text.clone())
}

/// Reports whether Kubernetes accepts the name of a port (RFC 6335).
pub(super) fn is_port_name(name: &str) -> bool {
    is_dns_label(name) && name.len() <= 15 && name.bytes().any(|byte| byte.is_ascii_lowercase()) && !name.contains("--")
}

pub(super) fn or_none(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
