//! `meta.k8s.io/v1` Tables, which `kubectl get` prints.

mod age;
mod cell;
mod classes;
mod cluster;
mod extension;
mod jsonpath;
mod metrics;
mod network;
mod pod;
#[cfg(test)]
mod tests;
mod workload;

use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::kinds::ResourceKind;
use cell::{Cells, Heading, name};

/// A column of a CustomResourceDefinition (`additionalPrinterColumns`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PrinterColumn {
    /// Heading.
    pub(crate) name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub(crate) type_: String,
    /// OpenAPI format, often empty.
    pub(crate) format: String,
    /// Description of the column.
    pub(crate) description: String,
    /// Columns with priority 0 are always shown, others with `-o wide`.
    pub(crate) priority: i64,
    /// Simple JSONPath of the cell, such as `.spec.hosts[0]`.
    pub(crate) json_path: String,
}

/// The object in a row (`includeObject` of the request).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    /// A PartialObjectMetadata.
    #[default]
    Metadata,
    /// The whole object.
    Object,
    /// No object.
    None,
}

impl IncludeObject {
    /// Parses the `includeObject` parameter.
    pub(crate) fn from_parameter(value: Option<&str>) -> Option<Self> {
        match value {
            None | Some("" | "Metadata") => Some(Self::Metadata),
            Some("Object") => Some(Self::Object),
            Some("None") => Some(Self::None),
            Some(_) => None,
        }
    }
}

/// The Table of `objects`, all of `kind`. The caller adds `metadata` (resourceVersion, continue) and may remove
/// `columnDefinitions` from all events of a watch except the first. `columns` are those of a custom resource.
pub(crate) fn render<'a>(
    kind: &ResourceKind,
    objects: impl IntoIterator<Item = &'a Value>,
    columns: &[PrinterColumn],
    include: IncludeObject,
    now: OffsetDateTime,
) -> Value {
    table(&Printer::of(kind, columns), objects, include, now)
}

/// The Table of an `autoscaling/v1` Scale, which is no resource of its own.
pub(crate) fn of_scale(scale: &Value, include: IncludeObject, now: OffsetDateTime) -> Value {
    let (headings, cells) = workload::SCALE;
    table(&Printer::BuiltIn(headings, cells), std::iter::once(scale), include, now)
}

fn table<'a>(
    printer: &Printer<'_>,
    objects: impl IntoIterator<Item = &'a Value>,
    include: IncludeObject,
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

/// How the objects of a kind become rows.
enum Printer<'a> {
    BuiltIn(&'static [Heading], Cells),
    Custom(&'a [PrinterColumn]),
    /// Built-in kinds with only name and creation timestamp.
    Plain,
    /// Custom resources without columns.
    Age,
}

impl<'a> Printer<'a> {
    fn of(kind: &ResourceKind, columns: &'a [PrinterColumn]) -> Self {
        let groups = [
            workload::printer,
            pod::printer,
            network::printer,
            cluster::printer,
            classes::printer,
            extension::printer,
            metrics::printer,
        ];
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

fn row_object(object: &Value, include: IncludeObject) -> Option<Value> {
    match include {
        IncludeObject::None => None,
        IncludeObject::Object => Some(object.clone()),
        IncludeObject::Metadata => Some(json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": object["metadata"],
        })),
    }
}
