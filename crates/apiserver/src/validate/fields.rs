//! Fields that a kind does not have, and values that do not fit their fields.

use serde_json::{Map, Value};

use crate::kinds::Kind;
use crate::schema::shapes::{Shapes, StructId, Type, shapes};
use crate::timestamp;

/// Every field of `object` that its built-in kind does not have, as `unknown field "spec.foo"`.
pub(crate) fn unknown_fields(kind: &Kind, object: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    if let Some((shapes, root)) = root(kind)
        && let Some(fields) = object.as_object()
    {
        find_unknown(shapes, root, fields, "", &mut unknown);
    }
    unknown
}

/// Removes the fields that the kind does not have, and nulls, as decoding into Kubernetes' types does.
pub(crate) fn prune(kind: &Kind, object: &mut Value) {
    if let Some((shapes, root)) = root(kind)
        && let Some(fields) = object.as_object_mut()
    {
        prune_struct(shapes, root, fields);
    }
}

/// Checks that every field is of its type. The error is that of Kubernetes' decoder, to follow `… cannot be handled as a …: `
/// in a `BadRequest` status.
pub(crate) fn types(kind: &Kind, object: &Value) -> Result<(), String> {
    let Some((shapes, root)) = root(kind) else { return Ok(()) };
    let fields = object.as_object().ok_or_else(|| {
        format!("json: cannot unmarshal {} into Go value of type {}.{}", word(object), kind.version, kind.kind)
    })?;
    check_struct(shapes, root, fields, "")
}

fn root(kind: &Kind) -> Option<(&'static Shapes, StructId)> {
    let shapes = shapes();
    Some((shapes, shapes.kind(&kind.group, &kind.version, &kind.kind)?))
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

fn find_unknown(shapes: &Shapes, id: StructId, fields: &Map<String, Value>, path: &str, unknown: &mut Vec<String>) {
    for (field, value) in fields {
        let path = join(path, field);
        match shapes.get(id).fields.get(field) {
            None => unknown.push(format!("unknown field \"{path}\"")),
            Some(type_) => find_unknown_in(shapes, type_, value, &path, unknown),
        }
    }
}

fn find_unknown_in(shapes: &Shapes, type_: &Type, value: &Value, path: &str, unknown: &mut Vec<String>) {
    match (type_, value) {
        (Type::Struct(id), Value::Object(fields)) => find_unknown(shapes, *id, fields, path, unknown),
        (Type::List(item), Value::Array(list)) => {
            for (index, value) in list.iter().enumerate() {
                find_unknown_in(shapes, item, value, &format!("{path}[{index}]"), unknown);
            }
        }
        (Type::Map(item), Value::Object(map)) => {
            for (key, value) in map {
                find_unknown_in(shapes, item, value, &join(path, key), unknown);
            }
        }
        _ => {}
    }
}

fn prune_struct(shapes: &Shapes, id: StructId, fields: &mut Map<String, Value>) {
    let known = &shapes.get(id).fields;
    fields.retain(|field, value| match known.get(field) {
        None => false,
        Some(Type::Any) => true,
        Some(_) => !value.is_null(),
    });
    for (field, value) in fields.iter_mut() {
        if let Some(type_) = known.get(field) {
            prune_value(shapes, type_, value);
        }
    }
}

fn prune_value(shapes: &Shapes, type_: &Type, value: &mut Value) {
    match (type_, value) {
        (Type::Struct(id), Value::Object(fields)) => prune_struct(shapes, *id, fields),
        (Type::List(item), Value::Array(list)) => list.iter_mut().for_each(|value| prune_value(shapes, item, value)),
        (Type::Map(item), Value::Object(map)) => map.values_mut().for_each(|value| prune_value(shapes, item, value)),
        _ => {}
    }
}

fn check_struct(shapes: &Shapes, id: StructId, fields: &Map<String, Value>, path: &str) -> Result<(), String> {
    let structure = shapes.get(id);
    for (field, value) in fields {
        if let Some(type_) = structure.fields.get(field) {
            check_value(shapes, &structure.name, type_, value, &join(path, field))?;
        }
    }
    Ok(())
}

fn check_value(shapes: &Shapes, structure: &str, type_: &Type, value: &Value, path: &str) -> Result<(), String> {
    match (type_, value) {
        (_, Value::Null)
        | (Type::Any, _)
        | (Type::Boolean, Value::Bool(_))
        | (Type::Number, Value::Number(_))
        | (Type::String, Value::String(_))
        | (Type::NumberOrString, Value::Number(_) | Value::String(_)) => Ok(()),
        (Type::Integer(size), Value::Number(number)) => {
            let limit = if *size == "int32" { i64::from(i32::MAX) } else { i64::MAX };
            match number.as_i64() {
                Some(integer) if integer <= limit && integer >= -limit - 1 => Ok(()),
                _ => Err(mismatch(structure, &format!("number {number}"), path, size)),
            }
        }
        (Type::Bytes, Value::String(text)) => base64(text),
        (Type::Time, Value::String(text)) => {
            const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
            match timestamp::parse(text) {
                Some(_) => Ok(()),
                None => Err(format!("parsing time {text:?} as {LAYOUT:?}: cannot parse {text:?} as \"2006\"")),
            }
        }
        (Type::List(item), Value::Array(list)) => {
            list.iter().try_for_each(|value| check_value(shapes, structure, item, value, path))
        }
        (Type::Map(item), Value::Object(map)) => {
            map.values().try_for_each(|value| check_value(shapes, structure, item, value, path))
        }
        (Type::Struct(id), Value::Object(fields)) => check_struct(shapes, *id, fields, path),
        _ => Err(mismatch(structure, word(value), path, &go_type(shapes, type_))),
    }
}

fn mismatch(structure: &str, value: &str, path: &str, type_: &str) -> String {
    let structure = structure.rsplit('.').next().unwrap_or(structure);
    format!("json: cannot unmarshal {value} into Go struct field {structure}.{path} of type {type_}")
}

/// A value as the decoder's errors call it.
fn word(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn go_type(shapes: &Shapes, type_: &Type) -> String {
    match type_ {
        Type::Any => "interface {}".to_owned(),
        Type::Boolean => "bool".to_owned(),
        Type::Integer(size) => (*size).to_owned(),
        Type::Number => "float64".to_owned(),
        Type::String => "string".to_owned(),
        Type::Bytes => "[]uint8".to_owned(),
        Type::Time => "v1.Time".to_owned(),
        Type::NumberOrString => "intstr.IntOrString".to_owned(),
        Type::List(item) => format!("[]{}", go_type(shapes, item)),
        Type::Map(item) => format!("map[string]{}", go_type(shapes, item)),
        Type::Struct(id) => {
            let mut parts = shapes.get(*id).name.rsplit('.');
            let (name, version) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
            format!("{version}.{name}")
        }
    }
}

/// Standard alphabet with padding; line breaks are skipped, as Go does.
fn base64(text: &str) -> Result<(), String> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let stripped: String = text.chars().filter(|char| !matches!(char, '\n' | '\r')).collect();
    match STANDARD.decode(stripped.as_bytes()) {
        Ok(_) | Err(base64::DecodeError::InvalidLastSymbol { .. }) => Ok(()),
        Err(base64::DecodeError::InvalidByte(at, _)) => Err(format!("illegal base64 data at input byte {at}")),
        Err(_) => Err(format!("illegal base64 data at input byte {}", text.len())),
    }
}
