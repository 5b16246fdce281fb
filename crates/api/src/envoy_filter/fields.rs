//! The fields of Envoy's messages in JSON, with the path of every one that has no effect.

use std::time::Duration;

use serde_json::{Map, Value};

use super::NO_EFFECT;
use crate::duration::parse_duration;
use crate::networking::json::shown;
use crate::networking::{Problem, Severity};
use crate::rate_limit::ALL;

/// Collects what has no effect.
#[derive(Default)]
pub(super) struct Notes(pub(super) Vec<Problem>);

impl Notes {
    /// Notes that something at a path has no effect, and why.
    pub(super) fn no_effect(&mut self, path: &str, why: &str) {
        let message = format!("has no effect: {why}");
        self.0.push(Problem { severity: Severity::Warning, code: NO_EFFECT, field: path.to_owned(), message });
    }
}

/// A message.
pub(super) struct Fields<'a> {
    map: Option<&'a Map<String, Value>>,
    pub(super) path: String,
}

impl<'a> Fields<'a> {
    /// Returns the fields of a value. Those that are not `known` are noted.
    pub(super) fn of(value: &'a Value, path: impl Into<String>, known: &[&str], notes: &mut Notes) -> Self {
        let (map, path) = (value.as_object(), path.into());
        for name in map.into_iter().flat_map(Map::keys) {
            if !known.contains(&&*snake(name)) && name != "@type" {
                notes.no_effect(&format!("{path}.{}", shown(name)), "limits on rates do not use it; remove it");
            }
        }
        Fields { map, path }
    }

    /// Returns a field by its name in protobuf.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        let map = self.map?;
        map.get(name)
            .or_else(|| map.iter().find(|(key, _)| snake(key) == name).map(|(_, value)| value))
            .filter(|of| !of.is_null())
    }

    pub(super) fn path_of(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    pub(super) fn text(&self, name: &str) -> &'a str {
        self.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> bool {
        match self.get(name) {
            // Wrapped booleans have a value in some forms.
            Some(Value::Object(of)) => of.get("value").and_then(Value::as_bool).unwrap_or(default),
            other => other.and_then(Value::as_bool).unwrap_or(default),
        }
    }

    pub(super) fn number(&self, name: &str) -> Option<u32> {
        let number = match self.get(name)? {
            Value::Object(of) => of.get("value")?.as_u64(),
            Value::String(text) => text.parse().ok(),
            other => other.as_u64(),
        };
        number.and_then(|number| u32::try_from(number).ok())
    }

    pub(super) fn list(&self, name: &str) -> impl Iterator<Item = (String, &'a Value)> {
        let items = self.get(name).and_then(Value::as_array).into_iter().flatten();
        let path = self.path_of(name);
        items.enumerate().map(move |(index, item)| (format!("{path}[{index}]"), item))
    }

    pub(super) fn duration(&self, name: &str) -> Option<Duration> {
        parse_duration(self.text(name))
    }

    /// Returns a `RuntimeFractionalPercent` in millionths, without the key of the runtime, which there is none of.
    pub(super) fn share(&self, name: &str, notes: &mut Notes) -> Option<u32> {
        let of = Fields::of(self.get(name)?, self.path_of(name), &["runtime_key", "default_value"], notes);
        let percent =
            Fields::of(of.get("default_value")?, of.path_of("default_value"), &["numerator", "denominator"], notes);
        let parts = match percent.text("denominator") {
            "" | "HUNDRED" => 10_000,
            "TEN_THOUSAND" => 100,
            "MILLION" => 1,
            _ => return None,
        };
        Some(percent.number("numerator").unwrap_or_default().saturating_mul(parts).min(ALL))
    }
}

/// Returns a name as protobuf has it: `max_tokens` for `maxTokens`.
fn snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len());
    for character in name.chars() {
        if character.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
    }
    snake
}

/// Returns the type of a message in an `Any`, and its value: also one that is written as a `TypedStruct`.
pub(super) fn typed(value: &Value) -> (&str, &Value) {
    let url = value["@type"].as_str().unwrap_or_default();
    if !url.ends_with(".TypedStruct") {
        return (url, value);
    }
    let of = value.get("type_url").or_else(|| value.get("typeUrl"));
    (of.and_then(Value::as_str).unwrap_or_default(), &value["value"])
}
