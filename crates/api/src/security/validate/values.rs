//! The forms of values in rules.

use std::collections::HashSet;

use crate::networking::json::shown;
use crate::networking::validate::Check;
use crate::networking::validate::names;

/// The most service accounts in one field, as in Istio.
const MAX_ACCOUNTS: usize = 16;
/// The longest name of a service account with its namespace, as in Istio.
const MAX_ACCOUNT: usize = 320;

/// The form of values: a function that returns what is wrong with one.
pub(crate) type Form = fn(&str) -> Result<(), String>;

/// Checks values of a form.
pub(crate) fn all(field: &str, values: &[String], form: Form, check: &mut Check) {
    let mut seen = HashSet::new();
    check.each(field, values, |value, check| match value.as_str() {
        "" => check.error("is empty; write a value, or remove it"),
        value => {
            check.accept(form(value));
            if !seen.insert(value) {
                check.warn("is in the list twice; remove one");
            }
        }
    });
}

/// A text in which `*` is the whole, the first or the last character.
pub(crate) fn pattern(text: &str) -> Result<(), String> {
    let literal = text.strip_prefix('*').or_else(|| text.strip_suffix('*')).unwrap_or(text);
    match literal.contains('*') {
        true => Err(format!("is {:?}, but \"*\" can only be its first or last character, once", shown(text))),
        false => Ok(()),
    }
}

/// A text in which `*` may be anywhere.
pub(crate) fn glob(_: &str) -> Result<(), String> {
    Ok(())
}

/// A pattern of paths, or a template.
pub(crate) fn path(text: &str) -> Result<(), String> {
    if !text.contains(['{', '}']) {
        return pattern(text);
    }
    let invalid = |what: &str| Err(format!("is {:?}, but {what}", shown(text)));
    let Some(path) = text.strip_prefix('/') else { return invalid("a template must begin with \"/\"") };
    let mut last = false;
    for segment in path.strip_suffix('/').unwrap_or(path).split('/') {
        match segment {
            "{*}" | "{**}" if last => return invalid("\"{**}\" must be its last operator"),
            "{*}" => {}
            "{**}" => last = true,
            _ if segment.contains(['{', '}', '*']) => return invalid("\"{*}\" and \"{**}\" must be whole segments"),
            _ if segment.is_empty() || !segment.bytes().all(is_literal) => {
                return invalid("a segment of it is empty or has characters that no path has");
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_literal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&byte)
}

/// An address or CIDR block.
pub(crate) fn block(text: &str) -> Result<(), String> {
    names::subnet(text)
}

/// The number of a port.
pub(crate) fn port(text: &str) -> Result<(), String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse::<u16>().ok().filter(|_| digits);
    number
        .map(drop)
        .ok_or_else(|| format!("is {:?}, which is not the number of a port; it has no patterns", shown(text)))
}

/// A trust domain.
pub(super) fn trust_domain(text: &str) -> Result<(), String> {
    match text.contains('/') {
        true => Err(format!("is {:?}, but a trust domain has no \"/\"", shown(text))),
        false => pattern(text),
    }
}

/// Checks service accounts.
pub(super) fn accounts(field: &str, values: &[String], check: &mut Check) {
    if values.len() > MAX_ACCOUNTS {
        check.error_of(field, format!("has {} values, but at most {MAX_ACCOUNTS} are possible", values.len()));
    }
    all(field, values, account, check);
}

fn account(text: &str) -> Result<(), String> {
    let mut parts = text.split('/');
    let form = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => !name.is_empty(),
        (Some(namespace), Some(name), None) => !namespace.is_empty() && !name.is_empty(),
        _ => false,
    };
    if !form || text.contains('*') {
        return Err(format!("is {:?}, but must be the name of a service account, or <namespace>/<name>", shown(text)));
    }
    if text.len() > MAX_ACCOUNT {
        return Err(format!("has more than {MAX_ACCOUNT} characters"));
    }
    Ok(())
}

/// The issuer and subject of a token: the last `/` separates them, and one `*` is at one end.
pub(super) fn token(text: &str) -> Result<(), String> {
    let invalid = |what: &str| Err(format!("is {:?}, but {what}", shown(text)));
    let literal = text.strip_prefix('*').or_else(|| text.strip_suffix('*')).unwrap_or(text);
    if literal.contains('*') {
        return invalid("\"*\" can only be its first or last character, once");
    }
    match text.rsplit_once('/') {
        None if text.contains('*') => Ok(()),
        None => invalid("must be <issuer>/<subject>"),
        Some((issuer, subject)) if issuer.is_empty() || subject.is_empty() => invalid("must be <issuer>/<subject>"),
        Some(_) => Ok(()),
    }
}
