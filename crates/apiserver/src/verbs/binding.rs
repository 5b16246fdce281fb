//! `pods/binding`: assigns a pod to a node.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::body::{self, ResponseBody};
use crate::call::ApiCall;
use crate::object;
use crate::status::{Result, Status, StatusCause};
use crate::timestamp;

/// `POST …/binding`.
pub(crate) fn create(call: &ApiCall, bytes: Bytes) -> Result<Response<ResponseBody>> {
    let binding = body::decode(&call.content_type, &bytes)?;
    let node = object::text(&binding, "/target/name");
    if node.is_empty() {
        let causes = vec![StatusCause::new("FieldValueRequired", "target.name", "Required value")];
        return Err(Status::invalid(&call.served.kind, &call.route.name, causes));
    }
    let current = call.api.get(&call.served, &call.route.namespace, &call.route.name)?;
    let bound_to = object::text(&current, "/spec/nodeName");
    if !bound_to.is_empty() {
        let why = format!("pod {} is already assigned to node {bound_to:?}", call.route.name);
        return Err(Status::conflict(&call.served.kind, &call.route.name, &why));
    }
    if object::is_deleting(&current) {
        let why = format!("pod {} is being deleted, cannot be assigned to a host", call.route.name);
        return Err(Status::conflict(&call.served.kind, &call.route.name, &why));
    }
    let mut pod = (*current).clone();
    pod["spec"]["nodeName"] = json!(node);
    set_scheduled(&mut pod);
    if !call.query.dry_run()? {
        let kept = call.api.replace(&call.served.stored, &current, pod);
        kept.map_err(|refused| crate::api::write_error_to_status(refused, &call.served.kind, &call.route.name))?;
    }
    Ok(body::json(
        StatusCode::CREATED,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}

fn set_scheduled(pod: &mut Value) {
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": timestamp::now(),
    });
    let mut conditions = object::list(pod, "/status/conditions").to_vec();
    conditions.retain(|known| object::text(known, "/type") != "PodScheduled");
    conditions.push(condition);
    pod["status"]["conditions"] = Value::Array(conditions);
}
