//! Paths to fields of objects, by which fields without effect are found: field names, and `*` for each item of a list.

use serde_json::Value;

/// When a field is found.
#[derive(Debug, Clone, Copy)]
pub(crate) enum FieldCondition {
    /// The field is present, and not false or empty.
    Set,
    /// The field has this value.
    Is(&'static str),
    /// The field has another value than these.
    Not(&'static [&'static str]),
}

/// Returns the fields of `of` that are in the table, each as a path below `at`.
pub(crate) fn present(of: &Value, at: &str, table: &[(&str, FieldCondition)]) -> Vec<String> {
    let named = |path: &str| format!("{at}.{}", path.replace("/*/", "[*].").replace('/', "."));
    table.iter().filter(|(path, when)| holds(of, path, *when)).map(|(path, _)| named(path)).collect()
}

fn holds(of: &Value, path: &str, when: FieldCondition) -> bool {
    match path.split_once('/') {
        Some(("*", rest)) => of.as_array().into_iter().flatten().any(|one| holds(one, rest, when)),
        Some((field, rest)) => holds(&of[field], rest, when),
        None => {
            let value = &of[path];
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let set = !matches!(text.as_str(), "null" | "false" | "" | "[]" | "{}");
            match when {
                FieldCondition::Set => set,
                FieldCondition::Is(wanted) => text == wanted,
                FieldCondition::Not(usual) => set && !usual.contains(&text.as_str()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_found_by_path_and_value() {
        let object = json!({"a": {"b": [{"c": true}, {"d": "x"}]}, "empty": {}, "off": false});
        let table = [
            ("a/b/*/c", FieldCondition::Set),
            ("a/b/*/d", FieldCondition::Is("x")),
            ("a/b/*/d", FieldCondition::Not(&["x", "y"])),
            ("a/none/c", FieldCondition::Set),
            ("empty", FieldCondition::Set),
            ("off", FieldCondition::Set),
            ("off", FieldCondition::Is("false")),
        ];
        assert_eq!(present(&object, "spec", &table), ["spec.a.b[*].c", "spec.a.b[*].d", "spec.off"]);
    }
}
