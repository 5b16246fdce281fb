//! Errors of fields, with the messages of Kubernetes' `field.Error`.

use std::fmt::{self, Display, Write as _};

use serde_json::Value;

use crate::status::StatusCause;

/// Path of a field: `spec.containers[0].name`.
#[derive(Clone, Debug)]
pub(super) struct FieldPath(String);

impl FieldPath {
    pub(super) fn root(field: &str) -> Self {
        Self(field.to_owned())
    }

    pub(super) fn child(&self, field: &str) -> Self {
        Self(if self.0.is_empty() { field.to_owned() } else { format!("{}.{field}", self.0) })
    }

    pub(super) fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    pub(super) fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

impl Display for FieldPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The errors of an object.
#[derive(Debug, Default)]
pub(super) struct FieldErrors(Vec<StatusCause>);

impl FieldErrors {
    pub(super) fn into_causes(self) -> Vec<StatusCause> {
        self.0
    }

    fn add(&mut self, reason: &str, path: &FieldPath, message: String) {
        self.0.push(StatusCause::new(reason, path.0.clone(), message));
    }

    pub(super) fn required(&mut self, path: &FieldPath, detail: &str) {
        self.add("FieldValueRequired", path, with_detail("Required value", detail));
    }

    pub(super) fn invalid(&mut self, path: &FieldPath, value: impl Into<Value>, detail: &str) {
        self.add("FieldValueInvalid", path, with_detail(&format!("Invalid value: {}", shown(&value.into())), detail));
    }

    pub(super) fn duplicate(&mut self, path: &FieldPath, value: impl Into<Value>) {
        self.add("FieldValueDuplicate", path, format!("Duplicate value: {}", shown(&value.into())));
    }

    pub(super) fn not_found(&mut self, path: &FieldPath, value: impl Into<Value>) {
        self.add("FieldValueNotFound", path, format!("Not found: {}", shown(&value.into())));
    }

    pub(super) fn forbidden(&mut self, path: &FieldPath, detail: &str) {
        self.add("FieldValueForbidden", path, with_detail("Forbidden", detail));
    }

    pub(super) fn too_long(&mut self, path: &FieldPath, most: usize) {
        self.add("FieldValueTooLong", path, format!("Too long: may not be more than {most} bytes"));
    }

    /// Requires that `value` is one of `supported`.
    pub(super) fn one_of(&mut self, path: &FieldPath, value: &Value, supported: &[&str]) {
        match value.as_str() {
            None | Some("") => self.required(path, ""),
            Some(text) if supported.contains(&text) => {}
            Some(text) => {
                let listed = supported.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
                let message = format!("Unsupported value: {text:?}: supported values: {listed}");
                self.add("FieldValueNotSupported", path, message);
            }
        }
    }

    /// Requires that `value`, if present, is not negative.
    pub(super) fn not_negative(&mut self, path: &FieldPath, value: &Value) {
        if let Some(number) = value.as_i64().filter(|number| *number < 0) {
            self.invalid(path, number, "must be greater than or equal to 0");
        }
    }

    /// Requires that `value` is unchanged.
    pub(super) fn immutable(&mut self, path: &FieldPath, value: &Value, old: &Value) {
        if !same(value, old) {
            self.invalid(path, value.clone(), "field is immutable");
        }
    }
}

/// Returns whether two values are equal, where absent and empty are equal too.
pub(super) fn same(one: &Value, other: &Value) -> bool {
    one == other || (is_empty(one) && is_empty(other))
}

pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn with_detail(what: &str, detail: &str) -> String {
    if detail.is_empty() { what.to_owned() } else { format!("{what}: {detail}") }
}

/// Maps of strings are printed in Go's syntax, as Kubernetes prints them.
fn shown(value: &Value) -> String {
    match value {
        Value::Object(map) if !map.is_empty() && map.values().all(Value::is_string) => {
            let mut text = String::from("map[string]string{");
            for (index, (key, value)) in map.iter().enumerate() {
                let comma = if index == 0 { "" } else { ", " };
                let _ = write!(text, "{comma}{key:?}:{value}");
            }
            text + "}"
        }
        other => other.to_string(),
    }
}

// Access to the fields of objects.

pub(super) fn items(value: &Value) -> impl Iterator<Item = (usize, &Value)> {
    value.as_array().map_or(&[][..], Vec::as_slice).iter().enumerate()
}

pub(super) fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(serde_json::Map::iter)
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}
