//! Label and field selectors, in the syntax of `labelSelector=` and `fieldSelector=` and as `metav1.LabelSelector`.

#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::status::{Result, Status};

/// The label and field selectors of a request. An empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Vec<LabelRequirement>,
    fields: Vec<FieldRequirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct LabelRequirement {
    key: String,
    test: LabelOperator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum LabelOperator {
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
    /// Parses both parameters. `known` returns whether the resource supports a field path beside name and namespace.
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

    /// Returns whether the selector matches an object.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels");
        self.labels.iter().all(|requirement| requirement.matches(labels))
            && self.fields.iter().all(|field| (field_value(object, &field.path) == field.value) == field.equal)
    }

    /// The name that the selector requires, if any.
    pub(crate) fn name(&self) -> Option<&str> {
        self.fields.iter().find(|field| field.equal && field.path == "metadata.name").map(|field| field.value.as_str())
    }

    /// Returns whether the selector matches everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

impl LabelRequirement {
    fn matches(&self, labels: Option<&Value>) -> bool {
        let value = labels.and_then(|labels| labels.get(&self.key)).and_then(Value::as_str);
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            LabelOperator::In(values) => value.is_some_and(|value| values.iter().any(|known| known == value)),
            LabelOperator::NotIn(values) => value.is_none_or(|value| values.iter().all(|known| known != value)),
            LabelOperator::Exists => value.is_some(),
            LabelOperator::Absent => value.is_none(),
            LabelOperator::Greater(bound) => number().is_some_and(|number| number > *bound),
            LabelOperator::Less(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

/// Returns whether a `metav1.LabelSelector` matches labels. A null selector matches nothing, an empty one everything.
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
        Some("In") => LabelOperator::In(values()),
        Some("NotIn") => LabelOperator::NotIn(values()),
        Some("Exists") => LabelOperator::Exists,
        Some("DoesNotExist") => LabelOperator::Absent,
        _ => return false,
    };
    let key = expression.get("key").and_then(Value::as_str).unwrap_or("").to_owned();
    LabelRequirement { key, test }.matches(labels)
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

fn parse_labels(text: &str) -> std::result::Result<Vec<LabelRequirement>, String> {
    split_outside_brackets(text).into_iter().filter(|part| !part.is_empty()).map(parse_requirement).collect()
}

/// Splits at commas outside of `( )`.
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

fn parse_requirement(text: &str) -> std::result::Result<LabelRequirement, String> {
    let requirement = |key: &str, test| {
        let key = key.trim();
        let legal = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if key.is_empty() || !key.chars().all(legal) {
            return Err(format!(
                "<nil>: Invalid value: {key:?}: name part must consist of alphanumeric characters, '-', '_' or '.'"
            ));
        }
        Ok(LabelRequirement { key: key.to_owned(), test })
    };
    if let Some(key) = text.strip_prefix('!') {
        return requirement(key, LabelOperator::Absent);
    }
    if let Some(open) = text.find('(') {
        let inside =
            text[open + 1..].strip_suffix(')').ok_or_else(|| format!("found '', expected: ',', or ')' in {text:?}"))?;
        let values = inside.split(',').map(|value| value.trim().to_owned()).collect();
        let head = text[..open].trim();
        if let Some(key) = head.strip_suffix(" notin") {
            return requirement(key, LabelOperator::NotIn(values));
        }
        if let Some(key) = head.strip_suffix(" in") {
            return requirement(key, LabelOperator::In(values));
        }
        return Err(format!("found {head:?}, expected: in, notin"));
    }
    for (operator, negative) in [("!=", true), ("==", false), ("=", false)] {
        if let Some((key, value)) = text.split_once(operator) {
            let values = vec![value.trim().to_owned()];
            return requirement(key, if negative { LabelOperator::NotIn(values) } else { LabelOperator::In(values) });
        }
    }
    for (operator, greater) in [(">", true), ("<", false)] {
        if let Some((key, value)) = text.split_once(operator) {
            let bound = value
                .trim()
                .parse()
                .map_err(|_| format!("for 'Gt', 'Lt' operators, the value must be an integer: {value:?}"))?;
            return requirement(key, if greater { LabelOperator::Greater(bound) } else { LabelOperator::Less(bound) });
        }
    }
    requirement(text, LabelOperator::Exists)
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

/// Returns whether a built-in resource can be selected by a field, beside name and namespace.
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
