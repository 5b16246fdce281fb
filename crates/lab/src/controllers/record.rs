//! Events, which `kubectl describe` shows below their object.

use install::client_error;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::api::{Api, DynamicObject, PostParams};
use kube::discovery::ApiResource;
use serde_json::json;

use crate::timestamp;

/// Writes an Event about an object. A failure is only logged.
pub async fn event(client: &Client, about: ObjectReference, component: &str, kind: &str, reason: &str, message: &str) {
    let namespace = about.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let now = k8s_openapi::jiff::Timestamp::now();
    let name = about.name.clone().unwrap_or_default();
    let record = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": format!("{name}.{:x}", now.as_nanosecond()), "namespace": namespace},
        "involvedObject": about,
        "type": kind,
        "reason": reason,
        "message": message,
        "source": {"component": component},
        "firstTimestamp": timestamp::seconds(now),
        "lastTimestamp": timestamp::seconds(now),
        "count": 1,
    });
    let written = async {
        let record: DynamicObject = serde_json::from_value(record).map_err(kube::Error::SerdeError)?;
        let resource = ApiResource::erase::<k8s_openapi::api::core::v1::Event>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
        api.create(&PostParams::default(), &record).await
    };
    if let Err(error) = written.await {
        tracing::debug!(error = client_error::describe(&error), reason, "cannot write an event");
    }
}
