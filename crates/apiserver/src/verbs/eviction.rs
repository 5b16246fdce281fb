//! `pods/eviction`: deletes a pod unless a PodDisruptionBudget forbids it.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::delete;
use crate::body::{self, ResponseBody};
use crate::call::ApiCall;
use crate::object;
use crate::selectors::label_selector_matches;
use crate::status::{Result, Status};
use crate::storage::GroupResource;

/// `POST …/eviction`.
pub(crate) async fn create(call: &ApiCall, bytes: Bytes) -> Result<Response<ResponseBody>> {
    let eviction = body::decode(&call.content_type, &bytes)?;
    let current = call.api.get(&call.served, &call.route.namespace, &call.route.name)?;
    let options = delete::parse_options(call, eviction.get("deleteOptions").unwrap_or(&Value::Null))?;
    if let Some(budget) = exhausted_budget(call, &current) {
        let mut status =
            Status::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", 0);
        status.message.push_str(&format!(" The disruption budget {budget} does not allow a disruption now."));
        return Err(status);
    }
    delete::begin(&call.api, &call.served.kind, &current, &options)?;
    Ok(body::json(
        StatusCode::CREATED,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}

/// A budget that selects the pod and allows no disruption. A budget without a status from a controller is ignored.
fn exhausted_budget(call: &ApiCall, pod: &Value) -> Option<String> {
    let budgets =
        call.api.store.list(&GroupResource::new("policy", "poddisruptionbudgets"), Some(&call.route.namespace)).1;
    let exhausted = budgets.iter().find(|budget| {
        let written = budget["status"].as_object().filter(|status| !status.is_empty());
        // A client that writes protobuf leaves zero away.
        let allowed = written.map(|status| status.get("disruptionsAllowed").and_then(Value::as_i64).unwrap_or(0));
        let selector = budget.pointer("/spec/selector").unwrap_or(&Value::Null);
        allowed == Some(0) && label_selector_matches(selector, pod.pointer("/metadata/labels"))
    });
    exhausted.map(|budget| object::name(budget).to_owned())
}
