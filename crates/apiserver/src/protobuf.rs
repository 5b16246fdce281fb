//! Reads request bodies in Kubernetes' protobuf form.
//!
//! Typed clients of recent client-go, among them `kubectl create deployment`, `create token` and `auth can-i`, write protobuf, do not
//! fall back to JSON, and read what they are given. So this server reads it, and answers JSON.
//!
//! A body is the four bytes `k8s\0`, then a `runtime.Unknown` message: kind and version, and the object's own message. There are no names
//! in it: those are in `fields.txt`. Fields that are no pointers in Go are always written, so that their zero means that
//! nobody set them.

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
use wire::{Field, Fields};

/// The media type.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";

/// How deep messages may be nested.
const DEEPEST: usize = 64;

/// Why a body cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("it does not begin with the bytes of a Kubernetes protobuf object")]
    Magic,
    #[error("it is cut off or malformed in {0}")]
    Malformed(String),
    #[error("{0} has no protobuf form here, send JSON")]
    Unknown(String),
    #[error("it is nested too deeply")]
    TooDeep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Text,
    Bytes,
    Integer,
    Boolean,
    Double,
    Message(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    One(Type),
    List(Type),
    Map(Type),
}

/// What the table says about a field.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Empty for messages whose fields are written in JSON as those of the message around them.
    name: &'static str,
    /// Written only if somebody set it, so that zero is a value.
    is_pointer: bool,
    shape: Shape,
}

type Message = HashMap<u32, Known>;

static MESSAGES: LazyLock<HashMap<&'static str, Message>> = LazyLock::new(|| {
    let lines = include_str!("protobuf/fields.txt").lines().filter(|line| !line.starts_with('#'));
    let lines = lines.map(|line| line.split_once(' ').unwrap_or((line, "")));
    lines.map(|(name, fields)| (name, fields.split_whitespace().filter_map(parse_field).collect())).collect()
});

fn parse_field(field: &'static str) -> Option<(u32, Known)> {
    let mut parts = field.splitn(3, ':');
    let (number, name, shape) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
    let shape = match shape.as_bytes().first()? {
        b'*' => Shape::List(parse_type(&shape[1..])?),
        b'%' => Shape::Map(parse_type(&shape[1..])?),
        _ => Shape::One(parse_type(shape)?),
    };
    Some((number, Known { name: name.trim_end_matches('?'), is_pointer: name.ends_with('?'), shape }))
}

fn parse_type(text: &'static str) -> Option<Type> {
    Some(match text {
        "s" => Type::Text,
        "b" => Type::Bytes,
        "i" => Type::Integer,
        "t" => Type::Boolean,
        "d" => Type::Double,
        message => Type::Message(message.strip_prefix("m:")?),
    })
}

/// Reads a body.
pub(crate) fn decode(bytes: &[u8]) -> Result<Value, Unreadable> {
    let unknown = bytes.strip_prefix(MAGIC).ok_or(Unreadable::Magic)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Fields::of(unknown) {
        match field.map_err(malformed("the envelope"))? {
            (1, Field::Bytes(type_meta)) => {
                for field in Fields::of(type_meta) {
                    match field.map_err(malformed("the envelope"))? {
                        (1, Field::Bytes(text)) => api_version = String::from_utf8_lossy(text).into_owned(),
                        (2, Field::Bytes(text)) => kind = String::from_utf8_lossy(text).into_owned(),
                        _ => {}
                    }
                }
            }
            (2, Field::Bytes(object)) => raw = object,
            _ => {}
        }
    }
    let name = message_name(&api_version, &kind);
    if !MESSAGES.contains_key(name.as_str()) {
        return Err(Unreadable::Unknown(format!("{api_version} {kind}")));
    }
    let mut object = Value::Object(message(&name, raw, 0)?);
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    Ok(object)
}

/// `core.v1.Pod`, `rbac.v1.Role`: what the table calls a kind.
fn message_name(api_version: &str, kind: &str) -> String {
    if kind == "DeleteOptions" {
        // Registered in every group, one message for all.
        return "meta.v1.DeleteOptions".to_owned();
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    format!("{}.{version}.{kind}", group.split('.').next().unwrap_or(group))
}

fn message(name: &str, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, Unreadable> {
    if depth > DEEPEST {
        return Err(Unreadable::TooDeep);
    }
    let known = MESSAGES.get(name).ok_or_else(|| Unreadable::Unknown(name.to_owned()))?;
    let mut object = Map::new();
    for field in Fields::of(bytes) {
        let (number, field) = field.map_err(malformed(name))?;
        let Some(Known { name: key, is_pointer, shape }) = known.get(&number).copied() else { continue };
        match shape {
            Shape::One(kind) => match value(kind, &field, depth)? {
                Some(Value::Object(parts)) if key.is_empty() => object.extend(parts),
                Some(value) if is_pointer || is_said(&value) => drop(object.insert(key.to_owned(), value)),
                _ => {}
            },
            Shape::List(kind) => {
                let list = object.entry(key).or_insert_with(|| json!([]));
                if let (Some(list), Some(value)) = (list.as_array_mut(), value(kind, &field, depth)?) {
                    list.push(value);
                }
            }
            Shape::Map(kind) => {
                let Field::Bytes(entry) = field else { return Err(Unreadable::Malformed(name.to_owned())) };
                let (entry_key, entry_value) = map_entry(kind, entry, depth)?;
                object.entry(key).or_insert_with(|| json!({}))[entry_key] = entry_value;
            }
        }
    }
    Ok(object)
}

fn map_entry(kind: Type, bytes: &[u8], depth: usize) -> Result<(String, Value), Unreadable> {
    let (mut key, mut entry) = (String::new(), Value::String(String::new()));
    for field in Fields::of(bytes) {
        match field.map_err(malformed("a map"))? {
            (1, Field::Bytes(text)) => key = String::from_utf8_lossy(text).into_owned(),
            (2, field) => entry = value(kind, &field, depth)?.unwrap_or(Value::Null),
            _ => {}
        }
    }
    Ok((key, entry))
}

/// Whether the value of a field that is always written is one that somebody set.
fn is_said(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.is_empty(),
        Value::Bool(yes) => *yes,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

fn value(kind: Type, field: &Field<'_>, depth: usize) -> Result<Option<Value>, Unreadable> {
    let wrong = || Unreadable::Malformed("a field of another type".to_owned());
    Ok(Some(match (kind, field) {
        (Type::Text, Field::Bytes(bytes)) => json!(std::str::from_utf8(bytes).map_err(|_| wrong())?),
        (Type::Bytes, Field::Bytes(bytes)) => json!(STANDARD.encode(bytes)),
        // Negative numbers are written as 64 bits of two's complement.
        (Type::Integer, Field::Number(number)) => json!(number.cast_signed()),
        (Type::Boolean, Field::Number(number)) => json!(*number != 0),
        (Type::Double, Field::Fixed(bits)) => json!(f64::from_bits(*bits)),
        (Type::Message(name), Field::Bytes(bytes)) => return special(name, bytes, depth),
        _ => return Err(wrong()),
    }))
}

/// Messages whose JSON is something other than an object of their fields.
fn special(name: &str, bytes: &[u8], depth: usize) -> Result<Option<Value>, Unreadable> {
    Ok(Some(match name {
        "meta.v1.Time" | "meta.v1.MicroTime" => {
            // The zero time is no time.
            let seconds = number(name, bytes, 1)?;
            if seconds <= 0 {
                return Ok(None);
            }
            let nanoseconds = i128::from(seconds) * 1_000_000_000 + i128::from(number(name, bytes, 2)?);
            let at = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds)
                .map_err(|_| Unreadable::Malformed(name.to_owned()))?;
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
            for field in Fields::of(bytes) {
                if let (1, Field::Bytes(bytes)) = field.map_err(malformed(name))? {
                    items.push(json!(String::from_utf8_lossy(bytes)));
                }
            }
            Value::Array(items)
        }
        name => Value::Object(message(name, bytes, depth + 1)?),
    }))
}

/// The last field of that number.
fn numbered<'a>(name: &str, bytes: &'a [u8], wanted: u32) -> Result<Option<Field<'a>>, Unreadable> {
    let mut found = None;
    for field in Fields::of(bytes) {
        let (number, field) = field.map_err(malformed(name))?;
        if number == wanted {
            found = Some(field);
        }
    }
    Ok(found)
}

fn number(name: &str, bytes: &[u8], wanted: u32) -> Result<i64, Unreadable> {
    Ok(match numbered(name, bytes, wanted)? {
        Some(Field::Number(number)) => number.cast_signed(),
        _ => 0,
    })
}

fn text(name: &str, bytes: &[u8], wanted: u32) -> Result<String, Unreadable> {
    Ok(match numbered(name, bytes, wanted)? {
        Some(Field::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    })
}

fn malformed(place: &str) -> impl FnOnce(wire::Malformed) -> Unreadable {
    let place = place.to_owned();
    |wire::Malformed| Unreadable::Malformed(place)
}
