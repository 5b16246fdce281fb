//! The writes of registration.

use api::networking::service_entry::{GROUP_ANNOTATION, HEALTH_CHECKED, HEALTHY};
use api::networking::{WorkloadEntry, WorkloadGroup};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Map, Value, json};

use super::plan::{Action, NewEntry};
use crate::clusters::trouble::{self, Trouble};
use crate::objects::Key;

/// The annotations of a registered WorkloadEntry: its controller, and when the proxy connected.
const CONTROLLER: &str = "istio.io/workloadController";
const CONNECTED: &str = "istio.io/connectedAt";

/// Makes a write. One that was made already is done.
pub(super) async fn perform(client: &Client, action: &Action) -> Result<(), Trouble> {
    match action {
        Action::Register(entry) => register(client, entry).await,
        Action::Remove(key) => remove(client, key).await,
        Action::Health { key, healthy } => set_health(client, key, *healthy).await,
    }
}

fn entries(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<WorkloadEntry>(&()))
}

async fn register(client: &Client, entry: &NewEntry) -> Result<(), Trouble> {
    let groups = ApiResource::erase::<WorkloadGroup>(&());
    let groups: Api<DynamicObject> = Api::namespaced_with(client.clone(), &entry.key.namespace, &groups);
    let group = groups.get_metadata_opt(&entry.group).await.map_err(|error| trouble::of(&error))?;
    let Some(uid) = group.and_then(|group| group.metadata.uid) else { return Err(Trouble::Missing) };
    let object = object(entry, &uid, &Timestamp::now().to_string());
    let object = serde_json::from_value(object).map_err(|error| Trouble::Failed(error.to_string()))?;
    match entries(client, &entry.key.namespace).create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        made => made.map(drop).map_err(|error| trouble::of(&error)),
    }
}

/// Returns the object of an entry. `uid` is that of its group, which owns it.
fn object(entry: &NewEntry, uid: &str, now: &str) -> Value {
    let group = &entry.spec;
    let mut annotations = group.metadata.annotations.clone();
    annotations.insert(GROUP_ANNOTATION.into(), entry.group.to_string());
    annotations.insert(CONTROLLER.into(), entry.controller.to_string());
    annotations.insert(CONNECTED.into(), now.to_owned());
    if group.probe.is_some() {
        annotations.insert(HEALTH_CHECKED.into(), "true".into());
    }
    let mut spec = group.template.clone();
    spec.address = entry.ip.to_string();
    spec.service_account = entry.account.to_string();
    spec.labels.extend(group.metadata.labels.clone());
    if !entry.network.is_empty() {
        spec.network = entry.network.to_string();
    }
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
        "metadata": {
            "name": *entry.key.name, "namespace": *entry.key.namespace,
            "labels": group.metadata.labels, "annotations": annotations,
            "ownerReferences": [{
                "apiVersion": "networking.istio.io/v1", "kind": "WorkloadGroup", "name": *entry.group, "uid": uid,
                "controller": true,
            }],
        },
        "spec": spec,
    })
}

/// Deletes an entry, if it is still one that was registered.
async fn remove(client: &Client, key: &Key) -> Result<(), Trouble> {
    let entries = entries(client, &key.namespace);
    let Some(found) = entries.get_metadata_opt(&key.name).await.map_err(|error| trouble::of(&error))? else {
        return Ok(());
    };
    if !found.metadata.annotations.as_ref().is_some_and(|of| of.contains_key(GROUP_ANNOTATION)) {
        return Ok(());
    }
    let preconditions = Preconditions { uid: found.metadata.uid, resource_version: None };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match entries.delete(&key.name, &parameters).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        done => done.map(drop).map_err(|error| trouble::of(&error)),
    }
}

async fn set_health(client: &Client, key: &Key, healthy: bool) -> Result<(), Trouble> {
    let entries = entries(client, &key.namespace);
    let Some(found) = entries.get_opt(&key.name).await.map_err(|error| trouble::of(&error))? else {
        return Ok(());
    };
    let conditions = with_health(&found.data["status"]["conditions"], healthy, &Timestamp::now().to_string());
    let mut patch = Map::from_iter([("status".to_owned(), json!({"conditions": conditions}))]);
    // Another writer of conditions must not be undone.
    patch.insert("metadata".into(), json!({"resourceVersion": found.metadata.resource_version}));
    let sent = entries.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(Value::Object(patch))).await;
    sent.map(drop).map_err(|error| trouble::of(&error))
}

/// Returns the conditions with the one of health.
fn with_health(present: &Value, healthy: bool, now: &str) -> Vec<Value> {
    let mut conditions = present.as_array().cloned().unwrap_or_default();
    conditions.retain(|of| of["type"] != HEALTHY);
    let (status, message) = match healthy {
        true => ("True", "the application passes the probe"),
        false => ("False", "the application fails the probe"),
    };
    conditions.push(json!({
        "type": HEALTHY, "status": status, "message": message, "lastTransitionTime": now, "lastProbeTime": now,
    }));
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_what_its_group_says() {
        let spec: api::networking::WorkloadGroupSpec = serde_json::from_value(json!({
            "metadata": {"labels": {"app": "db"}, "annotations": {"team": "a"}},
            "template": {"serviceAccount": "db", "ports": {"tcp": 5432}, "network": "of-the-group", "weight": 3},
            "probe": {"tcpSocket": {"port": 5432}},
        }))
        .unwrap();
        let entry = NewEntry {
            key: Key::new("shop", "db-10.0.0.1-net"),
            group: "db".into(),
            ip: [10, 0, 0, 1].into(),
            network: "net".into(),
            account: "db".into(),
            controller: "west".into(),
            spec: spec.into(),
        };
        let object = object(&entry, "1-2", "now");
        let spec = json!({"address": "10.0.0.1", "labels": {"app": "db"}, "ports": {"tcp": 5432}, "network": "net",
            "serviceAccount": "db", "weight": 3});
        assert_eq!(object["spec"], spec);
        let annotations = json!({"team": "a", "istio.io/autoRegistrationGroup": "db", "istio.io/connectedAt": "now",
            "istio.io/workloadController": "west", "proxy.istio.io/health-checks-enabled": "true"});
        assert_eq!(object["metadata"]["annotations"], annotations);
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "1-2");
        assert!(api::networking::validate("networking.istio.io", "WorkloadEntry", &object).is_empty());
    }

    #[test]
    fn conditions_of_others_stay() {
        let present = json!([{"type": "Reconciled", "status": "True"}, {"type": "Healthy", "status": "True"}]);
        let conditions = with_health(&present, false, "now");
        let states: Vec<_> = conditions.iter().map(|of| (of["type"].as_str(), of["status"].as_str())).collect();
        assert_eq!(states, [(Some("Reconciled"), Some("True")), (Some("Healthy"), Some("False"))]);
    }
}
