//! Headings of the built-in kinds' columns, and values of cells.

use serde_json::{Map, Value};
use time::OffsetDateTime;

/// Returns the cells of an object's row.
pub(super) type Cells = fn(&Value, OffsetDateTime) -> Vec<Value>;

/// A column of a built-in kind.
pub(super) struct Heading {
    pub(super) name: &'static str,
    pub(super) type_: &'static str,
    pub(super) priority: i64,
}

/// A column that is always shown.
pub(super) const fn column(name: &'static str, type_: &'static str) -> Heading {
    Heading { name, type_, priority: 0 }
}

/// A column that is shown with `-o wide`.
pub(super) const fn wide(name: &'static str, type_: &'static str) -> Heading {
    Heading { name, type_, priority: 1 }
}

pub(super) fn name(object: &Value) -> Value {
    object["metadata"]["name"].clone()
}

pub(super) fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// `value`, or `<none>` if it is empty.
pub(super) fn or_none(value: impl Into<String>) -> Value {
    let value = value.into();
    Value::String(if value.is_empty() { "<none>".to_owned() } else { value })
}

/// A map of strings as `a=b,c=d`.
pub(super) fn labels(map: &Value) -> String {
    let pairs = map.as_object().into_iter().flat_map(Map::iter);
    pairs.map(|(key, value)| format!("{key}={}", text(value))).collect::<Vec<_>>().join(",")
}

/// A LabelSelector in the format of `kubectl`.
pub(super) fn selector(selector: &Value) -> Value {
    let mut parts = labels(&selector["matchLabels"]);
    for expression in items(&selector["matchExpressions"]) {
        let key = text(&expression["key"]);
        let values = items(&expression["values"]).iter().map(text).collect::<Vec<_>>().join(",");
        let part = match text(&expression["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        };
        parts = if parts.is_empty() { part } else { format!("{parts},{part}") };
    }
    or_none(parts)
}

/// At most three of `parts`, as `a,b,c + 2 more...`.
pub(super) fn first_three(parts: &[String], empty: &str) -> Value {
    const SHOWN: usize = 3;
    Value::String(match parts.len() {
        0 => empty.to_owned(),
        count if count > SHOWN => format!("{} + {} more...", parts[..SHOWN].join(","), count - SHOWN),
        _ => parts.join(","),
    })
}
