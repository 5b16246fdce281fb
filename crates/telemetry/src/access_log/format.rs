//! Parsed formats and the rendering of lines.

use http::header::HeaderName;

use super::date::StartTimes;
use super::json::JsonTemplate;
use super::operator::{HeaderSection, Operator, OperatorValue};
use super::{DEFAULT_JSON, DEFAULT_TEXT, Record};

/// An error in a format, with its position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("access log format, byte {at}: {what}")]
pub struct FormatError {
    /// The byte offset in the format, or in the JSON string that contains the error.
    pub at: usize,
    /// What is wrong.
    pub what: String,
}

/// The format of access log lines.
#[derive(Clone, Debug)]
pub struct Format {
    layout: Layout,
}

#[derive(Clone, Debug)]
enum Layout {
    Text(Vec<FormatPart>),
    Json(JsonTemplate),
}

/// A part of a format string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FormatPart {
    Text(String),
    /// An operator, and the maximum length of its value in bytes.
    Value(Operator, Option<usize>),
}

impl Default for Format {
    fn default() -> Self {
        Self::text(DEFAULT_TEXT).expect("the default format is well formed")
    }
}

impl Format {
    /// Parses a format string in Envoy's syntax. A line break is added if it does not end with one. An empty string
    /// stands for [`DEFAULT_TEXT`].
    ///
    /// # Errors
    /// Returns an error if an operator is unknown or malformed.
    pub fn text(format: &str) -> Result<Self, FormatError> {
        let format = if format.is_empty() { DEFAULT_TEXT } else { format };
        let mut parts = parse(format)?;
        if !format.ends_with('\n') {
            parts.push(FormatPart::Text("\n".to_owned()));
        }
        Ok(Self { layout: Layout::Text(parts) })
    }

    /// Parses a JSON object whose strings are format strings. A string that consists of one operator is written as a
    /// number if the operator is numeric, and as null if it has no value. An empty string stands for [`DEFAULT_JSON`].
    ///
    /// # Errors
    /// Returns an error if the text is not a JSON object, or an operator is unknown or malformed.
    pub fn json(format: &str) -> Result<Self, FormatError> {
        let format = if format.trim().is_empty() { DEFAULT_JSON } else { format };
        JsonTemplate::parse(format).map(|template| Self { layout: Layout::Json(template) })
    }

    /// Returns the request headers that the format uses, in lower case. A record needs no others.
    pub fn request_headers(&self) -> Vec<HeaderName> {
        self.headers(HeaderSection::Request)
    }

    /// Returns the response headers that the format uses.
    pub fn response_headers(&self) -> Vec<HeaderName> {
        self.headers(HeaderSection::Response)
    }

    fn headers(&self, wanted: HeaderSection) -> Vec<HeaderName> {
        let mut names = Vec::new();
        let mut add = |parts: &[FormatPart]| {
            for part in parts {
                if let FormatPart::Value(operator, _) = part {
                    let of_section = operator.headers().filter(|(section, _)| *section == wanted);
                    names.extend(of_section.map(|(_, name)| name.clone()));
                }
            }
        };
        match &self.layout {
            Layout::Text(parts) => add(parts),
            Layout::Json(template) => template.visit(&mut add),
        }
        names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        names
    }

    /// Appends the line for a record.
    pub(super) fn write(&self, record: &Record<'_>, start_times: &mut StartTimes, out: &mut Vec<u8>) {
        match &self.layout {
            Layout::Text(parts) => write(parts, record, start_times, out, Escape::Line),
            Layout::Json(template) => {
                template.write(record, start_times, out);
                out.push(b'\n');
            }
        }
    }
}

/// A text with operators, such as the value of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<FormatPart>,
}

impl Template {
    /// Parses a text in Envoy's syntax of format strings.
    ///
    /// # Errors
    /// Returns an error if an operator is unknown or malformed.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        parse(text).map(|parts| Self { parts })
    }

    /// Returns the text for a record. An operator without a value is replaced by nothing, as in Envoy's headers.
    pub fn render(&self, record: &Record<'_>) -> Vec<u8> {
        let (mut out, mut start_times) = (Vec::new(), StartTimes::default());
        for part in &self.parts {
            match part {
                FormatPart::Text(text) => out.extend_from_slice(text.as_bytes()),
                FormatPart::Value(operator, limit) => {
                    let start = out.len();
                    operator.write(record, &mut start_times, &mut out);
                    if let Some(limit) = limit {
                        out.truncate(start + limit);
                    }
                }
            }
        }
        out
    }
}

/// How values are escaped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Escape {
    /// Escapes control characters and quotation marks, so that a client cannot forge entries.
    Line,
    /// No escaping: the JSON encoder escapes.
    None,
}

/// Renders the parts of a format string.
pub(super) fn write(
    parts: &[FormatPart],
    record: &Record<'_>,
    start_times: &mut StartTimes,
    out: &mut Vec<u8>,
    escape: Escape,
) {
    for part in parts {
        match part {
            FormatPart::Text(text) => out.extend_from_slice(text.as_bytes()),
            FormatPart::Value(operator, limit) => {
                let start = out.len();
                if matches!(operator.write(record, start_times, out), OperatorValue::Missing) {
                    out.push(b'-');
                }
                if let Some(limit) = limit {
                    out.truncate(start + limit);
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

/// Parses a format string.
pub(super) fn parse(format: &str) -> Result<Vec<FormatPart>, FormatError> {
    let mut parts = Vec::new();
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
            parts.push(FormatPart::Text(std::mem::take(&mut text)));
        }
        parts.push(operator);
        at += 1 + length;
    }
    text.push_str(&format[at..]);
    if !text.is_empty() {
        parts.push(FormatPart::Text(text));
    }
    Ok(parts)
}

/// Parses `NAME%`, `NAME(argument)%` or `NAME(argument):length%`. Returns the operator and its length in bytes.
fn command(text: &str) -> Result<(FormatPart, usize), String> {
    let name_length =
        text.find(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (name, mut rest) = text.split_at(name_length);
    if name.is_empty() {
        return Err("a percent sign that does not start an operator (%% stands for a percent sign)".to_owned());
    }
    let mut argument = None;
    if let Some(inside) = rest.strip_prefix('(') {
        // An argument may contain percent signs, as times do, but not a closing parenthesis.
        let end = inside.find(')').ok_or_else(|| format!("{name}( has no closing parenthesis"))?;
        argument = Some(&inside[..end]);
        rest = &inside[end + 1..];
    }
    let mut limit = None;
    if let Some(length) = rest.strip_prefix(':') {
        let digits = length.find(|c: char| !c.is_ascii_digit()).unwrap_or(length.len());
        limit = Some(length[..digits].parse().map_err(|_| format!("{name}: the length is not a number"))?);
        rest = &length[digits..];
    }
    let after = rest.strip_prefix('%').ok_or_else(|| format!("{name} is not followed by a percent sign"))?;
    Ok((FormatPart::Value(Operator::parse(name, argument)?, limit), text.len() - after.len()))
}
