//! Decoding of request bodies in Kubernetes' protobuf format.
//!
//! Typed clients of recent client-go, such as `kubectl create deployment`, `create token` and `auth can-i`, send
//! protobuf, do not fall back to JSON, and accept JSON responses. The server therefore decodes protobuf and responds in
//! JSON.
//!
//! A body is the four bytes `k8s\0` and a `runtime.Unknown` message: the API version and kind, and the object's own
//! message. The names of fields are in `fields.txt`. Fields that are no pointers in Go are always written: their zero
//! value means that the field is unset.

#[cfg(test)]
mod tests;
mod wire;

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::timestamp;
use wire::{WireField, WireFields};

/// Media type of the format.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";

/// Deepest nesting of messages.
const MAX_DEPTH: usize = 64;

/// Why a body cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtobufError {
    #[error("the body has no Kubernetes protobuf prefix")]
    Magic,
    #[error("{0} is truncated or malformed")]
    Malformed(String),
    #[error("no protobuf message is known for {0}: send JSON")]
    Unknown(String),
    #[error("messages are nested too deeply")]
    TooDeep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProtoType {
    Text,
    Bytes,
    Integer,
    Boolean,
    Double,
    Message(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cardinality {
    Singular(ProtoType),
    Repeated(ProtoType),
    Map(ProtoType),
}

/// The description of a field in `fields.txt`.
#[derive(Clone, Copy, Debug)]
struct FieldDescriptor {
    /// Empty for inlined messages, whose fields belong to the enclosing object in JSON.
    name: &'static str,
    /// Written only if it is set, so that zero is a value.
    is_pointer: bool,
    cardinality: Cardinality,
}

type MessageDescriptor = HashMap<u32, FieldDescriptor>;

static MESSAGES: LazyLock<HashMap<&'static str, MessageDescriptor>> = LazyLock::new(|| {
    let lines = include_str!("protobuf/fields.txt").lines().filter(|line| !line.starts_with('#'));
    let lines = lines.map(|line| line.split_once(' ').unwrap_or((line, "")));
    lines.map(|(name, fields)| (name, fields.split_whitespace().filter_map(parse_field).collect())).collect()
});

fn parse_field(field: &'static str) -> Option<(u32, FieldDescriptor)> {
    let mut parts = field.splitn(3, ':');
    let (number, name, cardinality) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
    let cardinality = match cardinality.as_bytes().first()? {
        b'*' => Cardinality::Repeated(parse_type(&cardinality[1..])?),
        b'%' => Cardinality::Map(parse_type(&cardinality[1..])?),
        _ => Cardinality::Singular(parse_type(cardinality)?),
    };
    Some((number, FieldDescriptor { name: name.trim_end_matches('?'), is_pointer: name.ends_with('?'), cardinality }))
}

fn parse_type(text: &'static str) -> Option<ProtoType> {
    Some(match text {
        "s" => ProtoType::Text,
        "b" => ProtoType::Bytes,
        "i" => ProtoType::Integer,
        "t" => ProtoType::Boolean,
        "d" => ProtoType::Double,
        message => ProtoType::Message(message.strip_prefix("m:")?),
    })
}

/// Decodes a body.
pub(crate) fn decode(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let unknown = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in WireFields::of(unknown) {
        match field.map_err(malformed("the envelope"))? {
            (1, WireField::Bytes(type_meta)) => {
                for field in WireFields::of(type_meta) {
                    match field.map_err(malformed("the envelope"))? {
                        (1, WireField::Bytes(text)) => api_version = String::from_utf8_lossy(text).into_owned(),
                        (2, WireField::Bytes(text)) => kind = String::from_utf8_lossy(text).into_owned(),
                        _ => {}
                    }
                }
            }
            (2, WireField::Bytes(object)) => raw = object,
            _ => {}
        }
    }
    let name = message_name(&api_version, &kind);
    if !MESSAGES.contains_key(name.as_str()) {
        return Err(ProtobufError::Unknown(format!("{api_version} {kind}")));
    }
    let mut object = Value::Object(message(&name, raw, 0)?);
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    Ok(object)
}

/// Name of a kind's message in `fields.txt`: `core.v1.Pod`, `rbac.v1.Role`.
fn message_name(api_version: &str, kind: &str) -> String {
    if kind == "DeleteOptions" {
        // Registered in every group with the same message.
        return "meta.v1.DeleteOptions".to_owned();
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    format!("{}.{version}.{kind}", group.split('.').next().unwrap_or(group))
}

fn message(name: &str, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, ProtobufError> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::TooDeep);
    }
    let known = MESSAGES.get(name).ok_or_else(|| ProtobufError::Unknown(name.to_owned()))?;
    let mut object = Map::new();
    for field in WireFields::of(bytes) {
        let (number, field) = field.map_err(malformed(name))?;
        let Some(FieldDescriptor { name: key, is_pointer, cardinality }) = known.get(&number).copied() else {
            continue;
        };
        match cardinality {
            Cardinality::Singular(kind) => match value(kind, &field, depth)? {
                Some(Value::Object(parts)) if key.is_empty() => object.extend(parts),
                Some(value) if is_pointer || is_set(&value) => drop(object.insert(key.to_owned(), value)),
                _ => {}
            },
            Cardinality::Repeated(kind) => {
                let list = object.entry(key).or_insert_with(|| json!([]));
                if let (Some(list), Some(value)) = (list.as_array_mut(), value(kind, &field, depth)?) {
                    list.push(value);
                }
            }
            Cardinality::Map(kind) => {
                let WireField::Bytes(entry) = field else { return Err(ProtobufError::Malformed(name.to_owned())) };
                let (entry_key, entry_value) = map_entry(kind, entry, depth)?;
                object.entry(key).or_insert_with(|| json!({}))[entry_key] = entry_value;
            }
        }
    }
    Ok(object)
}

fn map_entry(kind: ProtoType, bytes: &[u8], depth: usize) -> Result<(String, Value), ProtobufError> {
    let (mut key, mut entry) = (String::new(), Value::String(String::new()));
    for field in WireFields::of(bytes) {
        match field.map_err(malformed("a map"))? {
            (1, WireField::Bytes(text)) => key = String::from_utf8_lossy(text).into_owned(),
            (2, field) => entry = value(kind, &field, depth)?.unwrap_or(Value::Null),
            _ => {}
        }
    }
    Ok((key, entry))
}

/// Returns whether a value that is always written is set.
fn is_set(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.is_empty(),
        Value::Bool(yes) => *yes,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

fn value(kind: ProtoType, field: &WireField<'_>, depth: usize) -> Result<Option<Value>, ProtobufError> {
    let wrong = || ProtobufError::Malformed("a field of another type".to_owned());
    Ok(Some(match (kind, field) {
        (ProtoType::Text, WireField::Bytes(bytes)) => json!(std::str::from_utf8(bytes).map_err(|_| wrong())?),
        (ProtoType::Bytes, WireField::Bytes(bytes)) => json!(STANDARD.encode(bytes)),
        // Negative numbers are 64-bit two's complement.
        (ProtoType::Integer, WireField::Number(number)) => json!(number.cast_signed()),
        (ProtoType::Boolean, WireField::Number(number)) => json!(*number != 0),
        (ProtoType::Double, WireField::Fixed(bits)) => json!(f64::from_bits(*bits)),
        (ProtoType::Message(name), WireField::Bytes(bytes)) => return special(name, bytes, depth),
        _ => return Err(wrong()),
    }))
}

/// Decodes messages whose JSON is not an object of their fields.
fn special(name: &str, bytes: &[u8], depth: usize) -> Result<Option<Value>, ProtobufError> {
    Ok(Some(match name {
        "meta.v1.Time" | "meta.v1.MicroTime" => {
            // The zero time is unset.
            let seconds = number(name, bytes, 1)?;
            if seconds <= 0 {
                return Ok(None);
            }
            let nanoseconds = i128::from(seconds) * 1_000_000_000 + i128::from(number(name, bytes, 2)?);
            let at = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds)
                .map_err(|_| ProtobufError::Malformed(name.to_owned()))?;
            json!(if name == "meta.v1.Time" { timestamp::format(at) } else { timestamp::format_micros(at) })
        }
        "resource.Quantity" => json!(text(name, bytes, 1)?),
        "intstr.IntOrString" if number(name, bytes, 1)? == 1 => json!(text(name, bytes, 3)?),
        "intstr.IntOrString" => json!(number(name, bytes, 2)?),
        "runtime.RawExtension" | "meta.v1.FieldsV1" => match serde_json::from_str(&text(name, bytes, 1)?) {
            Ok(value) => value,
            Err(_) => return Ok(None),
        },
        list if list.ends_with(".ExtraValue") => {
            let mut items = Vec::new();
            for field in WireFields::of(bytes) {
                if let (1, WireField::Bytes(bytes)) = field.map_err(malformed(name))? {
                    items.push(json!(String::from_utf8_lossy(bytes)));
                }
            }
            Value::Array(items)
        }
        name => Value::Object(message(name, bytes, depth + 1)?),
    }))
}

/// The last field with that number.
fn numbered<'a>(name: &str, bytes: &'a [u8], wanted: u32) -> Result<Option<WireField<'a>>, ProtobufError> {
    let mut found = None;
    for field in WireFields::of(bytes) {
        let (number, field) = field.map_err(malformed(name))?;
        if number == wanted {
            found = Some(field);
        }
    }
    Ok(found)
}

fn number(name: &str, bytes: &[u8], wanted: u32) -> Result<i64, ProtobufError> {
    Ok(match numbered(name, bytes, wanted)? {
        Some(WireField::Number(number)) => number.cast_signed(),
        _ => 0,
    })
}

fn text(name: &str, bytes: &[u8], wanted: u32) -> Result<String, ProtobufError> {
    Ok(match numbered(name, bytes, wanted)? {
        Some(WireField::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    })
}

fn malformed(place: &str) -> impl FnOnce(wire::WireError) -> ProtobufError {
    let place = place.to_owned();
    |wire::WireError| ProtobufError::Malformed(place)
}
