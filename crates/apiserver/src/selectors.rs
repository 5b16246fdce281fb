//! Label and field selectors, in the syntax of `labelSelector=` and `fieldSelector=` and in the form of `metav1.LabelSelector`.

#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::status::{Result, Status};

/// What a request asks for by labels and fields. Empty matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldRequirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldRequirement {
    path: String,
    equal: bool,
    value: String,
}

impl Selector {
    /// Parses both parameters. `known` says which field paths the resource supports beside name and namespace.
    pub(crate) fn parse(labels: &str, fields: &str, known: impl Fn(&str) -> bool) -> Result<Self> {
        let labels =
            parse_labels(labels).map_err(|why| Status::bad_request(format!("unable to parse requirement: {why}")))?;
        let fields = parse_fields(fields)?;
        for field in &fields {
            if !matches!(field.path.as_str(), "metadata.name" | "metadata.namespace") && !known(&field.path) {
                return Err(Status::bad_request(format!("field label not supported: {}", field.path)));
            }
        }
        Ok(Self { labels, fields })
    }

    /// Whether the object is asked for.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels");
        self.labels.iter().all(|requirement| requirement.matches(labels))
            && self.fields.iter().all(|field| (field_value(object, &field.path) == field.value) == field.equal)
    }

    /// The one name that can match, if the selector pins it.
    pub(crate) fn name(&self) -> Option<&str> {
        self.fields.iter().find(|field| field.equal && field.path == "metadata.name").map(|field| field.value.as_str())
    }

    /// Whether everything matches.
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

impl Requirement {
    fn matches(&self, labels: Option<&Value>) -> bool {
        let value = labels.and_then(|labels| labels.get(&self.key)).and_then(Value::as_str);
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.iter().any(|known| known == value)),
            Test::NotIn(values) => value.is_none_or(|value| values.iter().all(|known| known != value)),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::Greater(bound) => number().is_some_and(|number| number > *bound),
            Test::Less(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

/// Whether a `metav1.LabelSelector` matches labels. Missing (null) matches nothing, empty matches everything.
pub(crate) fn label_selector_matches(selector: &Value, labels: Option<&Value>) -> bool {
    if selector.is_null() {
        return false;
    }
    let equal = selector.get("matchLabels").and_then(Value::as_object);
    let equal = equal.is_none_or(|wanted| {
        wanted.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
    });
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    equal && expressions.is_none_or(|list| list.iter().all(|expression| expression_matches(expression, labels)))
}

fn expression_matches(expression: &Value, labels: Option<&Value>) -> bool {
    let values = || {
        let values = expression.get("values").and_then(Value::as_array);
        values.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let test = match expression.get("operator").and_then(Value::as_str) {
        Some("In") => Test::In(values()),
        Some("NotIn") => Test::NotIn(values()),
        Some("Exists") => Test::Exists,
        Some("DoesNotExist") => Test::Absent,
        _ => return false,
    };
    let key = expression.get("key").and_then(Value::as_str).unwrap_or("").to_owned();
    Requirement { key, test }.matches(labels)
}

fn field_value(object: &Value, path: &str) -> String {
    let mut value = object;
    for step in path.split('.') {
        match value.get(step) {
            Some(inner) => value = inner,
            None => return if path == "spec.unschedulable" { "false".into() } else { String::new() },
        }
    }
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn parse_labels(text: &str) -> std::result::Result<Vec<Requirement>, String> {
    split_outside_brackets(text).into_iter().filter(|part| !part.is_empty()).map(parse_requirement).collect()
}

/// Splits at commas that are not inside `( )`.
fn split_outside_brackets(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0u32, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts
}

fn parse_requirement(text: &str) -> std::result::Result<Requirement, String> {
    let requirement = |key: &str, test| {
        let key = key.trim();
        let legal = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if key.is_empty() || !key.chars().all(legal) {
            return Err(format!(
                "<nil>: Invalid value: {key:?}: name part must consist of alphanumeric characters, '-', '_' or '.'"
            ));
        }
        Ok(Requirement { key: key.to_owned(), test })
    };
    if let Some(key) = text.strip_prefix('!') {
        return requirement(key, Test::Absent);
    }
    if let Some(open) = text.find('(') {
        let inside =
            text[open + 1..].strip_suffix(')').ok_or_else(|| format!("found '', expected: ',', or ')' in {text:?}"))?;
        let values = inside.split(',').map(|value| value.trim().to_owned()).collect();
        let head = text[..open].trim();
        if let Some(key) = head.strip_suffix(" notin") {
            return requirement(key, Test::NotIn(values));
        }
        if let Some(key) = head.strip_suffix(" in") {
            return requirement(key, Test::In(values));
        }
        return Err(format!("found {head:?}, expected: in, notin"));
    }
    for (operator, negative) in [("!=", true), ("==", false), ("=", false)] {
        if let Some((key, value)) = text.split_once(operator) {
            let values = vec![value.trim().to_owned()];
            return requirement(key, if negative { Test::NotIn(values) } else { Test::In(values) });
        }
    }
    for (operator, greater) in [(">", true), ("<", false)] {
        if let Some((key, value)) = text.split_once(operator) {
            let bound = value
                .trim()
                .parse()
                .map_err(|_| format!("for 'Gt', 'Lt' operators, the value must be an integer: {value:?}"))?;
            return requirement(key, if greater { Test::Greater(bound) } else { Test::Less(bound) });
        }
    }
    requirement(text, Test::Exists)
}

fn parse_fields(text: &str) -> Result<Vec<FieldRequirement>> {
    let part = |part: &str| {
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some((path, value)) = part.split_once(operator) {
                let (path, value) = (path.trim().to_owned(), value.trim().replace("\\,", ",").replace("\\=", "="));
                return Ok(FieldRequirement { path, equal, value });
            }
        }
        Err(Status::bad_request(format!("invalid selector: '{part}'; can't understand '{part}'")))
    };
    text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(part).collect()
}

/// Which fields, beside name and namespace, built-in resources can be selected by.
pub(crate) fn builtin_field(group: &str, plural: &str, path: &str) -> bool {
    match (group, plural) {
        ("", "pods") => matches!(
            path,
            "spec.nodeName"
                | "spec.restartPolicy"
                | "spec.schedulerName"
                | "spec.serviceAccountName"
                | "spec.hostNetwork"
                | "status.phase"
                | "status.podIP"
                | "status.nominatedNodeName"
        ),
        ("", "nodes") => path == "spec.unschedulable",
        ("", "namespaces") => path == "status.phase",
        ("", "secrets") => path == "type",
        ("", "services") => matches!(path, "spec.clusterIP" | "spec.type"),
        ("" | "events.k8s.io", "events") => {
            path.starts_with("involvedObject.")
                || path.starts_with("regarding.")
                || matches!(
                    path,
                    "reason" | "reportingComponent" | "reportingController" | "source" | "source.component" | "type"
                )
        }
        ("apps", "replicasets") | ("", "replicationcontrollers") => path == "status.replicas",
        ("batch", "jobs") => path == "status.successful",
        _ => false,
    }
}
