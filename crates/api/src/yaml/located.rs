//! YAML documents with the line of every field, for messages about files.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

/// A document and the lines of its fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    /// The document.
    pub value: Value,
    /// The lines.
    pub lines: Lines,
}

/// The line of a field, and those of the fields in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lines {
    line: u64,
    list: Vec<Lines>,
    map: BTreeMap<String, Lines>,
}

/// A document that is not YAML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The line of the error.
    pub line: u64,
    /// What is wrong.
    pub message: String,
}

impl Lines {
    /// Returns the line of a field such as `spec.http[0].match[1].headers[x-a].exact`, or of what contains it.
    pub fn of(&self, field: &str) -> u64 {
        let mut at = self;
        for step in steps(field) {
            let next = match step.parse::<usize>() {
                Ok(index) if !at.list.is_empty() => at.list.get(index),
                _ => at.map.get(step),
            };
            match next {
                Some(next) => at = next,
                None => break,
            }
        }
        at.line
    }

    /// Returns the lines of an item of a list.
    pub fn item(&self, field: &str, index: usize) -> Lines {
        self.map.get(field).and_then(|list| list.list.get(index)).cloned().unwrap_or_default()
    }

    fn move_down(&mut self, lines: u64) {
        self.line += lines;
        self.list.iter_mut().chain(self.map.values_mut()).for_each(|inner| inner.move_down(lines));
    }
}

/// Returns the steps of a path. A step in brackets may have dots and brackets of its own.
fn steps(field: &str) -> Vec<&str> {
    let (mut steps, mut begin, mut depth) = (Vec::new(), 0, 0_u32);
    for (at, c) in field.char_indices() {
        match c {
            '[' if depth == 0 => {
                steps.push(&field[begin..at]);
                (begin, depth) = (at + 1, 1);
            }
            '[' => depth += 1,
            ']' if depth == 1 => {
                steps.push(&field[begin..at]);
                (begin, depth) = (at + 1, 0);
            }
            ']' => depth = depth.saturating_sub(1),
            '.' if depth == 0 => {
                steps.push(&field[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    steps.push(&field[begin..]);
    steps.retain(|step| !step.is_empty());
    steps
}

/// Parses each document separately, so that an invalid document does not hide the others. Empty documents are skipped.
pub fn documents(text: &str) -> Vec<Result<Located, Unreadable>> {
    let (mut documents, mut begin, mut first, mut at) = (Vec::new(), 0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let rest = line.strip_prefix("---");
        if at > 0 && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])) {
            documents.extend(document(&text[begin..at], first));
            (begin, first) = (at, number as u64);
        }
        at += line.len();
    }
    documents.extend(document(&text[begin..], first));
    documents
}

/// Parses a document that begins after some lines.
fn document(text: &str, before: u64) -> Option<Result<Located, Unreadable>> {
    let content = text.lines().map(|line| line.strip_prefix("---").unwrap_or(line).trim());
    if content.into_iter().all(|line| line.is_empty() || line.starts_with(['#', '%'])) {
        return None;
    }
    let options = serde_saphyr::options! { strict_booleans: true };
    match serde_saphyr::from_str_with_options::<Spanned<Node>>(text, options) {
        Ok(node) => {
            let Node(Located { value, mut lines }) = node.value;
            lines.line = node.referenced.line();
            lines.move_down(before);
            (!value.is_null()).then_some(Ok(Located { value, lines }))
        }
        Err(error) => {
            let line = error.location().map_or(1, |location| location.line().max(1)) + before;
            let message = super::message(&error);
            let message = message.split(" at line ").next().unwrap_or_default().to_owned();
            Some(Err(Unreadable { line, message }))
        }
    }
}

struct Node(Located);

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

fn scalar<E>(value: impl Into<Value>) -> Result<Node, E> {
    Ok(Node(Located { value: value.into(), lines: Lines::default() }))
}

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        scalar(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        scalar(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        scalar(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        scalar(value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        scalar(value)
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        scalar(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Node, E> {
        scalar(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let (mut list, mut lines) = (Vec::new(), Lines::default());
        while let Some(item) = items.next_element::<Spanned<Node>>()? {
            let Node(located) = item.value;
            list.push(located.value);
            lines.list.push(Lines { line: item.referenced.line(), ..located.lines });
        }
        Ok(Node(Located { value: Value::Array(list), lines }))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let (mut map, mut lines) = (Map::new(), Lines::default());
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let Node(located) = entries.next_value::<Node>()?;
            lines.map.insert(key.value.clone(), Lines { line: key.referenced.line(), ..located.lines });
            map.insert(key.value, located.value);
        }
        Ok(Node(Located { value: Value::Object(map), lines }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# two documents\nkind: A\nspec:\n  http:\n    - match:\n        - headers:\n            x.a: {exact: b}\n      route:\n        - weight: 1\n        - weight: 2\n---\n\nkind: B\nn: no\n--- # broken\nkind: [\n---\nkind: C\n";

    #[test]
    fn fields_have_lines() {
        let documents = documents(TEXT);
        assert_eq!(documents.len(), 4);
        let first = documents[0].as_ref().unwrap();
        for (field, line) in [
            ("kind", 2),
            ("spec", 3),
            ("spec.http[0]", 5),
            ("spec.http[0].match[0].headers[x.a].exact", 7),
            ("spec.http[0].route", 8),
            ("spec.http[0].route[1].weight", 10),
            ("spec.http[0].route[1].destination.host", 10),
            ("spec.tcp[3]", 3),
        ] {
            assert_eq!(first.lines.of(field), line, "{field}");
        }
        let second = documents[1].as_ref().unwrap();
        assert_eq!((second.lines.of("kind"), &second.value["n"]), (13, &Value::from("no")));
        let broken = documents[2].as_ref().unwrap_err();
        assert!((16..=17).contains(&broken.line) && !broken.message.contains(" at line"), "{broken:?}");
        assert_eq!(documents[3].as_ref().unwrap().lines.of("kind"), 18);
    }

    #[test]
    fn empty_documents_are_left_out() {
        assert_eq!(documents("").len(), 0);
        assert_eq!(documents("---\n# nothing\n---\n\n---\n%YAML 1.2\n---\na: b\n").len(), 1);
        assert_eq!(documents("---\na: b\n...\n---\r\nc: d\r\n").len(), 2);
    }
}
