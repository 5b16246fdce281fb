//! The forms of names: hosts, labels, headers, gateways, namespaces.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::Check;
pub(crate) use crate::networking::json::shown;

/// The longest name of a host.
const MAX_HOST: usize = 255;
/// The longest label of a name.
const MAX_LABEL: usize = 63;
/// The longest prefix of the key of a label.
const MAX_PREFIX: usize = 253;

/// Checks a name of which the first label may be or begin with `*`.
pub(super) fn wildcard_host(host: &str) -> Result<(), String> {
    length(host)?;
    let (first, rest) = host.split_once('.').map_or((host, None), |(first, rest)| (first, Some(rest)));
    if !is_wildcard_label(first) {
        return Err(invalid_label(host, first));
    }
    rest.map_or(Ok(()), labels_of)
}

/// Checks a full name without wildcards.
pub(crate) fn host(host: &str) -> Result<(), String> {
    length(host)?;
    labels_of(host)
}

fn length(host: &str) -> Result<(), String> {
    match host.len() {
        0 => Err("is empty; write the name of a host".to_owned()),
        1..=MAX_HOST => Ok(()),
        length => Err(format!("has {length} characters; the name of a host has at most {MAX_HOST}")),
    }
}

fn labels_of(host: &str) -> Result<(), String> {
    let last = host.rsplit('.').next().unwrap_or_default();
    if !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("is {host:?}, which is not the name of a host: its last label consists of digits"));
    }
    // A name may end with a dot.
    let name = host.strip_suffix('.').unwrap_or(host);
    match name.split('.').find(|label| !is_label(label)) {
        Some(label) => Err(invalid_label(host, label)),
        None => Ok(()),
    }
}

fn invalid_label(host: &str, label: &str) -> String {
    format!(
        "is {:?}, which is not the name of a host: {:?} is not a label (letters, digits and dashes, at most 63)",
        shown(host),
        shown(label)
    )
}

/// Returns whether a text is a label of a name, in either case.
pub(crate) fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= MAX_LABEL
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

/// Returns whether a text is a label of a name, `*`, or a label after `*` or `*-`.
fn is_wildcard_label(text: &str) -> bool {
    let rest = text.strip_prefix("*-").or(text.strip_prefix('*'));
    text.len() <= MAX_LABEL && (text == "*" || is_label(rest.unwrap_or(text)))
}

/// Returns whether a text is an IP address.
pub(super) fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// Checks an IP address or CIDR block.
pub(crate) fn subnet(text: &str) -> Result<(), String> {
    let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let most = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return Err(not_a_subnet(text)),
    };
    match length.map(str::parse::<u8>) {
        None => Ok(()),
        Some(Ok(length)) if length <= most => Ok(()),
        Some(_) => Err(not_a_subnet(text)),
    }
}

fn not_a_subnet(text: &str) -> String {
    format!("is {:?}, but must be an IP address or a CIDR block such as \"10.0.0.0/8\"", shown(text))
}

/// Checks the keys and values of labels.
pub(crate) fn label_map(check: &mut Check, field: &str, labels: &BTreeMap<String, String>) {
    for (key, value) in labels {
        check.at(format_args!(".{field}[{}]", shown(key)), |check| {
            let (prefix, name) = key.rsplit_once('/').map_or((None, &**key), |(prefix, name)| (Some(prefix), name));
            let prefix = prefix.is_none_or(|prefix| prefix.len() <= MAX_PREFIX && prefix.split('.').all(is_label));
            if !prefix || name.is_empty() || !is_qualified(name) || name.len() > MAX_LABEL {
                check.error("is not the key of a label; write one such as \"version\" or \"example.com/version\"");
            }
            if !is_qualified(value) {
                check.error(format!("is {:?}, which is not the value of a label", shown(value)));
            }
        });
    }
}

/// Returns whether a text is empty, or letters, digits, `-`, `_` and `.` between letters or digits.
fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
        && [bytes.first(), bytes.last()].into_iter().flatten().all(u8::is_ascii_alphanumeric)
}

/// Checks the name of a header: letters, digits, `-` and `_`.
pub(crate) fn header(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("has an empty name; write the name of a header".to_owned());
    }
    match name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
        true => Ok(()),
        false => Err("is not the name of a header (letters, digits, \"-\" and \"_\")".to_owned()),
    }
}

/// Returns whether a text is a token of HTTP, as names of headers are.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// The beginning of the name of a header that is a claim of the token.
const CLAIM: &str = "@request.auth.claims";

/// Returns whether the name of a header is a claim of the token: `@request.auth.claims.name`, or with `[name]`.
pub(crate) fn is_claim(name: &str) -> bool {
    let Some((prefix, rest)) = name.split_at_checked(CLAIM.len()) else { return false };
    prefix.eq_ignore_ascii_case(CLAIM) && (rest.starts_with('.') || (rest.starts_with('[') && rest.ends_with(']')))
}

/// Checks names of gateways: `name`, `namespace/name`, or a full name.
pub(super) fn gateways(check: &mut Check, names: &[String]) {
    check.each("gateways", names, |name, check| match name.split_once('/') {
        Some((namespace, gateway)) => {
            if !is_label(namespace) || !is_label(gateway) {
                check.error(format!("is {:?}, but must be <namespace>/<name>, each a DNS label", shown(name)));
            }
        }
        None => {
            check.accept(host(name));
            let mut labels = name.split('.');
            if let (Some(gateway), Some(namespace)) = (labels.next(), labels.next()) {
                check.warn(format!("is a legacy form of the name; write \"{namespace}/{gateway}\""));
            }
        }
    });
}

/// Checks the namespaces to which an object is exported. `selected` says that it applies to some workloads alone.
pub(super) fn export_to(check: &mut Check, own: &str, names: &[String], selected: bool) {
    let mut seen = HashMap::new();
    check.each("exportTo", names, |name, check| {
        let namespace = if name == "." { own } else { name };
        if name != "." && name != "*" && !is_label(name) {
            check.error(format!("is {:?}, but must be \".\", \"*\" or the name of a namespace", shown(name)));
        }
        if let Some(before) = seen.insert(namespace, name) {
            let same = if before == name { String::new() } else { format!(" ({before:?} is the same namespace)") };
            check.error(format!("is {name:?} a second time{same}; remove one"));
        }
    });
    if names.len() > 1 && names.iter().any(|name| name == "*") {
        check.error_of("exportTo", "has \"*\" beside other values; \"*\" means all namespaces, so write it alone");
    }
    if selected && names.iter().any(|name| name != "." && name != own) {
        check.error_of("exportTo", "leaves the namespace, but a workloadSelector applies in it alone; write [\".\"]");
    }
}

/// Returns pairs of hosts of which one covers the other, as indices. The number of steps is linear in the length of the text.
pub(super) fn overlapping(hosts: &[String]) -> Vec<(usize, usize)> {
    let suffix = |host: &str| host.strip_prefix('*').map(str::to_owned);
    let (mut exact, mut wildcard): (HashMap<&str, usize>, HashMap<String, usize>) = (HashMap::new(), HashMap::new());
    let mut pairs = Vec::new();
    for (index, host) in hosts.iter().enumerate() {
        let before = match suffix(host) {
            Some(suffix) => wildcard.insert(suffix, index),
            None => exact.insert(host, index),
        };
        pairs.extend(before.map(|before| (before, index)));
    }
    for (index, host) in hosts.iter().enumerate() {
        let name = host.strip_prefix('*').unwrap_or(host);
        // Of a wildcard, longer suffixes only: its own is that of the same host.
        let from = usize::from(host.starts_with('*'));
        let tails = name.char_indices().map(|(at, _)| at).chain([name.len()]).skip(from);
        let covering = tails.filter_map(|at| wildcard.get(&name[at..])).find(|other| **other != index);
        pairs.extend(covering.map(|other| (index.min(*other), index.max(*other))));
    }
    pairs
}

/// Returns whether a host is covered by another, which may be a wildcard.
pub(super) fn is_covered(host: &str, by: &str) -> bool {
    match (host.strip_prefix('*'), by.strip_prefix('*')) {
        (Some(host), Some(by)) => host.len() >= by.len() && host.ends_with(by),
        (Some(_), None) => false,
        (None, Some(by)) => host.ends_with(by),
        (None, None) => host == by,
    }
}
