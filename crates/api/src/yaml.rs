//! Reading and writing YAML.
//!
//! Words such as `no`, `on` and `y`, which are booleans in YAML 1.1, remain text (`strict_booleans`), so that labels and
//! ConfigMap keys of these names are kept.

mod located;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use located::{Lines, Located, Unreadable, documents};

/// Parses one document.
///
/// # Errors
/// Returns a message with line and column if the text is not valid for the type.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| message(&error))
}

/// Returns the message of an error for users, on one line: without a snippet and without the names of parser options.
fn message(error: &serde_saphyr::Error) -> String {
    error.render_with_options(serde_saphyr::render_options! {
        formatter: &serde_saphyr::UserMessageFormatter,
        snippets: serde_saphyr::SnippetMode::Off,
    })
}

/// Serialises a value as one document.
///
/// # Errors
/// Returns an error if the value has no YAML form.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, String> {
    serde_saphyr::to_string(value).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    #[test]
    fn words_of_yaml_1_1_remain_text() {
        let read: BTreeMap<String, serde_json::Value> = super::from_str("y: no\non: 'yes'\nt: true\n").unwrap();
        assert_eq!(read["y"], serde_json::json!("no"));
        assert_eq!(read["on"], serde_json::json!("yes"));
        assert_eq!(read["t"], serde_json::json!(true));
    }

    #[test]
    fn errors_are_one_line_with_the_position() {
        let error = |text| super::from_str::<BTreeMap<String, String>>(text).unwrap_err();
        assert!(error("a: [\n").contains("line"), "{}", error("a: [\n"));
        assert_eq!(error("a: b\na: c\n"), "duplicate mapping key: a not allowed here at line 2, column 1");
    }
}
