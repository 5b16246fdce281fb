//! Manifest files that a topology lists: YAML documents with Kubernetes objects.

use std::path::{Path, PathBuf};

use install::{client_error, yaml_error};
use serde_json::Value;

/// A manifest file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("{path} cannot be read: {}", client_error::system(.source), path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is not YAML.
    #[error("{path}: {message}", path = .path.display())]
    NotYaml {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        message: String,
    },
}

/// Reads the objects of a file of one or more YAML documents. A `List` counts as its items.
///
/// # Errors
/// Returns an error if the file cannot be read or is not YAML.
pub fn read(path: &Path) -> Result<Vec<Value>, ManifestError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ManifestError::Unreadable { path: path.to_owned(), source })?;
    let options = serde_saphyr::options! { strict_booleans: true };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(&text, options).map_err(|error| {
        ManifestError::NotYaml { path: path.to_owned(), message: yaml_error::describe_with_location(&error) }
    })?;
    let mut objects = Vec::new();
    for document in documents {
        match document {
            Value::Null => {}
            Value::Object(ref map) if map.get("kind").and_then(Value::as_str) == Some("List") => {
                objects.extend(map.get("items").and_then(Value::as_array).into_iter().flatten().cloned());
            }
            other => objects.push(other),
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_read_document_by_document() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("some.yaml");
        let text = "kind: A\nx: no\n---\n---\nkind: List\nitems: [{kind: B}, {kind: C}]\n";
        std::fs::write(&file, text).expect("written");
        let objects = read(&file).expect("readable");
        let kinds: Vec<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
        assert_eq!(kinds, ["A", "B", "C"]);
        assert_eq!(objects[0]["x"], "no");
        std::fs::write(&file, "kind: [").expect("written");
        let error = read(&file).expect_err("broken").to_string();
        assert!(error.contains("some.yaml") && error.contains("line"), "{error}");
        assert!(read(&folder.path().join("none.yaml")).is_err());
    }
}
