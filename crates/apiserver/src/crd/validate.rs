//! Validation of custom objects against a structural schema. The wording is that of go-openapi/validate, as Kubernetes
//! passes it on.

use regex::RegexBuilder;
use serde_json::{Map, Value};

use super::schema::{ENVELOPE, MAX_CAUSES, flag, within};
use crate::status::StatusCause;

/// Deepest nesting that is validated.
const MAX_DEPTH: usize = 128;

/// Validates an object against the schema.
pub(crate) fn validate(schema: &Value, object: &Value, causes: &mut Vec<StatusCause>) {
    check(schema, object, &mut String::new(), true, 0, causes);
}

fn check(schema: &Value, value: &Value, path: &mut String, root: bool, depth: usize, causes: &mut Vec<StatusCause>) {
    if depth > MAX_DEPTH || causes.len() >= MAX_CAUSES {
        return;
    }
    if value.is_null() && (flag(schema, "nullable") || root) {
        return;
    }
    if let Some(wanted) = wrong_type(schema, value) {
        let kind = type_name(value);
        invalid(
            causes,
            "FieldValueTypeInvalid",
            path,
            &format!("Invalid value: {}: {path} in body must be of type {wanted}: {kind:?}", shown(value)),
        );
        return;
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
        invalid(
            causes,
            "FieldValueNotSupported",
            path,
            &format!("Unsupported value: {}: supported values: {}", shown(value), allowed.join(", ")),
        );
    }
    match value {
        Value::String(text) => check_text(schema, text, path, causes),
        Value::Number(number) => check_number(schema, number.as_f64().unwrap_or(0.0), value, path, causes),
        Value::Array(items) => check_list(schema, items, path, depth, causes),
        Value::Object(map) => check_map(schema, map, path, root, depth, causes),
        _ => {}
    }
    check_combined(schema, value, path, root, depth, causes);
}

fn check_text(schema: &Value, text: &str, path: &str, causes: &mut Vec<StatusCause>) {
    let length = text.chars().count() as u64;
    if let Some(least) = bound(schema, "minLength").filter(|least| length < *least) {
        invalid(
            causes,
            "FieldValueInvalid",
            path,
            &format!("Invalid value: {text:?}: {path} in body should be at least {least} chars long"),
        );
    }
    if let Some(most) = bound(schema, "maxLength").filter(|most| length > *most) {
        invalid(causes, "FieldValueTooLong", path, &format!("Too long: may not be more than {most} bytes"));
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
        // A pattern that is not supported here was accepted with the definition. Values are not rejected for it.
        let regex = RegexBuilder::new(pattern).size_limit(1 << 20).build();
        if regex.is_ok_and(|regex| !regex.is_match(text)) {
            invalid(
                causes,
                "FieldValueInvalid",
                path,
                &format!("Invalid value: {text:?}: {path} in body should match '{pattern}'"),
            );
        }
    }
}

fn check_number(schema: &Value, number: f64, value: &Value, path: &str, causes: &mut Vec<StatusCause>) {
    let limit = |key: &str| schema.get(key).and_then(Value::as_f64);
    if let Some(least) = limit("minimum") {
        let exclusive = flag(schema, "exclusiveMinimum");
        if number < least || exclusive && number <= least {
            let relation = if exclusive { "greater than" } else { "greater than or equal to" };
            invalid(
                causes,
                "FieldValueInvalid",
                path,
                &format!("Invalid value: {value}: {path} in body should be {relation} {least}"),
            );
        }
    }
    if let Some(most) = limit("maximum") {
        let exclusive = flag(schema, "exclusiveMaximum");
        if number > most || exclusive && number >= most {
            let relation = if exclusive { "less than" } else { "less than or equal to" };
            invalid(
                causes,
                "FieldValueInvalid",
                path,
                &format!("Invalid value: {value}: {path} in body should be {relation} {most}"),
            );
        }
    }
    if let Some(unit) = limit("multipleOf").filter(|unit| *unit > 0.0)
        && (number / unit).fract().abs() > f64::EPSILON
    {
        invalid(
            causes,
            "FieldValueInvalid",
            path,
            &format!("Invalid value: {value}: {path} in body should be a multiple of {unit}"),
        );
    }
}

fn check_list(schema: &Value, items: &[Value], path: &mut String, depth: usize, causes: &mut Vec<StatusCause>) {
    let count = items.len() as u64;
    if let Some(least) = bound(schema, "minItems").filter(|least| count < *least) {
        invalid(
            causes,
            "FieldValueInvalid",
            path,
            &format!("Invalid value: {count}: {path} in body should have at least {least} items"),
        );
    }
    if let Some(most) = bound(schema, "maxItems").filter(|most| count > *most) {
        invalid(causes, "FieldValueTooMany", path, &format!("Too many: {count}: must have at most {most} items"));
    }
    let keys: Vec<&str> = schema
        .get("x-kubernetes-list-map-keys")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let list_type = schema.get("x-kubernetes-list-type").and_then(Value::as_str).unwrap_or("");
    for (at, item) in items.iter().enumerate() {
        within(path, &format!("[{at}]"), |path| {
            let twice = match list_type {
                "set" => items[..at].contains(item),
                "map" => items[..at].iter().any(|other| keys.iter().all(|key| other.get(*key) == item.get(*key))),
                _ => flag(schema, "uniqueItems") && items[..at].contains(item),
            };
            if twice {
                invalid(causes, "FieldValueDuplicate", path, &format!("Duplicate value: {}", shown(item)));
            }
            if let Some(schema) = schema.get("items") {
                check(schema, item, path, false, depth + 1, causes);
            }
        });
    }
}

fn check_map(
    schema: &Value,
    map: &Map<String, Value>,
    path: &mut String,
    root: bool,
    depth: usize,
    causes: &mut Vec<StatusCause>,
) {
    for required in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !map.contains_key(required) {
            let field = if path.is_empty() { required.to_owned() } else { format!("{path}.{required}") };
            invalid(causes, "FieldValueRequired", &field, "Required value");
        }
    }
    let count = map.len() as u64;
    if let Some(least) = bound(schema, "minProperties").filter(|least| count < *least) {
        invalid(
            causes,
            "FieldValueInvalid",
            path,
            &format!("Invalid value: {count}: {path} in body should have at least {least} properties"),
        );
    }
    if let Some(most) = bound(schema, "maxProperties").filter(|most| count > *most) {
        invalid(causes, "FieldValueTooMany", path, &format!("Too many: {count}: must have at most {most} items"));
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    let additional = schema.get("additionalProperties").filter(|additional| additional.is_object());
    for (key, value) in map {
        if root && ENVELOPE.contains(&key.as_str()) {
            continue;
        }
        if let Some(schema) = properties.and_then(|properties| properties.get(key)).or(additional) {
            let step = if path.is_empty() { key.clone() } else { format!(".{key}") };
            within(path, &step, |path| check(schema, value, path, false, depth + 1, causes));
        }
    }
}

fn check_combined(
    schema: &Value,
    value: &Value,
    path: &mut String,
    root: bool,
    depth: usize,
    causes: &mut Vec<StatusCause>,
) {
    let schemas = |key: &str| schema.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut fits = |schema: &Value| {
        let mut found = Vec::new();
        check(schema, value, path, root, depth + 1, &mut found);
        found.is_empty()
    };
    let any = schemas("anyOf");
    let any_fails = !any.is_empty() && !any.iter().any(&mut fits);
    let one = schemas("oneOf");
    let one_count = one.iter().filter(|schema| fits(schema)).count();
    let not_fails = schema.get("not").is_some_and(&mut fits);
    if any_fails {
        invalid(
            causes,
            "FieldValueInvalid",
            path,
            &format!("Invalid value: {}: {path} in body must validate at least one schema (anyOf)", shown(value)),
        );
    }
    if !one.is_empty() && one_count != 1 {
        let found = if one_count == 0 { "none".to_owned() } else { one_count.to_string() };
        let why = format!(
            "Invalid value: {}: {path} in body must validate one and only one schema (oneOf). Found {found} valid",
            shown(value)
        );
        invalid(causes, "FieldValueInvalid", path, &why);
    }
    if not_fails {
        invalid(
            causes,
            "FieldValueInvalid",
            path,
            &format!("Invalid value: {}: {path} in body must not validate the schema (not)", shown(value)),
        );
    }
    for schema in schemas("allOf") {
        check(schema, value, path, root, depth + 1, causes);
    }
}

/// Returns the type that the schema requires if the value has another type.
fn wrong_type(schema: &Value, value: &Value) -> Option<&'static str> {
    if flag(schema, "x-kubernetes-int-or-string") {
        return (!value.is_string() && !is_integer(value)).then_some("integer,string");
    }
    match schema.get("type").and_then(Value::as_str)? {
        "object" if !value.is_object() => Some("object"),
        "array" if !value.is_array() => Some("array"),
        "string" if !value.is_string() => Some("string"),
        "boolean" if !value.is_boolean() => Some("boolean"),
        "integer" if !is_integer(value) => Some("integer"),
        "number" if !value.is_number() => Some("number"),
        _ => None,
    }
}

fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_integer(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A value in a message: scalars as they are, others by their type.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => format!("{:?}", type_name(value)),
        other => other.to_string(),
    }
}

fn bound(schema: &Value, key: &str) -> Option<u64> {
    schema.get(key).and_then(Value::as_u64)
}

fn invalid(causes: &mut Vec<StatusCause>, reason: &str, path: &str, message: &str) {
    causes.push(StatusCause::new(reason, if path.is_empty() { "<nil>" } else { path }, message));
}
