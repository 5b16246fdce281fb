//! Two forms of one object: an `events.k8s.io/v1` Event is kept as a core `v1` Event, so that what is written in either form is
//! listed by both (`kubectl describe` reads the core form; client libraries write the newer one).
//!
//! Field pairs as in Kubernetes' own conversion (`pkg/apis/events/v1/conversion.go`).

use serde_json::{Map, Value};

/// (core name, events.k8s.io name) of fields that are the same but for their name.
const RENAMED: [(&str, &str); 6] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Turns an `events.k8s.io/v1` Event into the core form.
pub(crate) fn to_stored(event: &mut Value) {
    let Some(fields) = event.as_object_mut() else { return };
    for (core, newer) in RENAMED {
        rename(fields, newer, core);
    }
    rename(fields, "reportingController", "reportingComponent");
    fields.insert("apiVersion".into(), "v1".into());
}

/// Turns a core Event into the `events.k8s.io/v1` form.
pub(crate) fn from_stored(event: &mut Value) {
    let Some(fields) = event.as_object_mut() else { return };
    for (core, newer) in RENAMED {
        rename(fields, core, newer);
    }
    rename(fields, "reportingComponent", "reportingController");
    fields.insert("apiVersion".into(), "events.k8s.io/v1".into());
}

fn rename(fields: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = fields.remove(from) {
        fields.insert(to.to_owned(), value);
    }
}
