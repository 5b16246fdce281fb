//! The fields of built-in kinds and their types, without descriptions: small enough to keep in memory.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::definitions;

/// Type of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FieldType {
    /// Any value, such as embedded JSON.
    Any,
    Boolean,
    Integer(&'static str),
    Number,
    String,
    /// Base64 in JSON.
    Bytes,
    /// RFC 3339.
    Time,
    /// A number or a string: quantities, `IntOrString`.
    NumberOrString,
    List(Box<FieldType>),
    /// String keys and values of one type.
    Map(Box<FieldType>),
    /// An object with named fields.
    Struct(StructId),
}

/// Index of a [`StructType`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StructId(usize);

/// An object with named fields.
#[derive(Debug)]
pub(crate) struct StructType {
    /// Schema name, such as `io.k8s.api.core.v1.PodSpec`.
    pub(crate) name: String,
    /// Types of the fields.
    pub(crate) fields: HashMap<String, FieldType>,
}

/// The structures of the built-in kinds.
#[derive(Debug, Default)]
pub(crate) struct TypeTable {
    structs: Vec<StructType>,
    ids: HashMap<String, StructId>,
}

static SHAPES: LazyLock<TypeTable> = LazyLock::new(|| TypeTable::new(&definitions::generate()));

/// The structures of the built-in kinds.
pub(crate) fn type_table() -> &'static TypeTable {
    &SHAPES
}

impl TypeTable {
    fn new(definitions: &Map<String, Value>) -> Self {
        let mut types = Self::default();
        for (name, definition) in definitions {
            if definition["properties"].is_object() {
                types.ids.insert(name.clone(), StructId(types.structs.len()));
                types.structs.push(StructType { name: name.clone(), fields: HashMap::new() });
            }
        }
        for index in 0..types.structs.len() {
            let properties = definitions[&types.structs[index].name]["properties"].as_object();
            let fields = properties.into_iter().flatten();
            let fields = fields.map(|(field, schema)| (field.clone(), types.type_of(schema, definitions))).collect();
            types.structs[index].fields = fields;
        }
        types
    }

    fn type_of(&self, schema: &Value, definitions: &Map<String, Value>) -> FieldType {
        if let Some(name) = definitions::reference(schema) {
            return match self.ids.get(name) {
                Some(id) => FieldType::Struct(*id),
                None => definitions.get(name).map_or(FieldType::Any, |target| self.type_of(target, definitions)),
            };
        }
        if schema["x-kubernetes-int-or-string"] == true {
            return FieldType::NumberOrString;
        }
        match schema["type"].as_str() {
            Some("boolean") => FieldType::Boolean,
            Some("integer") => FieldType::Integer(if schema["format"] == "int64" { "int64" } else { "int32" }),
            Some("number") => FieldType::Number,
            Some("string") => match schema["format"].as_str() {
                Some("byte") => FieldType::Bytes,
                Some("date-time") => FieldType::Time,
                _ => FieldType::String,
            },
            Some("array") => FieldType::List(Box::new(self.type_of(&schema["items"], definitions))),
            Some("object") if schema["additionalProperties"].is_object() => {
                FieldType::Map(Box::new(self.type_of(&schema["additionalProperties"], definitions)))
            }
            _ => FieldType::Any,
        }
    }

    /// The structure with an id.
    pub(crate) fn get(&self, id: StructId) -> &StructType {
        &self.structs[id.0]
    }

    /// The structure with a schema name.
    pub(crate) fn named(&self, name: &str) -> Option<StructId> {
        self.ids.get(name).copied()
    }

    /// The structure of a built-in kind.
    pub(crate) fn kind(&self, group: &str, version: &str, kind: &str) -> Option<StructId> {
        self.named(&definitions::name(group, version, kind))
    }

    /// The type of the field at `path` (field names and map keys without list indexes), and the structure and name of
    /// the field if it is a field of a structure.
    pub(crate) fn at<'a>(
        &'a self,
        root: StructId,
        path: &'a [&'a str],
    ) -> Option<(&'a FieldType, Option<(&'a StructType, &'a str)>)> {
        let (first, rest) = path.split_first()?;
        let structure = self.get(root);
        let mut current = structure.fields.get(*first)?;
        let mut place = Some((structure, *first));
        for name in rest {
            while let FieldType::List(item) = current {
                current = item;
            }
            (current, place) = match current {
                FieldType::Struct(id) => {
                    let structure = self.get(*id);
                    (structure.fields.get(*name)?, Some((structure, *name)))
                }
                FieldType::Map(value) => (&**value, None),
                _ => return None,
            };
        }
        Some((current, place))
    }
}
