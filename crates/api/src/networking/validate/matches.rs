//! Matches of requests: text by text, and regular expressions.

use std::collections::BTreeMap;

use super::{Check, names};
use crate::networking::http_match::{HttpMatch, Pattern, StringMatch};
use crate::networking::re2;

/// The parts of a request that match as headers as well.
const PSEUDO_HEADERS: [&str; 3] = [":authority", ":method", ":scheme"];

pub(super) fn check(matched: &HttpMatch, check: &mut Check) {
    headers(check, "headers", &matched.headers, false);
    headers(check, "withoutHeaders", &matched.without_headers, true);
    // The empty prefix of a path matches every path.
    check.some("uri", &matched.uri, |uri, check| text(uri, check, true));
    for (name, field) in [("scheme", &matched.scheme), ("method", &matched.method), ("authority", &matched.authority)] {
        check.some(name, field, |matched, check| text(matched, check, false));
    }
    for (name, matched) in &matched.query_params {
        check.at(format_args!(".queryParams[{}]", names::shown(name)), |check| text(matched, check, false));
    }
    client(check, matched.port, &matched.source_labels, &matched.source_namespace, &matched.gateways);
}

/// Checks what matches of requests and of connections have in common.
pub(super) fn client(
    check: &mut Check,
    port: u32,
    labels: &BTreeMap<String, String>,
    namespace: &str,
    gateways: &[String],
) {
    if port != 0 {
        check.port("port", port);
    }
    names::label_map(check, "sourceLabels", labels);
    names::gateways(check, gateways);
    if !namespace.is_empty() && !names::is_label(namespace) {
        check.error_of("sourceNamespace", format!("is {:?}, which is not a namespace", names::shown(namespace)));
    }
}

fn headers(check: &mut Check, field: &str, headers: &BTreeMap<String, StringMatch>, absent: bool) {
    for (name, matched) in headers {
        check.at(format_args!(".{field}[{}]", names::shown(name)), |check| {
            let pseudo = !absent && PSEUDO_HEADERS.contains(&name.as_str());
            if !names::is_claim(name) && !pseudo {
                check.accept(names::header(name));
            }
            // Here `*` is no regular expression: the header is not there at all.
            if !(absent && matched.pattern() == Pattern::Regex("*")) {
                text(matched, check, false);
            }
        });
    }
}

/// Checks a match of text.
pub(super) fn text(matched: &StringMatch, check: &mut Check, empty_prefix: bool) {
    check.one_of(&[
        ("exact", matched.exact.is_some()),
        ("prefix", matched.prefix.is_some()),
        ("regex", matched.regex.is_some()),
    ]);
    match matched.pattern() {
        Pattern::Prefix("") if !empty_prefix => {
            check.error_of("prefix", "is empty, which every text has; write a prefix, or {} for presence alone");
        }
        Pattern::Regex(pattern) => check.at(format_args!(".regex"), |check| regex(pattern, check)),
        _ => {}
    }
}

/// Checks a regular expression.
pub(super) fn regex(pattern: &str, check: &mut Check) {
    check.accept(re2::compile(pattern).map(drop));
}
