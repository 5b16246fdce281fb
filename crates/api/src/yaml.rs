//! Reading and writing YAML.
//!
//! Words such as `no`, `on` and `y`, which are booleans in YAML 1.1, remain text (`strict_booleans`), so that labels and
//! ConfigMap keys of these names are kept.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Parses one document.
///
/// # Errors
/// Returns a message with line and column if the text is not valid for the type.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| e.to_string())
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
        let error = super::from_str::<BTreeMap<String, String>>("a: [\n").unwrap_err();
        assert!(error.contains("line"), "{error}");
    }
}
