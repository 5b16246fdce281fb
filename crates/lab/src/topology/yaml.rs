//! Problems that the YAML parser finds in a topology file.

use std::path::Path;

use install::yaml_error;
use serde_saphyr::{Error, Location};

use super::diagnostic::{Diagnostic, Problem, with_nearest};

/// Creates the diagnostic of a text that the YAML parser refuses.
pub(super) fn diagnostic(path: &Path, text: &str, error: &Error) -> Box<Diagnostic> {
    let error = error.without_snippet();
    let problem = Problem {
        at: error.location().unwrap_or(Location::UNKNOWN),
        message: yaml_error::describe(error),
        hint: hint(error),
    };
    Box::new(problem.locate(path, text))
}

fn hint(error: &Error) -> Option<String> {
    let text = match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            let known = format!("known fields: {}", expected.join(", "));
            return Some(with_nearest(&known, field, expected.iter().copied()));
        }
        Error::SerdeMissingField { .. }
        | Error::SerdeInvalidType { .. }
        | Error::SerdeInvalidValue { .. }
        | Error::InvalidScalar { .. }
        | Error::InvalidBooleanStrict { .. }
        | Error::Unexpected { .. } => "docs/topology.md lists every field",
        Error::DuplicateMappingKey { .. } => "remove one of them",
        Error::Eof { .. } => "docs/topology.md has an example",
        Error::MultipleDocuments { .. } => "a topology file is one document",
        _ => return None,
    };
    Some(text.to_owned())
}
