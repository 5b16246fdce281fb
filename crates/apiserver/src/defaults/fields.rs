//! Reading and setting the fields of an object that is being defaulted.

use serde_json::{Map, Value, json};

/// The object in `field`, created if absent. Returns None if the field has another type, which validation reports.
pub(super) fn object<'a>(parent: &'a mut Value, field: &str) -> Option<&'a mut Value> {
    let fields = parent.as_object_mut()?;
    let value = fields.entry(field).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value.is_object().then_some(value)
}

/// Sets `field` if it is absent or null.
pub(super) fn set(parent: &mut Value, field: &str, value: impl Into<Value>) {
    let Some(fields) = parent.as_object_mut() else { return };
    if fields.get(field).is_none_or(Value::is_null) {
        fields.insert(field.to_owned(), value.into());
    }
}

/// Sets `field` if it is absent, null or an empty string, which Kubernetes treats as absent in most string fields.
pub(super) fn set_text(parent: &mut Value, field: &str, value: &str) {
    let Some(fields) = parent.as_object_mut() else { return };
    if fields.get(field).is_none_or(|present| present.is_null() || present == "") {
        fields.insert(field.to_owned(), value.into());
    }
}

/// The items of the list in `field`.
pub(super) fn each<'a>(parent: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    parent.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The value of `field` if it is an object.
pub(super) fn present<'a>(parent: &'a mut Value, field: &str) -> Option<&'a mut Value> {
    parent.get_mut(field).filter(|value| value.is_object())
}

pub(super) fn empty() -> Value {
    json!({})
}
