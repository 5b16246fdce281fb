//! The conditions of ServiceProfiles and HTTPRouteGroups.

use api::linkerd::RequestMatch;
use api::networking::re2;
use api::smi::http_route_group::RouteMatch;
use wire::discovery::request_condition::Condition;
use wire::discovery::string_match::Pattern;
use wire::discovery::{FieldMatch, HttpMatch, RequestCondition, RequestConditions, StringMatch};

/// What follows the beginning of a path that an expression matches.
const REST: &str = "(?s-u:.*)";

/// Compiles a condition of a ServiceProfile into alternatives.
pub(super) fn of_profile(of: &RequestMatch) -> Vec<HttpMatch> {
    let own = !of.path_regex.is_empty() || !of.method.is_empty();
    if !own && of.all.is_empty() && of.not.0.is_empty() {
        return of.any.iter().flat_map(of_profile).collect();
    }
    vec![http_match(of)]
}

/// Compiles a condition with those within it. Validation bounds its depth.
fn http_match(of: &RequestMatch) -> HttpMatch {
    let path = of.unanchored_path();
    let path = (!path.is_empty()).then(|| match is_literal(path) {
        true => Pattern::Exact(path.to_owned()),
        false => Pattern::Regex(re2::translate(path)),
    });
    let mut further: Vec<RequestCondition> = of.all.iter().map(condition).collect();
    further.extend(any(of.any.iter().map(condition).collect()));
    further.extend(of.not.0.iter().map(|not| wrap(Condition::Not(Box::new(condition(not))))));
    HttpMatch { path: path.map(string), method: method(&of.method), further, ..HttpMatch::default() }
}

fn condition(of: &RequestMatch) -> RequestCondition {
    wrap(Condition::Request(http_match(of)))
}

fn wrap(condition: Condition) -> RequestCondition {
    RequestCondition { condition: Some(condition) }
}

/// Returns the condition that one of several is met; `None` without any.
fn any(mut conditions: Vec<RequestCondition>) -> Option<RequestCondition> {
    match conditions.len() {
        0 | 1 => conditions.pop(),
        _ => Some(wrap(Condition::Any(RequestConditions { conditions }))),
    }
}

/// Compiles a condition of an HTTPRouteGroup into alternatives. A path is matched by its beginning.
pub(super) fn of_group(of: &RouteMatch) -> Vec<HttpMatch> {
    let pattern = of.path_regex.strip_prefix('^').unwrap_or(&of.path_regex);
    let path = (!pattern.is_empty()).then(|| match is_literal(pattern) {
        true => Pattern::Prefix(pattern.to_owned()),
        false => Pattern::Regex(format!("(?:{}){REST}", re2::translate(pattern))),
    });
    let mut one = HttpMatch { path: path.map(string), ..HttpMatch::default() };
    for (name, pattern) in &of.headers.0 {
        let value = string(Pattern::Regex(re2::translate(pattern)));
        let name = name.to_ascii_lowercase();
        if one.authority.is_none() && matches!(&*name, "host" | ":authority") {
            one.authority = Some(value);
        } else {
            one.headers.push(FieldMatch { name, value: Some(value), invert: false });
        }
    }
    if of.is_any_method() {
        return vec![one];
    }
    of.methods.iter().map(|name| HttpMatch { method: method(name), ..one.clone() }).collect()
}

/// Returns the condition that both are met: one of `these`, or any request if there are none, and one of `those`.
pub(super) fn both(these: &[HttpMatch], those: &[HttpMatch]) -> Vec<HttpMatch> {
    if these.is_empty() {
        return those.to_vec();
    }
    let requests = those.iter().cloned().map(|of| wrap(Condition::Request(of)));
    let further = any(requests.collect());
    these
        .iter()
        .map(|of| {
            let mut of = of.clone();
            of.further.extend(further.clone());
            of
        })
        .collect()
}

/// Returns the number of conditions, those within others included.
pub(super) fn size(of: &HttpMatch) -> usize {
    fn nested(of: &RequestCondition) -> usize {
        match &of.condition {
            Some(Condition::Request(request)) => size(request),
            Some(Condition::All(of) | Condition::Any(of)) => 1 + of.conditions.iter().map(nested).sum::<usize>(),
            Some(Condition::Not(of)) => 1 + nested(of),
            None => 1,
        }
    }
    1 + of.headers.len() + of.further.iter().map(nested).sum::<usize>()
}

fn method(name: &str) -> Option<StringMatch> {
    (!name.is_empty()).then(|| string(Pattern::Exact(name.to_ascii_uppercase())))
}

fn string(pattern: Pattern) -> StringMatch {
    StringMatch { pattern: Some(pattern), ignore_case: false }
}

/// Returns whether an expression has no character with a meaning, so that it matches itself alone.
fn is_literal(pattern: &str) -> bool {
    !pattern.contains(['\\', '.', '+', '*', '?', '(', ')', '|', '[', ']', '{', '}', '^', '$'])
}
