//! Manifest files that a topology lists: YAML documents with Kubernetes objects.

use install::yaml_error;
use serde_json::Value;
use serde_saphyr::Spanned;

/// Returns the objects of a file of one or more YAML documents. A `List` counts as its items.
///
/// # Errors
/// Returns a message with the line of the first document that is not YAML or has no Kubernetes object.
pub(super) fn objects(text: &str) -> Result<Vec<Value>, String> {
    let options = serde_saphyr::options! { strict_booleans: true };
    let documents: Vec<Spanned<Value>> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| yaml_error::describe_with_location(&error))?;
    let mut objects = Vec::new();
    for document in documents {
        let line = document.referenced.line();
        for object in items(document.value) {
            if let Some(what) = missing(&object) {
                return Err(format!(
                    "line {line}: a Kubernetes object needs apiVersion, kind and metadata.name, and {what}"
                ));
            }
            objects.push(object);
        }
    }
    Ok(objects)
}

fn items(document: Value) -> Vec<Value> {
    match document {
        Value::Null => Vec::new(),
        Value::Object(mut map) if map.get("kind").and_then(Value::as_str) == Some("List") => {
            match map.remove("items") {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            }
        }
        other => vec![other],
    }
}

/// Describes what a document lacks to be a Kubernetes object, if anything.
fn missing(object: &Value) -> Option<String> {
    if !object.is_object() {
        return Some("this is no mapping".to_owned());
    }
    let name = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).filter(|name| !name.is_empty());
    let fields = [("apiVersion", "/apiVersion"), ("kind", "/kind"), ("metadata.name", "/metadata/name")];
    match fields.into_iter().find(|(_, pointer)| name(pointer).is_none()) {
        Some((field, _)) => Some(format!("this one has no {field}")),
        None => (object.pointer("/metadata/namespace").is_some() && name("/metadata/namespace").is_none())
            .then(|| "the namespace of this one is not a name".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_read_document_by_document() {
        let object = |kind: &str| format!("{{apiVersion: v1, kind: {kind}, metadata: {{name: a}}, x: no}}");
        let list = format!("kind: List\nitems:\n- {}\n- {}\n", object("B"), object("C"));
        let objects = objects(&format!("{}\n---\n---\n{list}", object("A"))).expect("objects");
        let kinds: Vec<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
        assert_eq!(kinds, ["A", "B", "C"]);
        assert_eq!(objects[0]["x"], "no");
    }

    #[test]
    fn what_is_no_kubernetes_object_is_reported_with_its_line() {
        let good = "apiVersion: v1\nkind: A\nmetadata: {name: a}\n";
        for (text, parts) in [
            ("kind: [", &["line "][..]),
            ("just words", &["line 1", "no mapping"]),
            ("kind: A\nmetadata: {name: a}\n", &["line 1", "no apiVersion"]),
            ("apiVersion: v1\nmetadata: {name: a}\n", &["no kind"]),
            ("apiVersion: v1\nkind: A\nmetadata: {name: 7}\n", &["no metadata.name"]),
            ("apiVersion: v1\nkind: A\nmetadata: {name: a, namespace: [b]}\n", &["namespace"]),
            ("kind: List\nitems: [{kind: A}]\n", &["no apiVersion"]),
        ] {
            let second = format!("{good}---\n{text}");
            let error = objects(text).expect_err(text);
            for part in parts {
                assert!(error.contains(part), "{part:?} is not in {error}");
            }
            assert!(objects(&second).is_err(), "{second}");
        }
        let error = objects(&format!("{good}---\nkind: B\n")).expect_err("the second is wrong");
        assert!(error.starts_with("line 5: "), "{error}");
    }
}
