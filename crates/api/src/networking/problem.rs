//! What is wrong with an object.

use std::fmt;

/// How bad a [`Problem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub enum Severity {
    /// The object is refused. If it is stored nevertheless, it has no effect.
    Error,
    /// The object has effect, but likely not as its author means it.
    Warning,
    /// The object has a part that changes nothing.
    Info,
}

/// Something that is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The code of the message, as `istioctl analyze` prints it.
    pub code: &'static str,
    /// The path of the field, such as `spec.http[0].route[1].weight`.
    pub field: String,
    /// What is wrong, and what to write instead.
    pub message: String,
}

/// The code of errors that Istio's validation finds.
pub const SCHEMA_ERROR: &str = "IST0106";
/// The code of warnings that Istio's validation finds.
pub const SCHEMA_WARNING: &str = "IST0133";

impl Problem {
    /// Returns an error of validation.
    pub fn error(field: impl Into<String>, message: impl Into<String>) -> Self {
        Problem { severity: Severity::Error, code: SCHEMA_ERROR, field: field.into(), message: message.into() }
    }

    /// Returns a warning of validation.
    pub fn warning(field: impl Into<String>, message: impl Into<String>) -> Self {
        Problem { severity: Severity::Warning, code: SCHEMA_WARNING, field: field.into(), message: message.into() }
    }

    /// Returns the warning of a field that the API does not have. It has the code of an error: an API server refuses such a
    /// field of an object that `kubectl` applies, but other clients can store it.
    pub(super) fn unknown_field(field: String) -> Self {
        let message = "is not a field of the API and has no effect; correct or remove it";
        Problem { code: SCHEMA_ERROR, ..Problem::warning(field, message) }
    }

    /// Returns whether the object is refused.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}
