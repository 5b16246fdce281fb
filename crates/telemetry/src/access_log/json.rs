//! JSON lines. Strings in the template are format strings; objects and lists may nest.

use serde_json::Value as Json;

use super::Record;
use super::date::Clock;
use super::format::{Escape, FormatError, Piece, parse, write};
use super::operator::{Operator, Value};

/// The template, with its strings parsed.
#[derive(Clone, Debug)]
pub(super) enum Template {
    Object(Vec<(String, Template)>),
    List(Vec<Template>),
    /// One operator alone keeps its type.
    Value(Operator, Option<usize>),
    Text(Vec<Piece>),
    /// Numbers, booleans and null, as they stand.
    Literal(String),
}

impl Template {
    /// Parses an object.
    pub(super) fn parse(format: &str) -> Result<Self, FormatError> {
        let wrong = |at, what: String| FormatError { at, what };
        let json: Json = serde_json::from_str(format).map_err(|error| {
            let line_start: usize =
                format.lines().take(error.line().saturating_sub(1)).map(|line| line.len() + 1).sum();
            wrong(line_start + error.column(), format!("not JSON: {error}"))
        })?;
        match json {
            Json::Object(_) => Self::of(json),
            _ => Err(wrong(0, "a JSON format must be an object".to_owned())),
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
            Json::String(text) => match <[Piece; 1]>::try_from(parse(&text)?) {
                Ok([Piece::Value(operator, most)]) => Self::Value(operator, most),
                Ok(pieces) => Self::Text(pieces.into()),
                Err(pieces) => Self::Text(pieces),
            },
            literal => Self::Literal(literal.to_string()),
        })
    }

    /// Calls `with` with all pieces of text.
    pub(super) fn visit(&self, with: &mut impl FnMut(&[Piece])) {
        match self {
            Self::Object(fields) => fields.iter().for_each(|(_, value)| value.visit(with)),
            Self::List(items) => items.iter().for_each(|item| item.visit(with)),
            Self::Value(operator, most) => with(&[Piece::Value(operator.clone(), *most)]),
            Self::Text(pieces) => with(pieces),
            Self::Literal(_) => {}
        }
    }

    /// Appends the JSON, without a line break.
    pub(super) fn write(&self, record: &Record<'_>, clock: &mut Clock, out: &mut Vec<u8>) {
        match self {
            Self::Object(fields) => {
                out.push(b'{');
                for (index, (key, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(key.as_bytes());
                    out.push(b':');
                    value.write(record, clock, out);
                }
                out.push(b'}');
            }
            Self::List(items) => {
                out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    item.write(record, clock, out);
                }
                out.push(b']');
            }
            Self::Value(operator, most) => {
                let start = out.len();
                match operator.write(record, clock, out) {
                    Value::Missing => out.extend_from_slice(b"null"),
                    Value::Number => {}
                    Value::Text => {
                        if let Some(most) = most {
                            out.truncate(start + most);
                        }
                        quote(out, start);
                    }
                }
            }
            Self::Text(pieces) => {
                let start = out.len();
                write(pieces, record, clock, out, Escape::None);
                quote(out, start);
            }
            Self::Literal(text) => out.extend_from_slice(text.as_bytes()),
        }
    }
}

/// Makes a JSON string of what was appended from `start` on. Bytes that are no text are replaced.
fn quote(out: &mut Vec<u8>, start: usize) {
    let text = quoted(&String::from_utf8_lossy(&out[start..]));
    out.truncate(start);
    out.extend_from_slice(text.as_bytes());
}

fn quoted(text: &str) -> String {
    Json::from(text).to_string()
}
