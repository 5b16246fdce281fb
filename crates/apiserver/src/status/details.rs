//! Details of a `Status`: the object, and the causes.

use serde_json::{Value, json};

/// `metav1.StatusDetails`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StatusDetails {
    /// Name of the object.
    pub(crate) name: String,
    /// API group of the resource or kind.
    pub(crate) group: String,
    /// Resource name, or the kind for validation errors.
    pub(crate) kind: String,
    /// UID of the object.
    pub(crate) uid: String,
    /// Errors of single fields.
    pub(crate) causes: Vec<StatusCause>,
    /// When to retry, in seconds; 0 if unknown.
    pub(crate) retry_after_seconds: u32,
}

/// `metav1.StatusCause`: an error of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StatusCause {
    /// Machine-readable reason, such as `FieldValueRequired`.
    pub(crate) reason: String,
    /// Human-readable message without the field's name.
    pub(crate) message: String,
    /// Path of the field, such as `spec.containers[0].image`.
    pub(crate) field: String,
}

impl StatusDetails {
    pub(super) fn to_value(&self) -> Value {
        let mut value = json!({});
        for (key, text) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)] {
            if !text.is_empty() {
                value[key] = json!(text);
            }
        }
        if !self.causes.is_empty() {
            value["causes"] = self.causes.iter().map(StatusCause::to_value).collect();
        }
        if self.retry_after_seconds != 0 {
            value["retryAfterSeconds"] = json!(self.retry_after_seconds);
        }
        value
    }
}

impl StatusCause {
    /// An error of one field.
    pub(crate) fn new(reason: &str, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into(), field: field.into() }
    }

    fn to_value(&self) -> Value {
        let mut value = json!({ "reason": self.reason, "message": self.message });
        if !self.field.is_empty() {
            value["field"] = json!(self.field);
        }
        value
    }
}
