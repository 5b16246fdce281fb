//! Rules of names: names of objects, and the order of versions.

use std::cmp::Ordering;

/// Returns why a name is not an RFC 1123 subdomain, or None if it is one.
pub(crate) fn bad_object_name(name: &str) -> Option<&'static str> {
    const RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with \
         an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    if name.len() > 253 {
        return Some("must be no more than 253 characters");
    }
    let label = |label: &str| {
        let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        !label.is_empty() && label.bytes().all(legal) && !label.starts_with('-') && !label.ends_with('-')
    };
    (!name.split('.').all(label)).then_some(RULE)
}

/// Orders versions by Kubernetes' version priority: stable before beta before alpha, newer before older; other names
/// last.
pub(crate) fn compare_versions(a: &str, b: &str) -> Ordering {
    match (parse(a), parse(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// Stability, major and minor of `v1`, `v2beta3`.
fn parse(version: &str) -> Option<(u8, u32, u32)> {
    let rest = version.strip_prefix('v')?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let major = rest[..end].parse().ok()?;
    match &rest[end..] {
        "" => Some((2, major, 0)),
        other => {
            let (stability, minor) = other
                .strip_prefix("beta")
                .map(|minor| (1, minor))
                .or_else(|| other.strip_prefix("alpha").map(|minor| (0, minor)))?;
            Some((stability, major, minor.parse().ok()?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_priority() {
        let mut versions = ["foo1", "v11alpha2", "v1", "v10", "v3beta1", "v2", "v10beta3", "foo10", "v12alpha1"];
        versions.sort_by(|a, b| compare_versions(a, b));
        assert_eq!(versions, ["v10", "v2", "v1", "v10beta3", "v3beta1", "v12alpha1", "v11alpha2", "foo1", "foo10"]);
    }

    #[test]
    fn object_names() {
        for good in ["a", "a-b.c", "0"] {
            assert_eq!(bad_object_name(good), None, "{good}");
        }
        for bad in ["", "A", "a_b", "-a", "a.", "a..b"] {
            assert!(bad_object_name(bad).is_some(), "{bad}");
        }
    }
}
