//! What the YAML parser found wrong with a topology file, in the words of the file.
//!
//! The parser names Rust types and its own options (`invalid u32`, `DuplicateKeyPolicy`); a reader of the file knows fields,
//! lists and numbers.

use std::path::Path;

use serde_saphyr::{Error, UserMessageFormatter};

use super::diagnostic::{Diagnostic, Finding, with_nearest};

/// The diagnostic for a text that the YAML parser refused.
pub(super) fn diagnostic(path: &Path, text: &str, error: &Error) -> Box<Diagnostic> {
    let error = error.without_snippet();
    let (message, hint) = explain(error);
    let at = error.location().unwrap_or(serde_saphyr::Location::UNKNOWN);
    let finding = Finding { at, message, hint: hint.map(str::to_owned).or_else(|| near(error)) };
    Box::new(finding.locate(path, text))
}

fn explain(error: &Error) -> (String, Option<&'static str>) {
    const FIELDS: &str = "docs/topology.md lists every field";
    match error {
        Error::SerdeUnknownField { field, .. } => (format!("unknown field \"{field}\""), None),
        Error::SerdeMissingField { field, .. } => (format!("field \"{field}\" is missing"), Some(FIELDS)),
        Error::SerdeInvalidType { unexpected, expected, .. }
        | Error::SerdeInvalidValue { unexpected, expected, .. } => {
            (format!("{} instead of {}", found(unexpected), wanted(expected)), Some(FIELDS))
        }
        Error::InvalidScalar { ty, .. } => (format!("not {}", wanted(ty)), Some(FIELDS)),
        Error::InvalidBooleanStrict { .. } => (format!("not {}", wanted("bool")), Some(FIELDS)),
        Error::Unexpected { expected, .. } => (format!("not {}", wanted(expected)), Some(FIELDS)),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            (format!("field \"{key}\" appears twice"), Some("remove one of them"))
        }
        Error::DuplicateMappingKey { key: None, .. } => {
            ("a field appears twice".to_owned(), Some("remove one of them"))
        }
        Error::Eof { .. } => ("the file is empty".to_owned(), Some("docs/topology.md has an example")),
        Error::MultipleDocuments { .. } => {
            ("a second YAML document".to_owned(), Some("a topology file is one document"))
        }
        Error::Budget { .. } => ("the file is too large or too deeply nested".to_owned(), None),
        other => (parser_message(other), None),
    }
}

/// The known fields, and the one that was perhaps meant.
fn near(error: &Error) -> Option<String> {
    let Error::SerdeUnknownField { field, expected, .. } = error else { return None };
    let known = format!("known fields: {}", expected.join(", "));
    Some(with_nearest(&known, field, expected.iter().copied()))
}

/// What the file should have, from the type that the parser names.
fn wanted(kind: &str) -> String {
    match kind {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "an integer".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "bool" | "a boolean" => "true or false".to_owned(),
        "a sequence" | "sequence" | "sequence start" => "a list".to_owned(),
        "a string" | "string" | "string scalar" => "text".to_owned(),
        "a map" | "mapping" | "mapping start" => "a mapping (name: value)".to_owned(),
        // A record: the fields are in the documentation.
        record if record.starts_with("struct ") => "a mapping (name: value)".to_owned(),
        other => other.to_owned(),
    }
}

/// What the file has, from the value that the parser names.
fn found(value: &str) -> String {
    match value {
        "sequence" | "seq" => "a list".to_owned(),
        "map" => "a mapping (name: value)".to_owned(),
        "unit value" | "null" => "nothing".to_owned(),
        other => match other.split_once(' ') {
            Some(("string", text)) => format!("text {text}"),
            Some(("integer" | "boolean" | "floating point", text)) => text.replace('`', "\""),
            _ => other.replace('`', "\""),
        },
    }
}

/// The parser's own message, without the place that it appends.
fn parser_message(error: &Error) -> String {
    let text = error.render_with_formatter(&UserMessageFormatter);
    let first = text.lines().next().unwrap_or_default();
    let first = first.split(" at line ").next().unwrap_or(first);
    first.strip_prefix("error: ").unwrap_or(first).to_owned()
}
