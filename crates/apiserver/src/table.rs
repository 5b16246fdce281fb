//! Objects as `kubectl get` prints them: `meta.k8s.io/v1` Tables.

mod age;
mod cell;
mod cluster;
mod extension;
mod jsonpath;
mod network;
mod pod;
#[cfg(test)]
mod tests;
mod workload;

use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::kinds::Kind;
use cell::{Cells, Heading, name};

/// A column that a CustomResourceDefinition asks for (`additionalPrinterColumns`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Column {
    /// Heading.
    pub(crate) name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub(crate) type_: String,
    /// OpenAPI format, often empty.
    pub(crate) format: String,
    /// For `kubectl explain`-like clients.
    pub(crate) description: String,
    /// 0 is always shown, others with `-o wide`.
    pub(crate) priority: i64,
    /// Simple JSONPath of the cell, such as `.spec.hosts[0]`.
    pub(crate) json_path: String,
}

/// What a row carries of its object (`includeObject` of the request).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Include {
    /// A PartialObjectMetadata.
    #[default]
    Metadata,
    /// The whole object.
    Object,
    /// Nothing.
    None,
}

impl Include {
    /// The value of the request's `includeObject` parameter.
    pub(crate) fn from_parameter(value: Option<&str>) -> Option<Self> {
        match value {
            None | Some("" | "Metadata") => Some(Self::Metadata),
            Some("Object") => Some(Self::Object),
            Some("None") => Some(Self::None),
            Some(_) => None,
        }
    }
}

/// A Table of `objects`, all of `kind`. The caller adds `metadata` (resourceVersion, continue) and may drop
/// `columnDefinitions` from all but the first event of a watch. `columns` are those of a custom resource.
pub(crate) fn render<'a>(
    kind: &Kind,
    objects: impl IntoIterator<Item = &'a Value>,
    columns: &[Column],
    include: Include,
    now: OffsetDateTime,
) -> Value {
    table(&Printer::of(kind, columns), objects, include, now)
}

/// A Table of one `autoscaling/v1` Scale, which is no resource of its own.
pub(crate) fn of_scale(scale: &Value, include: Include, now: OffsetDateTime) -> Value {
    let (headings, cells) = workload::SCALE;
    table(&Printer::BuiltIn(headings, cells), std::iter::once(scale), include, now)
}

fn table<'a>(
    printer: &Printer<'_>,
    objects: impl IntoIterator<Item = &'a Value>,
    include: Include,
    now: OffsetDateTime,
) -> Value {
    let rows: Vec<Value> = objects
        .into_iter()
        .map(|object| {
            let cells = printer.cells(object, now);
            match row_object(object, include) {
                Some(shown) => json!({"cells": cells, "object": shown}),
                None => json!({"cells": cells}),
            }
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": printer.definitions(),
        "rows": rows,
    })
}

/// How the objects of one kind become rows.
enum Printer<'a> {
    BuiltIn(&'static [Heading], Cells),
    Custom(&'a [Column]),
    /// Kinds of which there is nothing to say but name and creation.
    Plain,
    /// Custom resources that ask for no columns.
    Age,
}

impl<'a> Printer<'a> {
    fn of(kind: &Kind, columns: &'a [Column]) -> Self {
        let groups = [workload::printer, pod::printer, network::printer, cluster::printer, extension::printer];
        if let Some((headings, cells)) = groups.iter().find_map(|printer| printer(kind)) {
            return Self::BuiltIn(headings, cells);
        }
        if !columns.is_empty() {
            return Self::Custom(columns);
        }
        if crate::kinds::by_kind(&kind.group, &kind.version, &kind.kind).is_some() { Self::Plain } else { Self::Age }
    }

    fn definitions(&self) -> Vec<Value> {
        match self {
            Self::BuiltIn(headings, _) => headings
                .iter()
                .map(|heading| {
                    let format = if heading.name == "Name" { "name" } else { "" };
                    definition(heading.name, heading.type_, format, "", heading.priority)
                })
                .collect(),
            Self::Custom(columns) => std::iter::once(definition("Name", "string", "name", "", 0))
                .chain(columns.iter().map(|column| {
                    definition(&column.name, &column.type_, &column.format, &column.description, column.priority)
                }))
                .collect(),
            Self::Plain => {
                vec![definition("Name", "string", "name", "", 0), definition("Created At", "date", "", "", 0)]
            }
            Self::Age => vec![definition("Name", "string", "name", "", 0), definition("Age", "string", "", "", 0)],
        }
    }

    fn cells(&self, object: &Value, now: OffsetDateTime) -> Vec<Value> {
        match self {
            Self::BuiltIn(_, cells) => cells(object, now),
            Self::Custom(columns) => std::iter::once(name(object))
                .chain(columns.iter().map(|column| jsonpath::cell(object, &column.json_path, &column.type_, now)))
                .collect(),
            Self::Plain => vec![name(object), object["metadata"]["creationTimestamp"].clone()],
            Self::Age => vec![name(object), age::of(object, now)],
        }
    }
}

fn definition(name: &str, type_: &str, format: &str, description: &str, priority: i64) -> Value {
    json!({"name": name, "type": type_, "format": format, "description": description, "priority": priority})
}

fn row_object(object: &Value, include: Include) -> Option<Value> {
    match include {
        Include::None => None,
        Include::Object => Some(object.clone()),
        Include::Metadata => Some(json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": object["metadata"],
        })),
    }
}
