//! The built-in kinds' fields and their types, without the prose: small enough to keep, and quick to walk along an object.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::definitions;

/// Type of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// Anything, such as embedded JSON.
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
    List(Box<Type>),
    /// String keys to values of one type.
    Map(Box<Type>),
    /// Named fields.
    Struct(StructId),
}

/// Index of a [`Struct`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StructId(usize);

/// An object with named fields.
#[derive(Debug)]
pub(crate) struct Struct {
    /// Schema name, such as `io.k8s.api.core.v1.PodSpec`.
    pub(crate) name: String,
    /// Type of each field.
    pub(crate) fields: HashMap<String, Type>,
}

/// All built-in structures.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    structs: Vec<Struct>,
    ids: HashMap<String, StructId>,
}

static SHAPES: LazyLock<Shapes> = LazyLock::new(|| Shapes::new(&definitions::generate()));

/// The structures of the built-in kinds.
pub(crate) fn shapes() -> &'static Shapes {
    &SHAPES
}

impl Shapes {
    fn new(definitions: &Map<String, Value>) -> Self {
        let mut shapes = Self::default();
        for (name, definition) in definitions {
            if definition["properties"].is_object() {
                shapes.ids.insert(name.clone(), StructId(shapes.structs.len()));
                shapes.structs.push(Struct { name: name.clone(), fields: HashMap::new() });
            }
        }
        for index in 0..shapes.structs.len() {
            let properties = definitions[&shapes.structs[index].name]["properties"].as_object();
            let fields = properties.into_iter().flatten();
            let fields = fields.map(|(field, schema)| (field.clone(), shapes.type_of(schema, definitions))).collect();
            shapes.structs[index].fields = fields;
        }
        shapes
    }

    fn type_of(&self, schema: &Value, definitions: &Map<String, Value>) -> Type {
        if let Some(name) = definitions::reference(schema) {
            return match self.ids.get(name) {
                Some(id) => Type::Struct(*id),
                None => definitions.get(name).map_or(Type::Any, |target| self.type_of(target, definitions)),
            };
        }
        if schema["x-kubernetes-int-or-string"] == true {
            return Type::NumberOrString;
        }
        match schema["type"].as_str() {
            Some("boolean") => Type::Boolean,
            Some("integer") => Type::Integer(if schema["format"] == "int64" { "int64" } else { "int32" }),
            Some("number") => Type::Number,
            Some("string") => match schema["format"].as_str() {
                Some("byte") => Type::Bytes,
                Some("date-time") => Type::Time,
                _ => Type::String,
            },
            Some("array") => Type::List(Box::new(self.type_of(&schema["items"], definitions))),
            Some("object") if schema["additionalProperties"].is_object() => {
                Type::Map(Box::new(self.type_of(&schema["additionalProperties"], definitions)))
            }
            _ => Type::Any,
        }
    }

    /// The structure behind an id.
    pub(crate) fn get(&self, id: StructId) -> &Struct {
        &self.structs[id.0]
    }

    /// The structure of that schema name.
    pub(crate) fn named(&self, name: &str) -> Option<StructId> {
        self.ids.get(name).copied()
    }

    /// The structure of a built-in kind.
    pub(crate) fn kind(&self, group: &str, version: &str, kind: &str) -> Option<StructId> {
        self.named(&definitions::name(group, version, kind))
    }

    /// What `path` (field names and map keys; indexes left out) leads to: its type, and the structure and field it was found
    /// in, if it is a field of a structure.
    pub(crate) fn at<'a>(
        &'a self,
        root: StructId,
        path: &'a [&'a str],
    ) -> Option<(&'a Type, Option<(&'a Struct, &'a str)>)> {
        let (first, rest) = path.split_first()?;
        let structure = self.get(root);
        let mut current = structure.fields.get(*first)?;
        let mut place = Some((structure, *first));
        for name in rest {
            while let Type::List(item) = current {
                current = item;
            }
            (current, place) = match current {
                Type::Struct(id) => {
                    let structure = self.get(*id);
                    (structure.fields.get(*name)?, Some((structure, *name)))
                }
                Type::Map(value) => (&**value, None),
                _ => return None,
            };
        }
        Some((current, place))
    }
}
