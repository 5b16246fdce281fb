//! The JSONPath subset of `additionalPrinterColumns`: fields, indexes, `[*]` and `[?(@.type=="Ready")]`.

use serde_json::Value;
use time::OffsetDateTime;

use super::age;

/// The cell of a column, or null if there is no value at `path` or it is not of the column's type.
pub(super) fn cell(object: &Value, path: &str, type_: &str, now: OffsetDateTime) -> Value {
    let found = find(object, path);
    let Some(first) = found.first() else { return Value::Null };
    match type_ {
        "integer" => match first {
            Value::Number(number) => number.as_i64().or_else(|| number.as_f64().map(|float| float as i64)).into(),
            _ => Value::Null,
        },
        "number" if first.is_number() => (*first).clone(),
        "boolean" if first.is_boolean() => (*first).clone(),
        "date" => match first.as_str() {
            Some(_) => age::since(first, now).into(),
            None => Value::Null,
        },
        "string" => found.iter().map(|value| plain(value)).collect::<Vec<_>>().join(" ").into(),
        _ => Value::Null,
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// All values at `path`. An invalid path has none.
pub(super) fn find<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    let Some(steps) = parse(path) else { return Vec::new() };
    steps.iter().fold(vec![object], |found, step| found.into_iter().flat_map(|value| step.apply(value)).collect())
}

#[derive(Debug, PartialEq)]
enum PathStep {
    Field(String),
    Index(i64),
    Every,
    /// Items of a list with a field (by path below the item) that equals the text.
    Where(Vec<String>, String),
}

impl PathStep {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Self::Field(name) => value.get(name).into_iter().filter(|found| !found.is_null()).collect(),
            Self::Index(index) => {
                let Some(list) = value.as_array() else { return Vec::new() };
                let index = if *index < 0 { index + list.len() as i64 } else { *index };
                usize::try_from(index).ok().and_then(|index| list.get(index)).into_iter().collect()
            }
            Self::Every => match value {
                Value::Array(list) => list.iter().collect(),
                Value::Object(map) => map.values().collect(),
                _ => Vec::new(),
            },
            Self::Where(field, wanted) => {
                let list = value.as_array().map_or(&[][..], Vec::as_slice);
                let matches = |item: &&Value| {
                    let found = field.iter().try_fold(*item, |value, name| value.get(name));
                    found.is_some_and(|found| plain(found) == *wanted)
                };
                list.iter().filter(matches).collect()
            }
        }
    }
}

fn parse(path: &str) -> Option<Vec<PathStep>> {
    let mut rest = path.trim();
    rest = rest.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')).unwrap_or(rest);
    rest = rest.strip_prefix('$').unwrap_or(rest);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let end = closing_bracket(inner)?;
            steps.push(bracket(&inner[..end])?);
            rest = &inner[end + 1..];
        } else {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let (name, after) = field(rest);
            if name.is_empty() {
                return if after.is_empty() { Some(steps) } else { None };
            }
            steps.push(if name == "*" { PathStep::Every } else { PathStep::Field(name) });
            rest = after;
        }
    }
    Some(steps)
}

/// A field name, in which a backslash escapes a dot.
fn field(path: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = path.char_indices();
    while let Some((index, char)) = chars.next() {
        match char {
            '\\' => name.extend(chars.next().map(|(_, escaped)| escaped)),
            '.' | '[' => return (name, &path[index..]),
            other => name.push(other),
        }
    }
    (name, "")
}

/// Position of the closing bracket outside of quotes.
fn closing_bracket(inner: &str) -> Option<usize> {
    let mut quote = None;
    for (index, char) in inner.char_indices() {
        match (quote, char) {
            (None, '\'' | '"') => quote = Some(char),
            (Some(open), _) if char == open => quote = None,
            (None, ']') => return Some(index),
            _ => {}
        }
    }
    None
}

fn bracket(inner: &str) -> Option<PathStep> {
    let inner = inner.trim();
    if inner == "*" {
        return Some(PathStep::Every);
    }
    if let Some(condition) = inner.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        let (left, right) = condition.split_once("==")?;
        let path = left.trim().strip_prefix("@.")?;
        let wanted = unquote(right.trim()).unwrap_or(right.trim());
        return Some(PathStep::Where(path.split('.').map(str::to_owned).collect(), wanted.to_owned()));
    }
    match unquote(inner) {
        Some(name) => Some(PathStep::Field(name.replace("\\.", "."))),
        None => inner.parse().ok().map(PathStep::Index),
    }
}

fn unquote(text: &str) -> Option<&str> {
    ['\'', '"'].into_iter().find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote))
}
