//! Adds the service account and its token to pods: `kube-api-access-…`, a projected volume of token, CA and namespace.
//!
//! Semantics of Kubernetes' ServiceAccount admission plugin.

use std::time::Duration;

use serde_json::{Value, json};

use crate::api::Api;
use crate::kinds::ResourceKind;
use crate::object;
use crate::status::{Result, Status};
use crate::storage::{GroupResource, StoredObject};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";

/// Requested lifetime of the token in seconds: more than an hour, so that it is renewed each hour.
const TOKEN_SECONDS: u32 = 3607;

/// Name of the ConfigMap with the cluster's CA in every namespace.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";

/// The account that a controller creates in each namespace.
const DEFAULT: &str = "default";

/// How often and at what interval the default account is looked up. A namespace and its first pods are often created at
/// once, before the controller has created the account.
const ATTEMPTS: usize = 10;
const INTERVAL: Duration = Duration::from_millis(150);

/// Sets the service account of a new pod and mounts its token.
pub(super) async fn admit(api: &Api, kind: &ResourceKind, pod: &mut Value) -> Result<()> {
    let spec = object::field(pod, "spec");
    if spec.get("serviceAccountName").and_then(Value::as_str).is_none_or(str::is_empty) {
        spec.insert("serviceAccountName".into(), json!(DEFAULT));
    }
    let name = object::text(pod, "/spec/serviceAccountName").to_owned();
    pod["spec"]["serviceAccount"] = json!(name);
    let namespace = object::namespace(pod);
    let Some(account) = account(api, namespace, &name).await else {
        let why = format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
        return Err(Status::forbidden(kind, object::name(pod), &why));
    };
    let wanted = |object: &Value, pointer: &str| object.pointer(pointer).and_then(Value::as_bool);
    let mounted = wanted(pod, "/spec/automountServiceAccountToken")
        .or_else(|| wanted(&account, "/automountServiceAccountToken"))
        .unwrap_or(true);
    if mounted {
        mount_token(pod);
    }
    Ok(())
}

async fn account(api: &Api, namespace: &str, name: &str) -> Option<StoredObject> {
    let resource = GroupResource::new("", "serviceaccounts");
    for _ in 1..if name == DEFAULT { ATTEMPTS } else { 1 } {
        let found = api.store.get(&resource, namespace, name);
        if found.is_some() {
            return found;
        }
        tokio::time::sleep(INTERVAL).await;
    }
    api.store.get(&resource, namespace, name)
}

fn mount_token(pod: &mut Value) {
    let known = object::list(pod, "/spec/volumes").iter().map(object_name).find(|name| name.starts_with(VOLUME_PREFIX));
    let volume = known.map_or_else(|| format!("{VOLUME_PREFIX}{}", &object::new_uid()[..5]), str::to_owned);
    let is_new = known.is_none();
    let mut used = false;
    for list in ["initContainers", "containers"] {
        let containers = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let mounts = object::list(container, "/volumeMounts");
            if mounts.iter().any(|mount| object::text(mount, "/mountPath").trim_end_matches('/') == MOUNT_PATH) {
                continue;
            }
            let mount = json!({ "name": volume, "readOnly": true, "mountPath": MOUNT_PATH });
            push(container, "volumeMounts", mount);
            used = true;
        }
    }
    if is_new && used {
        let sources = json!([
            { "serviceAccountToken": { "expirationSeconds": TOKEN_SECONDS, "path": "token" } },
            { "configMap": { "name": ROOT_CA, "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
            { "downwardAPI": { "items": [
                { "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" } }
            ] } },
        ]);
        let projected = json!({ "name": volume, "projected": { "defaultMode": 420, "sources": sources } });
        push(&mut pod["spec"], "volumes", projected);
    }
}

fn object_name(volume: &Value) -> &str {
    object::text(volume, "/name")
}

fn push(object: &mut Value, key: &str, item: Value) {
    match object.get_mut(key) {
        Some(Value::Array(items)) => items.push(item),
        _ => object[key] = json!([item]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_containers_mount_the_same_volume() {
        let mut pod = json!({"spec": {"containers": [{"name": "app"}]}});
        mount_token(&mut pod);
        pod["spec"]["containers"].as_array_mut().expect("a list").push(json!({"name": "proxy"}));
        mount_token(&mut pod);
        assert_eq!(object::list(&pod, "/spec/volumes").len(), 1);
        let volume = object::text(&pod, "/spec/volumes/0/name");
        for container in object::list(&pod, "/spec/containers") {
            assert_eq!(object::list(container, "/volumeMounts").len(), 1);
            assert_eq!(object::text(container, "/volumeMounts/0/name"), volume);
        }
    }
}
