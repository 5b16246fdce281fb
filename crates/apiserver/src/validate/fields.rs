//! Unknown fields, and values of the wrong type.

use serde_json::{Map, Value};

use crate::kinds::ResourceKind;
use crate::schema::types::{FieldType, StructId, TypeTable, type_table};
use crate::timestamp;

/// The fields of `object` that its built-in kind does not have, as `unknown field "spec.foo"`.
pub(crate) fn unknown_fields(kind: &ResourceKind, object: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    if let Some((types, root)) = root(kind)
        && let Some(fields) = object.as_object()
    {
        find_unknown(types, root, fields, "", &mut unknown);
    }
    unknown
}

/// Removes unknown fields, nulls and empty maps, as decoding into Kubernetes' types and encoding them does.
pub(crate) fn prune(kind: &ResourceKind, object: &mut Value) {
    if let Some((types, root)) = root(kind)
        && let Some(fields) = object.as_object_mut()
    {
        prune_struct(types, root, fields);
    }
}

/// Checks the types of all fields. The error is that of Kubernetes' decoder, which follows `… cannot be handled as a …:
/// ` in a `BadRequest` status.
pub(crate) fn types(kind: &ResourceKind, object: &Value) -> Result<(), String> {
    let Some((types, root)) = root(kind) else { return Ok(()) };
    let fields = object.as_object().ok_or_else(|| {
        format!("json: cannot unmarshal {} into Go value of type {}.{}", word(object), kind.version, kind.kind)
    })?;
    check_struct(types, root, fields, "")
}

fn root(kind: &ResourceKind) -> Option<(&'static TypeTable, StructId)> {
    let types = type_table();
    Some((types, types.kind(&kind.group, &kind.version, &kind.kind)?))
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

fn find_unknown(types: &TypeTable, id: StructId, fields: &Map<String, Value>, path: &str, unknown: &mut Vec<String>) {
    for (field, value) in fields {
        let path = join(path, field);
        match types.get(id).fields.get(field) {
            None => unknown.push(format!("unknown field \"{path}\"")),
            Some(type_) => find_unknown_in(types, type_, value, &path, unknown),
        }
    }
}

fn find_unknown_in(types: &TypeTable, type_: &FieldType, value: &Value, path: &str, unknown: &mut Vec<String>) {
    match (type_, value) {
        (FieldType::Struct(id), Value::Object(fields)) => find_unknown(types, *id, fields, path, unknown),
        (FieldType::List(item), Value::Array(list)) => {
            for (index, value) in list.iter().enumerate() {
                find_unknown_in(types, item, value, &format!("{path}[{index}]"), unknown);
            }
        }
        (FieldType::Map(item), Value::Object(map)) => {
            for (key, value) in map {
                find_unknown_in(types, item, value, &join(path, key), unknown);
            }
        }
        _ => {}
    }
}

fn prune_struct(types: &TypeTable, id: StructId, fields: &mut Map<String, Value>) {
    let known = &types.get(id).fields;
    fields.retain(|field, value| match known.get(field) {
        None => false,
        Some(FieldType::Any) => true,
        Some(FieldType::Map(_)) => !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty()),
        Some(_) => !value.is_null(),
    });
    for (field, value) in fields.iter_mut() {
        if let Some(type_) = known.get(field) {
            prune_value(types, type_, value);
        }
    }
}

fn prune_value(types: &TypeTable, type_: &FieldType, value: &mut Value) {
    match (type_, value) {
        (FieldType::Struct(id), Value::Object(fields)) => prune_struct(types, *id, fields),
        (FieldType::List(item), Value::Array(list)) => {
            list.iter_mut().for_each(|value| prune_value(types, item, value))
        }
        (FieldType::Map(item), Value::Object(map)) => {
            map.values_mut().for_each(|value| prune_value(types, item, value))
        }
        _ => {}
    }
}

fn check_struct(types: &TypeTable, id: StructId, fields: &Map<String, Value>, path: &str) -> Result<(), String> {
    let structure = types.get(id);
    for (field, value) in fields {
        if let Some(type_) = structure.fields.get(field) {
            check_value(types, &structure.name, type_, value, &join(path, field))?;
        }
    }
    Ok(())
}

fn check_value(types: &TypeTable, structure: &str, type_: &FieldType, value: &Value, path: &str) -> Result<(), String> {
    match (type_, value) {
        (_, Value::Null)
        | (FieldType::Any, _)
        | (FieldType::Boolean, Value::Bool(_))
        | (FieldType::Number, Value::Number(_))
        | (FieldType::String, Value::String(_))
        | (FieldType::NumberOrString, Value::Number(_) | Value::String(_)) => Ok(()),
        (FieldType::Integer(size), Value::Number(number)) => {
            let limit = if *size == "int32" { i64::from(i32::MAX) } else { i64::MAX };
            match number.as_i64() {
                Some(integer) if integer <= limit && integer >= -limit - 1 => Ok(()),
                _ => Err(mismatch(structure, &format!("number {number}"), path, size)),
            }
        }
        (FieldType::Bytes, Value::String(text)) => base64(text),
        (FieldType::Time, Value::String(text)) => {
            const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
            match timestamp::parse(text) {
                Some(_) => Ok(()),
                None => Err(format!("parsing time {text:?} as {LAYOUT:?}: cannot parse {text:?} as \"2006\"")),
            }
        }
        (FieldType::List(item), Value::Array(list)) => {
            list.iter().try_for_each(|value| check_value(types, structure, item, value, path))
        }
        (FieldType::Map(item), Value::Object(map)) => {
            map.values().try_for_each(|value| check_value(types, structure, item, value, path))
        }
        (FieldType::Struct(id), Value::Object(fields)) => check_struct(types, *id, fields, path),
        _ => Err(mismatch(structure, word(value), path, &go_type(types, type_))),
    }
}

fn mismatch(structure: &str, value: &str, path: &str, type_: &str) -> String {
    let structure = structure.rsplit('.').next().unwrap_or(structure);
    format!("json: cannot unmarshal {value} into Go struct field {structure}.{path} of type {type_}")
}

/// The type of a value in the decoder's errors.
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

fn go_type(types: &TypeTable, type_: &FieldType) -> String {
    match type_ {
        FieldType::Any => "interface {}".to_owned(),
        FieldType::Boolean => "bool".to_owned(),
        FieldType::Integer(size) => (*size).to_owned(),
        FieldType::Number => "float64".to_owned(),
        FieldType::String => "string".to_owned(),
        FieldType::Bytes => "[]uint8".to_owned(),
        FieldType::Time => "v1.Time".to_owned(),
        FieldType::NumberOrString => "intstr.IntOrString".to_owned(),
        FieldType::List(item) => format!("[]{}", go_type(types, item)),
        FieldType::Map(item) => format!("map[string]{}", go_type(types, item)),
        FieldType::Struct(id) => {
            let mut parts = types.get(*id).name.rsplit('.');
            let (name, version) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
            format!("{version}.{name}")
        }
    }
}

/// Base64 with padding in the standard alphabet. Line breaks are ignored, as in Go.
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
