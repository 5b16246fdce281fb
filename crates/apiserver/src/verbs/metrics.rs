//! `metrics.k8s.io`: the usage of pods and nodes, as metrics-server serves it to `kubectl top`.
//!
//! The node agent measures. An object that it has not measured yet is absent, and nothing can be watched. An object has the
//! labels of its pod or node, and is selected by them, by `metadata.name` and by `metadata.namespace`.

use std::sync::Arc;

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::read;
use crate::body::ResponseBody;
use crate::call::{ApiCall, Verb};
use crate::encode::{self, ListPage};
use crate::kinds::{self, ResourceKind};
use crate::status::{Result, Status};
use crate::storage::{GroupResource, StoredObject};
use crate::stream::{MeasuredUsage, Usage};
use crate::{object, quantity, timestamp};

/// Serves `get` and `list`.
pub(crate) async fn answer(call: &ApiCall) -> Result<Response<ResponseBody>> {
    let kind = &call.served.kind;
    if call.verb == Verb::Watch {
        return Err(Status::watch_not_supported(kind));
    }
    let measured = measured_kind(kind)?;
    let agent = call.api.node.as_ref();
    let agent = agent.ok_or_else(|| Status::unavailable("no node agent is configured for this cluster's pods"))?;
    let stored = GroupResource::of(measured);
    if call.verb == Verb::Get {
        let found = call.api.store.get(&stored, &call.route.namespace, &call.route.name);
        let found = found.ok_or_else(|| Status::not_found(measured, &call.route.name))?;
        let metrics = metrics_of(kind, &found, &agent.usage().await?);
        let metrics = metrics.ok_or_else(|| not_measured(kind, &found))?;
        return Ok(encode::object_response(&call.served, call.format, StatusCode::OK, &metrics));
    }
    let selector = read::selector(call)?;
    let usage = agent.usage().await?;
    let found = call.api.store.list(&stored, read::namespace(call)).1;
    let selected = found.iter().filter(|object| selector.matches(object));
    let objects: Vec<StoredObject> =
        selected.filter_map(|object| metrics_of(kind, object, &usage)).map(Arc::new).collect();
    let page = ListPage { revision: None, objects: &objects, next: None, remaining: None };
    Ok(encode::list_response(&call.served, call.format, &page))
}

/// The kind of the objects that are measured.
fn measured_kind(kind: &ResourceKind) -> Result<&'static ResourceKind> {
    kinds::by_resource("", "v1", &kind.plural).ok_or_else(Status::no_such_resource)
}

/// The error for an object that exists and has not been measured, in the words of metrics-server.
fn not_measured(kind: &ResourceKind, object: &Value) -> Status {
    let kind = ResourceKind { plural: kind.singular.clone(), ..kind.clone() };
    let name = match object::namespace(object) {
        "" => object::name(object).to_owned(),
        namespace => format!("{namespace}/{}", object::name(object)),
    };
    Status::not_found(&kind, &name)
}

/// The metrics of a pod or node; None if it has not been measured.
fn metrics_of(kind: &ResourceKind, measured: &Value, usage: &MeasuredUsage) -> Option<Value> {
    let mut metadata = json!({"name": object::name(measured), "creationTimestamp": timestamp::now()});
    if kind.namespaced {
        metadata["namespace"] = json!(object::namespace(measured));
    }
    if let Some(labels) = measured.pointer("/metadata/labels") {
        metadata["labels"] = labels.clone();
    }
    let mut metrics = json!({
        "kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata,
        "timestamp": usage.timestamp, "window": usage.window,
    });
    if kind.namespaced {
        let containers = usage.pods.get(object::uid(measured))?;
        metrics["containers"] =
            containers.iter().map(|(name, usage)| json!({"name": name, "usage": quantities(*usage)})).collect();
    } else {
        metrics["usage"] = quantities(*usage.nodes.get(object::name(measured))?);
    }
    Some(metrics)
}

fn quantities(usage: Usage) -> Value {
    json!({"cpu": quantity::from_nano(usage.cpu), "memory": quantity::from_bytes(usage.memory)})
}
