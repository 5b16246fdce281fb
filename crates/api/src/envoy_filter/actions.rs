//! The actions of rate limits (`config.route.v3.RateLimit`).

use serde_json::Value;

use super::fields::{Fields, Notes};
use crate::networking::json::shown;
use crate::rate_limit::{Action, ActionValue, Descriptor, HeaderCondition, HeaderPattern};

/// The number of actions of a descriptor.
const MAX_ACTIONS: usize = 16;
/// The number of conditions of an action.
const MAX_HEADERS: usize = 16;

/// Reads a `RateLimit`. Returns `None`, and notes why, if it has no effect.
pub(super) fn descriptor(value: &Value, path: &str, notes: &mut Notes) -> Option<Descriptor> {
    let of = Fields::of(value, path, &["stage", "actions"], notes);
    let actions: Vec<_> = of.list("actions").collect();
    if actions.is_empty() || actions.len() > MAX_ACTIONS {
        notes.no_effect(path, &format!("a descriptor has 1 to {MAX_ACTIONS} actions"));
        return None;
    }
    let actions = actions.into_iter().map(|(path, value)| action(value, &path, notes)).collect::<Option<_>>()?;
    Some(Descriptor { actions, stage: of.number("stage").unwrap_or_default() })
}

fn action(value: &Value, path: &str, notes: &mut Notes) -> Option<Action> {
    let Some((name, value)) = value.as_object().filter(|map| map.len() == 1).and_then(|map| map.iter().next()) else {
        notes.no_effect(path, "an action has one field, which says its kind");
        return None;
    };
    let path = format!("{path}.{}", shown(name));
    let mut fields = |known: &[&str]| Fields::of(value, &*path, known, notes);
    let (key, skip_if_absent, value) = match name.as_str() {
        "source_cluster" | "sourceCluster" => (String::new(), false, ActionValue::SourceCluster),
        "destination_cluster" | "destinationCluster" => (String::new(), false, ActionValue::DestinationCluster),
        "remote_address" | "remoteAddress" => (String::new(), false, ActionValue::RemoteAddress(0, 0)),
        "masked_remote_address" | "maskedRemoteAddress" => {
            let of = fields(&["v4_prefix_mask_len", "v6_prefix_mask_len"]);
            let bits = |name| of.number(name).unwrap_or_default();
            let value = ActionValue::RemoteAddress(bits("v4_prefix_mask_len"), bits("v6_prefix_mask_len"));
            ("masked_remote_address".to_owned(), false, value)
        }
        "request_headers" | "requestHeaders" => {
            let of = fields(&["header_name", "descriptor_key", "skip_if_absent"]);
            let value = ActionValue::Header(of.text("header_name").to_ascii_lowercase());
            (of.text("descriptor_key").to_owned(), of.flag("skip_if_absent", false), value)
        }
        "query_parameters" | "queryParameters" => {
            let of = fields(&["query_parameter_name", "descriptor_key", "skip_if_absent"]);
            let value = ActionValue::Query(of.text("query_parameter_name").to_owned());
            (of.text("descriptor_key").to_owned(), of.flag("skip_if_absent", false), value)
        }
        "generic_key" | "genericKey" => {
            let of = fields(&["descriptor_value", "descriptor_key"]);
            (of.text("descriptor_key").to_owned(), false, ActionValue::Constant(of.text("descriptor_value").to_owned()))
        }
        "header_value_match" | "headerValueMatch" => {
            let of = fields(&["descriptor_value", "descriptor_key", "expect_match", "headers"]);
            let headers: Vec<_> = of.list("headers").collect();
            if headers.is_empty() || headers.len() > MAX_HEADERS {
                notes.no_effect(&path, &format!("it has 1 to {MAX_HEADERS} headers"));
                return None;
            }
            let headers =
                headers.into_iter().map(|(path, value)| header(value, &path, notes)).collect::<Option<_>>()?;
            let (value, invert) = (of.text("descriptor_value").to_owned(), !of.flag("expect_match", true));
            (of.text("descriptor_key").to_owned(), false, ActionValue::HeaderMatch { value, headers, invert })
        }
        _ => {
            notes.no_effect(&path, "actions are source_cluster, destination_cluster, request_headers, query_parameters, remote_address, masked_remote_address, generic_key and header_value_match");
            return None;
        }
    };
    if let ActionValue::Header(name) = &value
        && !is_header(name)
    {
        notes.no_effect(&path, "header_name is not the name of a header");
        return None;
    }
    Some(Action { key, skip_if_absent, value })
}

/// Reads a `HeaderMatcher`.
fn header(value: &Value, path: &str, notes: &mut Notes) -> Option<HeaderCondition> {
    let of = Fields::of(
        value,
        path,
        &[
            "name",
            "exact_match",
            "safe_regex_match",
            "present_match",
            "prefix_match",
            "suffix_match",
            "contains_match",
            "string_match",
            "invert_match",
        ],
        notes,
    );
    let name = of.text("name").to_ascii_lowercase();
    let invert = of.flag("invert_match", false);
    let condition = |pattern, ignore_case| HeaderCondition { name: name.clone(), pattern, ignore_case, invert };
    let regex = |of: &Fields<'_>, name: &str| of.get(name).and_then(|of| of["regex"].as_str()).map(str::to_owned);
    let patterns = |of: &Fields<'_>, suffix: &str| {
        let text = |name: &str| of.get(&format!("{name}{suffix}")).and_then(Value::as_str);
        text("exact")
            .map(|of| HeaderPattern::Exact(of.to_owned()))
            .or_else(|| text("prefix").map(|of| HeaderPattern::Prefix(of.to_owned())))
            .or_else(|| text("suffix").map(|of| HeaderPattern::Regex(format!(".*{}", escaped(of)))))
            .or_else(|| text("contains").map(|of| HeaderPattern::Regex(format!(".*{}.*", escaped(of)))))
            .or_else(|| regex(of, &format!("safe_regex{suffix}")).map(HeaderPattern::Regex))
    };
    let found = match of.get("string_match") {
        Some(value) => {
            let known = ["exact", "prefix", "suffix", "contains", "safe_regex", "ignore_case"];
            let of = Fields::of(value, of.path_of("string_match"), &known, notes);
            let ignore_case = of.flag("ignore_case", false);
            let pattern = patterns(&of, "").map(|pattern| match pattern {
                HeaderPattern::Regex(text) if ignore_case => HeaderPattern::Regex(format!("(?i){text}")),
                other => other,
            });
            pattern.map(|pattern| condition(pattern, ignore_case))
        }
        None => match (patterns(&of, "_match"), of.get("present_match")) {
            (Some(pattern), _) => Some(condition(pattern, false)),
            // Absent, if it must not be present.
            (None, Some(present)) => Some(HeaderCondition {
                invert: invert == present.as_bool().unwrap_or(true),
                ..condition(HeaderPattern::Present, false)
            }),
            (None, None) => Some(condition(HeaderPattern::Present, false)),
        },
    };
    let valid = |pattern: &HeaderPattern| match pattern {
        HeaderPattern::Regex(text) => crate::networking::re2::compile(text).is_ok(),
        _ => true,
    };
    let found = found.filter(|of| is_header(&name) && valid(&of.pattern));
    if found.is_none() {
        notes.no_effect(path, "it has no valid name or pattern");
    }
    found
}

fn is_header(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    matches!(name, ":path" | ":method" | ":authority")
        || !name.is_empty() && name.len() <= 256 && name.bytes().all(token)
}

/// Returns a regular expression for a text.
fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut all, character| {
        if character.is_ascii_punctuation() {
            all.push('\\');
        }
        all.push(character);
        all
    })
}
