//! JSON lines. The strings of a template are format strings; objects and lists may be nested.

use serde_json::Value as Json;

use super::Record;
use super::date::StartTimes;
use super::format::{Escape, FormatError, FormatPart, parse, write};
use super::operator::{Operator, OperatorValue};

/// A parsed JSON format.
#[derive(Clone, Debug)]
pub(super) enum JsonTemplate {
    Object(Vec<(String, JsonTemplate)>),
    List(Vec<JsonTemplate>),
    /// A string that consists of one operator: its value keeps its type.
    Value(Operator, Option<usize>),
    Text(Vec<FormatPart>),
    /// A number, boolean or null of the template.
    Literal(String),
}

impl JsonTemplate {
    /// Parses a JSON object.
    pub(super) fn parse(format: &str) -> Result<Self, FormatError> {
        let error = |at, what: String| FormatError { at, what };
        let json: Json = serde_json::from_str(format).map_err(|cause| {
            let line_start: usize =
                format.lines().take(cause.line().saturating_sub(1)).map(|line| line.len() + 1).sum();
            error(line_start + cause.column(), format!("not valid JSON: {cause}"))
        })?;
        match json {
            Json::Object(_) => Self::of(json),
            _ => Err(error(0, "a JSON format must be an object".to_owned())),
        }
    }

    fn of(json: Json) -> Result<Self, FormatError> {
        Ok(match json {
            Json::Object(fields) => Self::Object(
                fields
                    .into_iter()
                    .map(|(key, value)| Ok((quoted(&key), Self::of(value)?)))
                    .collect::<Result<_, _>>()?,
            ),
            Json::Array(items) => Self::List(items.into_iter().map(Self::of).collect::<Result<_, _>>()?),
            Json::String(text) => match <[FormatPart; 1]>::try_from(parse(&text)?) {
                Ok([FormatPart::Value(operator, limit)]) => Self::Value(operator, limit),
                Ok(parts) => Self::Text(parts.into()),
                Err(parts) => Self::Text(parts),
            },
            literal => Self::Literal(literal.to_string()),
        })
    }

    /// Calls `with` with the parts of each string.
    pub(super) fn visit(&self, with: &mut impl FnMut(&[FormatPart])) {
        match self {
            Self::Object(fields) => fields.iter().for_each(|(_, value)| value.visit(with)),
            Self::List(items) => items.iter().for_each(|item| item.visit(with)),
            Self::Value(operator, limit) => with(&[FormatPart::Value(operator.clone(), *limit)]),
            Self::Text(parts) => with(parts),
            Self::Literal(_) => {}
        }
    }

    /// Renders the JSON object, without a line break.
    pub(super) fn write(&self, record: &Record<'_>, start_times: &mut StartTimes, out: &mut Vec<u8>) {
        match self {
            Self::Object(fields) => {
                out.push(b'{');
                for (index, (key, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(key.as_bytes());
                    out.push(b':');
                    value.write(record, start_times, out);
                }
                out.push(b'}');
            }
            Self::List(items) => {
                out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    item.write(record, start_times, out);
                }
                out.push(b']');
            }
            Self::Value(operator, limit) => {
                let start = out.len();
                match operator.write(record, start_times, out) {
                    OperatorValue::Missing => out.extend_from_slice(b"null"),
                    OperatorValue::Number => {}
                    OperatorValue::Text => {
                        if let Some(limit) = limit {
                            out.truncate(start + limit);
                        }
                        quote(out, start);
                    }
                }
            }
            Self::Text(parts) => {
                let start = out.len();
                write(parts, record, start_times, out, Escape::None);
                quote(out, start);
            }
            Self::Literal(text) => out.extend_from_slice(text.as_bytes()),
        }
    }
}

/// Replaces the bytes from `start` on by a JSON string. Bytes that are not UTF-8 become replacement characters.
fn quote(out: &mut Vec<u8>, start: usize) {
    let text = quoted(&String::from_utf8_lossy(&out[start..]));
    out.truncate(start);
    out.extend_from_slice(text.as_bytes());
}

fn quoted(text: &str) -> String {
    Json::from(text).to_string()
}
