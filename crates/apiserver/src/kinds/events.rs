//! Conversion of Events: an `events.k8s.io/v1` Event is stored as a core `v1` Event, so that both resources list all
//! Events (`kubectl describe` reads core Events, client libraries write `events.k8s.io` Events).
//!
//! The fields are those of Kubernetes' conversion (`pkg/apis/events/v1/conversion.go`).

use serde_json::{Map, Value};

/// Names of the same field: core name, events.k8s.io name.
const RENAMED: [(&str, &str); 6] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Converts an `events.k8s.io/v1` Event to a core Event.
pub(crate) fn to_stored(event: &mut Value) {
    let Some(fields) = event.as_object_mut() else { return };
    for (core, newer) in RENAMED {
        rename(fields, newer, core);
    }
    rename(fields, "reportingController", "reportingComponent");
    fields.insert("apiVersion".into(), "v1".into());
}

/// Converts a core Event to an `events.k8s.io/v1` Event.
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
