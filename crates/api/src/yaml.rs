//! The one place where YAML is read.
//!
//! YAML 1.1 words such as `no`, `on` and `y` stay text unless the field is a boolean (`strict_booleans`), so that a label
//! or a ConfigMap key of that name survives.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads one document.
///
/// # Errors
/// What is wrong, with line and column.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| e.to_string())
}

/// Writes one document.
///
/// # Errors
/// Where a value has no YAML form.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, String> {
    serde_saphyr::to_string(value).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    #[test]
    fn words_stay_text() {
        let read: BTreeMap<String, serde_json::Value> = super::from_str("y: no\non: 'yes'\nt: true\n").unwrap();
        assert_eq!(read["y"], serde_json::json!("no"));
        assert_eq!(read["on"], serde_json::json!("yes"));
        assert_eq!(read["t"], serde_json::json!(true));
        let error = super::from_str::<BTreeMap<String, String>>("a: [\n").unwrap_err();
        assert!(error.contains("line"), "{error}");
    }
}
