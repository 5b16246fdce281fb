//! Routes that no request or connection reaches: Istio's IST0130 (a whole rule) and IST0131 (one of its matches).

use std::collections::HashMap;

use serde_json::Value;

use super::{Check, names};
use crate::networking::Severity;
use crate::networking::http_match::{HttpMatch, Pattern, StringMatch};
use crate::networking::http_route::HttpRoute;
use crate::networking::json::Field;
use crate::networking::virtual_service::VirtualServiceSpec;

/// The code of a rule that is not reached.
pub(crate) const UNREACHABLE_RULE: &str = "IST0130";
/// The code of a match that is not reached.
pub(crate) const INEFFECTIVE_MATCH: &str = "IST0131";

/// The number of matches by a prefix that are compared with each other.
const MAX_PREFIXES: usize = 500;

pub(super) fn check(spec: &VirtualServiceSpec, check: &mut Check) {
    let name = |route: &HttpRoute| Some(route.name.clone()).filter(|name| !name.is_empty());
    let http = spec.http.iter().map(|route| Rule {
        name: name(route),
        matches: route.matches.iter().map(without_name).collect(),
        all: route.matches.is_empty() || route.matches.iter().any(matches_everything),
    });
    rules("http", http.collect(), check);
    let of = |matches: Vec<Value>| Rule { name: None, all: matches.is_empty(), matches };
    rules("tls", spec.tls.iter().map(|route| of(route.matches.iter().map(Field::json).collect())).collect(), check);
    rules("tcp", spec.tcp.iter().map(|route| of(route.matches.iter().map(Field::json).collect())).collect(), check);
    prefixes(spec, check);
}

struct Rule {
    name: Option<String>,
    matches: Vec<Value>,
    /// Whether it matches everything.
    all: bool,
}

/// Returns a match as JSON without its name, which has no effect.
fn without_name(matched: &HttpMatch) -> Value {
    HttpMatch { name: String::new(), stat_prefix: String::new(), ..matched.clone() }.json()
}

/// Returns whether a match has no condition but that every path begins with `/`.
fn matches_everything(matched: &HttpMatch) -> bool {
    let path = matched.uri.as_ref().is_none_or(|uri| {
        matches!(uri.pattern(), Pattern::Any | Pattern::Prefix("" | "/") | Pattern::Regex(".*" | "*" | "/.*"))
    });
    let rest = HttpMatch { uri: None, ignore_uri_case: false, ..matched.clone() };
    path && without_name(&rest) == HttpMatch::default().json()
}

fn rules(field: &str, rules: Vec<Rule>, check: &mut Check) {
    let label = |index: usize| match &rules[index].name {
        Some(name) => format!("{:?}", names::shown(name)),
        None => format!("{field}[{index}]"),
    };
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut catch_all: Option<usize> = None;
    for (index, rule) in rules.iter().enumerate() {
        check.at(format_args!(".{field}[{index}]"), |check| {
            if let Some(before) = catch_all {
                let message = format!("is never used: {} before it matches everything; move it up", label(before));
                check.found(UNREACHABLE_RULE, Severity::Warning, message);
                return;
            }
            let mut known = 0;
            for (at, matched) in rule.matches.iter().enumerate() {
                match seen.get(&matched.to_string()) {
                    Some(before) => {
                        known += 1;
                        let message = format!("is never used: {} has the same match; remove one", label(*before));
                        check.at(format_args!(".match[{at}]"), |check| {
                            check.found(INEFFECTIVE_MATCH, Severity::Info, message)
                        });
                    }
                    None => drop(seen.insert(matched.to_string(), index)),
                }
            }
            if known > 0 && known == rule.matches.len() {
                let message = "is never used: rules before it have all of its matches; remove it";
                check.found(UNREACHABLE_RULE, Severity::Warning, message);
            }
        });
        if rule.all && catch_all.is_none() {
            catch_all = Some(index);
        }
    }
}

/// A match by a prefix of the path.
struct ByPrefix<'a> {
    rule: usize,
    at: usize,
    prefix: &'a str,
    matched: &'a HttpMatch,
}

/// Reports prefix matches that an earlier rule makes unreachable: it matches a shorter prefix under the same other conditions.
fn prefixes(spec: &VirtualServiceSpec, check: &mut Check) {
    let by_prefix: Vec<ByPrefix<'_>> = spec
        .http
        .iter()
        .enumerate()
        .flat_map(|(rule, route)| route.matches.iter().enumerate().map(move |(at, matched)| (rule, at, matched)))
        .filter_map(|(rule, at, matched)| match matched.uri.as_ref()?.pattern() {
            Pattern::Prefix(prefix) if !prefix.is_empty() => Some(ByPrefix { rule, at, prefix, matched }),
            _ => None,
        })
        .take(MAX_PREFIXES)
        .collect();
    for (index, late) in by_prefix.iter().enumerate() {
        let early = by_prefix[..index].iter().find(|early| early.rule < late.rule && early.covers(late));
        let Some(early) = early else { continue };
        let message = format!(
            "is never used: http[{}].match[{}] before it has the shorter prefix {:?}; move the longer one up",
            early.rule,
            early.at,
            names::shown(early.prefix)
        );
        check.at(format_args!(".http[{}].match[{}]", late.rule, late.at), |check| {
            check.found(INEFFECTIVE_MATCH, Severity::Info, message);
        });
    }
}

impl ByPrefix<'_> {
    /// Returns whether every request of another match matches this one. Unlike Istio, a condition that only the other has
    /// does not keep it from being covered.
    fn covers(&self, other: &ByPrefix<'_>) -> bool {
        let (all, some) = (self.matched, other.matched);
        let same = |all: &Option<StringMatch>, some: &Option<StringMatch>| all.is_none() || all == some;
        let within = |all: &std::collections::BTreeMap<String, StringMatch>,
                      some: &std::collections::BTreeMap<_, _>| {
            all.iter().all(|(name, value)| some.get(name) == Some(value))
        };
        self.prefix != other.prefix
            && other.prefix.starts_with(self.prefix)
            && (all.ignore_uri_case || !some.ignore_uri_case)
            && (all.port == 0 || all.port == some.port)
            && same(&all.scheme, &some.scheme)
            && same(&all.method, &some.method)
            && same(&all.authority, &some.authority)
            && within(&all.headers, &some.headers)
            && within(&all.query_params, &some.query_params)
            && within(&all.without_headers, &some.without_headers)
            && all.source_labels.iter().all(|(name, value)| some.source_labels.get(name) == Some(value))
            && (all.source_namespace.is_empty() || all.source_namespace == some.source_namespace)
            && (all.gateways.is_empty() || all.gateways == some.gateways)
    }
}
