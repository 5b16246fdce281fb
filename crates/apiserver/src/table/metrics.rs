//! Usage of pods and nodes.

use serde_json::Value;
use time::OffsetDateTime;

use super::cell::{Cells, Heading, column, items, name};
use crate::kinds::ResourceKind;
use crate::quantity;

pub(super) fn printer(kind: &ResourceKind) -> Option<(&'static [Heading], Cells)> {
    Some(match (&*kind.group, &*kind.kind) {
        ("metrics.k8s.io", "NodeMetrics" | "PodMetrics") => (USAGE, usage),
        _ => return None,
    })
}

const USAGE: &[Heading] =
    &[column("Name", "string"), column("CPU", "string"), column("Memory", "string"), column("Window", "string")];

/// A pod has the usage of its containers, a node its own.
fn usage(object: &Value, _: OffsetDateTime) -> Vec<Value> {
    let parts = match object.get("containers") {
        Some(containers) => items(containers),
        None => std::slice::from_ref(object),
    };
    let sum = |resource: &str| -> f64 {
        parts.iter().filter_map(|part| quantity::parse(&part["usage"][resource])).sum::<f64>()
    };
    vec![
        name(object),
        quantity::from_nano((sum("cpu") * 1e9).round() as u64).into(),
        quantity::from_bytes(sum("memory") as u64).into(),
        object["window"].clone(),
    ]
}
