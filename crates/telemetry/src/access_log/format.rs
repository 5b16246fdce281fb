//! Format strings, parsed.

use http::header::HeaderName;

use super::date::Clock;
use super::json::Template;
use super::operator::{Operator, Section, Value};
use super::{DEFAULT_JSON, DEFAULT_TEXT, Record};

/// What is wrong with a format, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("access log format, byte {at}: {what}")]
pub struct FormatError {
    /// Offset into the format, or into the JSON string that is wrong.
    pub at: usize,
    /// What is wrong.
    pub what: String,
}

/// How lines look.
#[derive(Clone, Debug)]
pub struct Format {
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    Text(Vec<Piece>),
    Json(Template),
}

/// A part of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    /// With the most bytes that it may take.
    Value(Operator, Option<usize>),
}

impl Default for Format {
    fn default() -> Self {
        Self::text(DEFAULT_TEXT).expect("the default format is well formed")
    }
}

impl Format {
    /// Envoy's format string. A line break is added where it does not end in one. Empty: [`DEFAULT_TEXT`].
    pub fn text(format: &str) -> Result<Self, FormatError> {
        let format = if format.is_empty() { DEFAULT_TEXT } else { format };
        let mut pieces = parse(format)?;
        if !format.ends_with('\n') {
            pieces.push(Piece::Text("\n".to_owned()));
        }
        Ok(Self { body: Body::Text(pieces) })
    }

    /// A JSON object whose strings are format strings. A string that is one operator alone becomes a number where the
    /// operator is one, and null where it has no value. Empty: [`DEFAULT_JSON`].
    pub fn json(format: &str) -> Result<Self, FormatError> {
        let format = if format.trim().is_empty() { DEFAULT_JSON } else { format };
        Template::parse(format).map(|template| Self { body: Body::Json(template) })
    }

    /// The request headers that it needs, lower case; the others need not be kept for the record.
    pub fn request_headers(&self) -> Vec<HeaderName> {
        self.headers(Section::Request)
    }

    /// The response headers that it needs.
    pub fn response_headers(&self) -> Vec<HeaderName> {
        self.headers(Section::Response)
    }

    fn headers(&self, wanted: Section) -> Vec<HeaderName> {
        let mut names = Vec::new();
        let mut add = |pieces: &[Piece]| {
            for piece in pieces {
                if let Piece::Value(operator, _) = piece {
                    let of_section = operator.headers().filter(|(section, _)| *section == wanted);
                    names.extend(of_section.map(|(_, name)| name.clone()));
                }
            }
        };
        match &self.body {
            Body::Text(pieces) => add(pieces),
            Body::Json(template) => template.visit(&mut add),
        }
        names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        names
    }

    /// Appends the line for a record.
    pub(super) fn write(&self, record: &Record<'_>, clock: &mut Clock, out: &mut Vec<u8>) {
        match &self.body {
            Body::Text(pieces) => write(pieces, record, clock, out, Escape::Line),
            Body::Json(template) => {
                template.write(record, clock, out);
                out.push(b'\n');
            }
        }
    }
}

/// What a value must not contain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Escape {
    /// Nothing that would begin another line or close quotation marks: a client must not be able to forge entries.
    Line,
    /// The JSON writer escapes on its own.
    None,
}

/// Appends the pieces' values.
pub(super) fn write(pieces: &[Piece], record: &Record<'_>, clock: &mut Clock, out: &mut Vec<u8>, escape: Escape) {
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Value(operator, most) => {
                let start = out.len();
                if matches!(operator.write(record, clock, out), Value::Missing) {
                    out.push(b'-');
                }
                if let Some(most) = most {
                    out.truncate(start + most);
                }
                if escape == Escape::Line && out[start..].iter().any(|byte| unsafe_in_line(*byte)) {
                    let value = out.split_off(start);
                    value.iter().for_each(|byte| push_escaped(*byte, out));
                }
            }
        }
    }
}

fn unsafe_in_line(byte: u8) -> bool {
    byte < b' ' || byte == b'"' || byte == 0x7f
}

fn push_escaped(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        byte if unsafe_in_line(byte) => out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
        byte => out.push(byte),
    }
}

/// Parses text with operators in it.
pub(super) fn parse(format: &str) -> Result<Vec<Piece>, FormatError> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut at = 0;
    while let Some(found) = format[at..].find('%') {
        text.push_str(&format[at..at + found]);
        at += found;
        let rest = &format[at + 1..];
        if rest.starts_with('%') {
            text.push('%');
            at += 2;
            continue;
        }
        let (operator, length) = command(rest).map_err(|what| FormatError { at, what })?;
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        pieces.push(operator);
        at += 1 + length;
    }
    text.push_str(&format[at..]);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

/// `NAME%`, `NAME(argument)%`, `NAME(argument):length%`: the piece, and how many bytes it took.
fn command(text: &str) -> Result<(Piece, usize), String> {
    let name_length =
        text.find(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (name, mut rest) = text.split_at(name_length);
    if name.is_empty() {
        return Err("a percent sign that begins no operator (write %% for the sign itself)".to_owned());
    }
    let mut argument = None;
    if let Some(inside) = rest.strip_prefix('(') {
        // An argument may contain percent signs, as times do, but no closing parenthesis.
        let end = inside.find(')').ok_or_else(|| format!("{name}( has no closing parenthesis"))?;
        argument = Some(&inside[..end]);
        rest = &inside[end + 1..];
    }
    let mut most = None;
    if let Some(length) = rest.strip_prefix(':') {
        let digits = length.find(|c: char| !c.is_ascii_digit()).unwrap_or(length.len());
        most = Some(length[..digits].parse().map_err(|_| format!("{name}: the length is no number"))?);
        rest = &length[digits..];
    }
    let after = rest.strip_prefix('%').ok_or_else(|| format!("{name} is not closed by a percent sign"))?;
    Ok((Piece::Value(Operator::parse(name, argument)?, most), text.len() - after.len()))
}
