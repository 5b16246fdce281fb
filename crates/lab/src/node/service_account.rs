//! The service account's files in every container, as the ServiceAccount admission plugin of Kubernetes adds them.

use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeMount};
use serde_json::json;

/// Directory of the files in a container.
const PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME: &str = "kube-api-access";

/// Mounts the files in each container that does not have them, unless the pod disables it.
pub(super) fn mounted(mut pod: Pod) -> Pod {
    let Some(spec) = &mut pod.spec else { return pod };
    if spec.automount_service_account_token == Some(false) {
        return pod;
    }
    let mut added = false;
    let init = spec.init_containers.iter_mut().flatten();
    for container in init.chain(&mut spec.containers) {
        if !has_mount(container) {
            let mount = VolumeMount {
                name: VOLUME.into(),
                mount_path: PATH.into(),
                read_only: Some(true),
                ..VolumeMount::default()
            };
            container.volume_mounts.get_or_insert_default().push(mount);
            added = true;
        }
    }
    if added {
        spec.volumes.get_or_insert_default().push(volume());
    }
    pod
}

fn has_mount(container: &Container) -> bool {
    container.volume_mounts.iter().flatten().any(|mount| mount.mount_path.trim_end_matches('/') == PATH)
}

fn volume() -> Volume {
    let volume = json!({"name": VOLUME, "projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]}});
    serde_json::from_value(volume).expect("a constant volume")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_mounts_are_added() {
        let pod = |spec: serde_json::Value| -> Pod { serde_json::from_value(json!({"spec": spec})).unwrap() };
        let plain = mounted(pod(json!({"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [
            {"name": "own", "mountPath": PATH}]}]})));
        let spec = plain.spec.unwrap();
        assert_eq!(spec.volumes.unwrap().len(), 1);
        let mounts: Vec<_> =
            spec.containers.iter().map(|c| c.volume_mounts.as_ref().unwrap()[0].name.clone()).collect();
        assert_eq!(mounts, [VOLUME, "own"]);
        let without = mounted(pod(json!({"automountServiceAccountToken": false, "containers": [{"name": "a"}]})));
        assert!(without.spec.unwrap().volumes.is_none());
    }
}
