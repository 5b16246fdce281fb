//! Syntax of names, labels and keys. Each check returns an error with the rule.

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = r"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
pub(super) const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";

/// Longest label or DNS label.
const LABEL_LENGTH: usize = 63;
/// Longest name of an object.
pub(super) const SUBDOMAIN_LENGTH: usize = 253;

type NameCheck = Result<(), String>;

fn check(length: usize, most: usize, fits: bool, rule: &str) -> NameCheck {
    if length > most {
        Err(format!("must be no more than {most} bytes"))
    } else if fits {
        Ok(())
    } else {
        Err(rule.to_owned())
    }
}

/// A DNS label, such as a Namespace's name.
pub(super) fn label(name: &str) -> NameCheck {
    check(name.len(), LABEL_LENGTH, is_label(name), LABEL)
}

/// A DNS subdomain, such as the names of most objects.
pub(super) fn subdomain(name: &str) -> NameCheck {
    check(name.len(), SUBDOMAIN_LENGTH, is_subdomain(name), SUBDOMAIN)
}

/// A Service's name, which starts with a letter.
pub(super) fn dns_1035(name: &str) -> NameCheck {
    let fits = is_label(name) && name.starts_with(|first: char| first.is_ascii_lowercase());
    check(name.len(), LABEL_LENGTH, fits, DNS_1035)
}

/// A name that is valid in a URL path, such as a Role's.
pub(super) fn path_segment(name: &str) -> NameCheck {
    if matches!(name, "." | "..") {
        return Err(format!("may not be '{name}'"));
    }
    match ["/", "%"].into_iter().find(|forbidden| name.contains(*forbidden)) {
        Some(forbidden) => Err(format!("may not contain '{forbidden}'")),
        None => Ok(()),
    }
}

/// A key of a label or annotation: `[prefix/]name`.
pub(super) fn qualified(key: &str) -> NameCheck {
    let name = match key.split_once('/') {
        None => key,
        Some((_, name)) if name.contains('/') => {
            return Err(format!(
                "a qualified name {QUALIFIED} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ));
        }
        Some(("", _)) => return Err("prefix part must be non-empty".to_owned()),
        Some((prefix, name)) => {
            subdomain(prefix).map_err(|problem| format!("prefix part {problem}"))?;
            name
        }
    };
    if name.is_empty() {
        return Err("name part must be non-empty".to_owned());
    }
    check(name.len(), LABEL_LENGTH, is_word(name), QUALIFIED).map_err(|problem| format!("name part {problem}"))
}

/// A label's value.
pub(super) fn label_value(value: &str) -> NameCheck {
    check(value.len(), LABEL_LENGTH, value.is_empty() || is_word(value), LABEL_VALUE)
}

/// A key of a ConfigMap or Secret.
pub(super) fn config_key(key: &str) -> NameCheck {
    if matches!(key, "." | "..") {
        return Err(format!("must not be '{key}'"));
    }
    let fits = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    check(key.len(), SUBDOMAIN_LENGTH, fits, CONFIG_KEY)
}

/// A container port's name (RFC 6335).
pub(super) fn port_name(name: &str) -> NameCheck {
    match () {
        () if name.len() > 15 => Err("must be no more than 15 characters".to_owned()),
        () if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') => {
            Err("must contain only alphanumeric characters (a-z, 0-9), and hyphens (-)".to_owned())
        }
        () if !name.bytes().any(|byte| byte.is_ascii_lowercase()) => {
            Err("must contain at least one letter (a-z)".to_owned())
        }
        () if name.contains("--") => Err("must not contain consecutive hyphens".to_owned()),
        () if name.starts_with('-') || name.ends_with('-') => Err("must not begin or end with a hyphen".to_owned()),
        () => Ok(()),
    }
}

/// An environment variable's name: printable ASCII without `=`.
pub(super) fn variable(name: &str) -> NameCheck {
    if name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=') {
        Ok(())
    } else {
        Err("a valid environment variable name must consist only of printable ASCII characters other than '='"
            .to_owned())
    }
}

fn is_subdomain(name: &str) -> bool {
    !name.is_empty() && name.split('.').all(is_label)
}

fn is_label(name: &str) -> bool {
    let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(|byte| edge(byte) || *byte == b'-')
}

fn is_word(name: &str) -> bool {
    let bytes = name.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(inner)
}
