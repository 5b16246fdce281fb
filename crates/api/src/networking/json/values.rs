//! The values of fields: texts, numbers, durations, lists and maps.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::{Field, Reader, shown};
use crate::duration::parse_duration;

impl Field for String {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        if !value.is_string() {
            reader.unexpected(value, "text; write it in quotes");
        }
        value.as_str().unwrap_or_default().to_owned()
    }

    fn json(&self) -> Value {
        self.as_str().into()
    }

    fn is_unset(&self) -> bool {
        self.is_empty()
    }
}

impl Field for bool {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        if !value.is_boolean() {
            reader.unexpected(value, "true or false");
        }
        value.as_bool().unwrap_or_default()
    }

    fn json(&self) -> Value {
        Value::Bool(*self)
    }

    fn is_unset(&self) -> bool {
        !self
    }
}

/// Integers: a number without a fraction, or the same in a string.
macro_rules! integer {
    ($type:ty) => {
        impl Field for $type {
            fn read(value: &Value, reader: &mut Reader) -> Self {
                let number = match value {
                    Value::Number(number) => match number.as_i128() {
                        Some(number) => Some(number),
                        None => number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 1e18).map(|n| n as i128),
                    },
                    Value::String(text) => text.parse().ok(),
                    _ => None,
                };
                number.and_then(|number| number.try_into().ok()).unwrap_or_else(|| {
                    reader.unexpected(value, &format!("an integer from {} to {}", <$type>::MIN, <$type>::MAX));
                    Self::default()
                })
            }

            fn json(&self) -> Value {
                (*self).into()
            }

            fn is_unset(&self) -> bool {
                *self == 0
            }
        }
    };
}

integer!(i32);
integer!(u32);
integer!(u64);

impl Field for f64 {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        let number = match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        number.filter(|number: &f64| number.is_finite()).unwrap_or_else(|| {
            reader.unexpected(value, "a number");
            0.0
        })
    }

    fn json(&self) -> Value {
        (*self).into()
    }

    fn is_unset(&self) -> bool {
        *self == 0.0
    }
}

impl Field for Duration {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        value.as_str().and_then(parse_duration).unwrap_or_else(|| {
            reader.unexpected(value, "a duration such as \"10s\", \"1.5s\" or \"250ms\"");
            Duration::ZERO
        })
    }

    fn json(&self) -> Value {
        let (seconds, nanos) = (self.as_secs(), self.subsec_nanos());
        let fraction = format!("{nanos:09}");
        let fraction = fraction.trim_end_matches('0');
        let text = if fraction.is_empty() { format!("{seconds}s") } else { format!("{seconds}.{fraction}s") };
        text.into()
    }

    fn is_unset(&self) -> bool {
        false
    }
}

/// A field that is unset or has a value, which may be the type's default.
impl<T: Field> Field for Option<T> {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        (!value.is_null()).then(|| T::read(value, reader))
    }

    fn json(&self) -> Value {
        self.as_ref().map(T::json).unwrap_or_default()
    }

    fn is_unset(&self) -> bool {
        self.is_none()
    }
}

impl<T: Field> Field for Vec<T> {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        let Some(items) = value.as_array() else {
            reader.unexpected(value, "a list");
            return Vec::new();
        };
        let read = |(index, item): (usize, &Value)| {
            reader.inside(format_args!("[{index}]"), |reader| {
                if item.is_null() {
                    reader.report("must not be null; remove it");
                    return T::default();
                }
                T::read(item, reader)
            })
        };
        items.iter().enumerate().map(read).collect()
    }

    fn json(&self) -> Value {
        self.iter().map(T::json).collect()
    }

    fn is_unset(&self) -> bool {
        self.is_empty()
    }
}

impl<T: Field> Field for BTreeMap<String, T> {
    fn read(value: &Value, reader: &mut Reader) -> Self {
        let Some(map) = reader.object(value) else { return BTreeMap::new() };
        let read = |(name, item): (&String, &Value)| {
            let item = reader.inside(format_args!("[{}]", shown(name)), |reader| {
                if item.is_null() {
                    reader.report("must not be null; remove it");
                    return T::default();
                }
                T::read(item, reader)
            });
            (name.clone(), item)
        };
        map.iter().map(read).collect()
    }

    fn json(&self) -> Value {
        Value::Object(self.iter().map(|(name, item)| (name.clone(), item.json())).collect())
    }

    fn is_unset(&self) -> bool {
        self.is_empty()
    }
}
