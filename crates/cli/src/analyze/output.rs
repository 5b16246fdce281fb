//! How messages are printed.

use api::analyze::Message;
use api::networking::Severity;
use serde_json::{Value, json};

use super::AnalyzeFormat;
use crate::sources::count;

/// The page of a code. The codes are those of `istioctl analyze`.
fn page(code: &str) -> String {
    format!("https://istio.io/latest/docs/reference/config/analysis/{}/", code.to_ascii_lowercase())
}

/// Returns messages in a format.
pub(super) fn render(messages: &[Message], format: AnalyzeFormat) -> anyhow::Result<String> {
    let documents = || messages.iter().map(document).collect::<Value>();
    Ok(match format {
        AnalyzeFormat::Log => messages.iter().map(|message| format!("{}\n", line(message))).collect(),
        AnalyzeFormat::Json => format!("{}\n", serde_json::to_string_pretty(&documents())?),
        AnalyzeFormat::Yaml => api::yaml::to_string(&documents()).map_err(anyhow::Error::msg)?,
    })
}

/// Returns a message in the form of `istioctl analyze`.
fn line(message: &Message) -> String {
    let Message { level, code, message: text, .. } = message;
    let place = [message.origin(), message.reference()].into_iter().filter(|part| !part.is_empty());
    format!("{level:?} [{code}] ({}) {text}", place.collect::<Vec<_>>().join(" "))
}

/// Returns a message with the fields of `istioctl analyze`, and the parts of its reference.
fn document(message: &Message) -> Value {
    let mut document = json!({
        "code": message.code,
        "level": message.level,
        "origin": message.origin(),
        "reference": message.reference(),
        "message": message.message,
        "field": message.field,
        "documentationUrl": page(message.code),
    });
    let parts = [("file", json!(message.file)), ("line", json!(message.line)), ("cluster", json!(message.cluster))];
    for (name, value) in parts.into_iter().filter(|(_, value)| !value.is_null()) {
        document[name] = value;
    }
    document
}

/// Returns the last line: how many messages there are.
pub(super) fn summary(messages: &[Message], places: &str) -> String {
    let of = |level: Severity| messages.iter().filter(|message| message.level == level).count();
    match messages.is_empty() {
        true => format!("no issues found in {places}"),
        false => format!(
            "{}, {}, {} in {places}",
            count(of(Severity::Error), "error"),
            count(of(Severity::Warning), "warning"),
            count(of(Severity::Info), "info message")
        ),
    }
}
