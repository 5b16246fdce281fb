//! Errors of the YAML parser in plain words.
//!
//! The parser's own texts name Rust types and its options (`invalid u32`, `DuplicateKeyPolicy`). [`describe`] names what the
//! file has and should have: fields, lists, numbers.

use serde_saphyr::{Error, UserMessageFormatter};

/// Describes what is wrong with a YAML text, without its location.
#[must_use]
pub fn describe(error: &Error) -> String {
    match error.without_snippet() {
        Error::SerdeUnknownField { field, .. } => format!("unknown field \"{field}\""),
        Error::SerdeMissingField { field, .. } => format!("field \"{field}\" is missing"),
        Error::SerdeInvalidType { unexpected, expected, .. }
        | Error::SerdeInvalidValue { unexpected, expected, .. } => {
            format!("expected {}, found {}", wanted(expected), found(unexpected))
        }
        Error::InvalidScalar { ty, .. } => format!("expected {}", wanted(ty)),
        Error::InvalidBooleanStrict { .. } => format!("expected {}", wanted("bool")),
        Error::Unexpected { expected, .. } => format!("expected {}", wanted(expected)),
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("field \"{key}\" appears twice"),
        Error::DuplicateMappingKey { key: None, .. } => "a field appears twice".to_owned(),
        Error::Eof { .. } => "the file is empty or ends too early".to_owned(),
        Error::MultipleDocuments { .. } => "the file has a second YAML document".to_owned(),
        Error::Budget { .. } => "the file is too large or too deeply nested".to_owned(),
        other => {
            let text = other.render_with_formatter(&UserMessageFormatter);
            let first = text.lines().next().unwrap_or_default();
            let first = first.split(" at line ").next().unwrap_or(first);
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        }
    }
}

/// Describes what is wrong with a YAML text, after its line and column.
#[must_use]
pub fn describe_with_location(error: &Error) -> String {
    match error.location().filter(|at| at.line() > 0) {
        Some(at) => format!("line {}, column {}: {}", at.line(), at.column(), describe(error)),
        None => describe(error),
    }
}

/// What the text should have, from the type or token that the parser names.
fn wanted(kind: &str) -> String {
    match kind {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "an integer".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "bool" | "a boolean" => "true or false".to_owned(),
        "a sequence" | "sequence" | "sequence start" => "a list".to_owned(),
        "a string" | "string" | "string scalar" => "text".to_owned(),
        "a map" | "mapping" | "mapping start" => "a mapping (name: value)".to_owned(),
        record if record.starts_with("struct ") => "a mapping (name: value)".to_owned(),
        other => other.to_owned(),
    }
}

/// What the text has, from the value that the parser names.
fn found(value: &str) -> String {
    match value {
        "sequence" | "seq" => "a list".to_owned(),
        "map" => "a mapping".to_owned(),
        "unit value" | "null" => "nothing".to_owned(),
        other => match other.split_once(' ') {
            Some(("string", text)) => format!("text {text}"),
            Some(("integer" | "boolean" | "floating", text)) => text.replace("point ", "").replace('`', "\""),
            _ => other.replace('`', "\""),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn errors_name_what_the_file_should_have() {
        let of = |text: &str| {
            let error = serde_saphyr::from_str::<BTreeMap<String, Vec<u32>>>(text).expect_err(text);
            describe_with_location(&error)
        };
        assert_eq!(of("a: [x]"), "line 1, column 5: expected a whole number");
        assert_eq!(of("a: 7"), "line 1, column 4: expected a list");
        assert_eq!(of("a: []\na: []"), "line 2, column 1: field \"a\" appears twice");
        assert_eq!(of("- a"), "line 1, column 1: expected a mapping (name: value)");
        assert!(of("a: [").starts_with("line "), "{}", of("a: ["));
    }
}
