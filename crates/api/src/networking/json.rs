//! The JSON form of protobuf messages, with the path of every field that cannot be read.

mod values;

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::problem::Problem;

/// The number of problems that are kept of one object. A person mends the first ones first.
pub(crate) const MAX_PROBLEMS: usize = 100;

/// A value of a field.
pub(crate) trait Field: Default {
    /// Reads the value. Reports what cannot be read, and returns the default instead.
    fn read(value: &Value, reader: &mut Reader) -> Self;

    /// Returns the JSON form.
    fn json(&self) -> Value;

    /// Returns whether the JSON form leaves the field out.
    fn is_unset(&self) -> bool;
}

/// Reads fields, and collects what is wrong with them.
pub(crate) struct Reader {
    path: String,
    problems: Vec<Problem>,
}

impl Reader {
    /// Reads the spec of an object of a kind. `required`: an object without one is invalid.
    pub(crate) fn spec<T: Field>(
        kind: &str,
        required: bool,
        object: &Value,
        spec: Option<Cow<'_, Value>>,
    ) -> (T, Vec<Problem>) {
        let mut reader = Reader { path: "spec".to_owned(), problems: Vec::new() };
        let spec = match spec.as_deref() {
            None | Some(Value::Null) => {
                if required {
                    reader.report("is missing; write what the object is to do");
                }
                T::default()
            }
            Some(value) => T::read(value, &mut reader),
        };
        for tolerated in crate::compatibility::fields::warnings(kind, object) {
            reader.push(Problem::warning(tolerated.field, tolerated.message));
        }
        (spec, reader.problems)
    }

    /// Reads a spec by itself.
    pub(crate) fn value<T: Field>(value: &Value) -> (T, Vec<Problem>) {
        let mut reader = Reader { path: "spec".to_owned(), problems: Vec::new() };
        let spec = T::read(value, &mut reader);
        (spec, reader.problems)
    }

    /// Reads a field of an object.
    pub(crate) fn field<T: Field>(&mut self, map: &Map<String, Value>, name: &str) -> T {
        match map.get(name) {
            None | Some(Value::Null) => T::default(),
            Some(value) => self.inside(format_args!(".{name}"), |reader| T::read(value, reader)),
        }
    }

    /// Reads the fields of an object.
    pub(crate) fn object<'a>(&mut self, value: &'a Value) -> Option<&'a Map<String, Value>> {
        if value.as_object().is_none() {
            self.unexpected(value, "an object");
        }
        value.as_object()
    }

    /// Warns of the fields of an object that it does not have.
    pub(crate) fn unknown(&mut self, map: &Map<String, Value>, known: &[&str]) {
        for name in map.keys().filter(|name| !known.contains(&name.as_str())) {
            // The table of tolerated fields has a text of its own for these.
            if !crate::compatibility::fields::is_tolerated(name) {
                let field = format!("{}.{}", self.path, shown(name));
                self.push(Problem::unknown_field(field));
            }
        }
    }

    pub(crate) fn inside<T>(&mut self, step: std::fmt::Arguments<'_>, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        self.path.write_fmt(step).expect("a String takes what is written");
        let value = read(self);
        self.path.truncate(length);
        value
    }

    pub(crate) fn unexpected(&mut self, found: &Value, expected: &str) {
        let found: String = found.to_string().chars().take(80).collect();
        self.report(format!("is {found}, but must be {expected}"));
    }

    pub(crate) fn report(&mut self, message: impl Into<String>) {
        self.push(Problem::error(&*self.path, message));
    }

    fn push(&mut self, problem: Problem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }
}

/// Returns the field `spec` of an object.
pub(crate) fn spec_of(object: &Value) -> Option<Cow<'_, Value>> {
    object.get("spec").map(Cow::Borrowed)
}

/// Returns a text of a user, shortened for messages.
pub(crate) fn shown(text: &str) -> &str {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// Defines a message: a struct whose fields have names in JSON.
macro_rules! message {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty = $json:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)*
        }

        impl $crate::networking::json::Field for $name {
            fn read(value: &serde_json::Value, reader: &mut $crate::networking::json::Reader) -> Self {
                let Some(map) = reader.object(value) else { return Self::default() };
                let message = $name { $($field: reader.field(map, $json),)* };
                reader.unknown(map, &[$($json),*]);
                message
            }

            fn json(&self) -> serde_json::Value {
                use $crate::networking::json::Field;
                let mut map = serde_json::Map::new();
                $(
                    if !Field::is_unset(&self.$field) {
                        map.insert($json.to_owned(), Field::json(&self.$field));
                    }
                )*
                serde_json::Value::Object(map)
            }

            fn is_unset(&self) -> bool {
                false
            }
        }
    };
}

/// Defines an enum whose variants have names in JSON.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $json:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// Returns the name in JSON.
            pub fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $json,)*
                }
            }
        }

        impl $crate::networking::json::Field for $name {
            fn read(value: &serde_json::Value, reader: &mut $crate::networking::json::Reader) -> Self {
                match value.as_str() {
                    $(Some($json) => $name::$variant,)*
                    _ => {
                        reader.unexpected(value, &format!("one of {}", [$($json),*].join(", ")));
                        Self::default()
                    }
                }
            }

            fn json(&self) -> serde_json::Value {
                self.as_str().into()
            }

            fn is_unset(&self) -> bool {
                *self == Self::default()
            }
        }
    };
}

/// Defines an object of a kind with a spec, which is always readable. `optional`: without a spec, it has an empty one.
/// The version is the one in which objects are read; without one, it is `v1`. `in`: the function that finds the spec.
macro_rules! object {
    ($(#[$about:meta])* $name:ident: $spec:ident, $group:literal, $kind:literal, $plural:literal) => {
        $crate::networking::json::object!(
            @define true, $crate::networking::json::spec_of, "v1", $(#[$about])* $name: $spec, $group, $kind, $plural
        );
    };
    ($(#[$about:meta])* $name:ident: optional $spec:ident, $group:literal, $kind:literal, $plural:literal) => {
        $crate::networking::json::object!(
            @define false, $crate::networking::json::spec_of, "v1", $(#[$about])* $name: $spec, $group, $kind, $plural
        );
    };
    ($(#[$about:meta])* $name:ident: $spec:ident, $group:literal, $version:literal, $kind:literal, $plural:literal) => {
        $crate::networking::json::object!(
            @define true, $crate::networking::json::spec_of, $version,
            $(#[$about])* $name: $spec, $group, $kind, $plural
        );
    };
    (
        $(#[$about:meta])* $name:ident: $spec:ident in $spec_of:path,
        $group:literal, $version:literal, $kind:literal, $plural:literal
    ) => {
        $crate::networking::json::object!(
            @define true, $spec_of, $version, $(#[$about])* $name: $spec, $group, $kind, $plural
        );
    };
    (
        @define $required:literal, $spec_of:path, $version:literal,
        $(#[$about:meta])* $name:ident: $spec:ident, $group:literal, $kind:literal, $plural:literal
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct $name {
            /// The metadata.
            pub metadata: kube::core::ObjectMeta,
            /// The spec.
            pub spec: $spec,
            /// What could not be read.
            pub(crate) unread: Vec<$crate::networking::Problem>,
        }

        impl $name {
            /// Reads an object as Kubernetes has it. What cannot be read is unset, and `validate` reports it.
            pub fn from_value(object: &serde_json::Value) -> Self {
                let metadata = object.get("metadata").cloned().unwrap_or_default();
                let (spec, unread) = $crate::networking::json::Reader::spec($kind, $required, object, $spec_of(object));
                $name { metadata: serde_json::from_value(metadata).unwrap_or_default(), spec, unread }
            }
        }

        impl $crate::networking::Validated for $name {
            type Spec = $spec;

            fn into_validated(self) -> (kube::core::ObjectMeta, $spec, Vec<$crate::networking::Problem>) {
                let problems = self.validate();
                (self.metadata, self.spec, problems)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                serde_json::Value::deserialize(deserializer).map(|object| Self::from_value(&object))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeStruct as _;
                let mut object = serializer.serialize_struct($kind, 4)?;
                object.serialize_field("apiVersion", concat!($group, "/", $version))?;
                object.serialize_field("kind", $kind)?;
                object.serialize_field("metadata", &self.metadata)?;
                object.serialize_field("spec", &self.spec)?;
                object.end()
            }
        }

        impl<'de> serde::Deserialize<'de> for $spec {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = serde_json::Value::deserialize(deserializer)?;
                let (spec, problems) = $crate::networking::json::Reader::value(&value);
                match problems.iter().find(|problem| problem.is_error()) {
                    Some(problem) => Err(serde::de::Error::custom(problem)),
                    None => Ok(spec),
                }
            }
        }

        impl serde::Serialize for $spec {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $crate::networking::json::Field::json(self).serialize(serializer)
            }
        }

        $crate::resource::resource!(
            $name,
            $group,
            $version,
            $kind,
            $plural,
            kube::core::NamespaceResourceScope
        );
    };
}

pub(crate) use {message, object, words};
