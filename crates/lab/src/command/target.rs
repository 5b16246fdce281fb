//! The target of a command: `CLUSTER/NAMESPACE/POD-or-deployment[/CONTAINER]`.

use std::str::FromStr;

use api::names::{DNS_LABEL, is_dns_label};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

use super::outcome::CommandError;
use crate::controllers::pod_state::ready_since;
use crate::controllers::selector;

/// The container, or containers, that a command acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerTarget {
    /// Name of the cluster.
    pub cluster: String,
    /// Namespace of the pods.
    pub namespace: String,
    /// Name of a pod, a Deployment or a StatefulSet, or the value of pods' label `app`.
    pub name: String,
    /// Name of the container; `None` is the application's container.
    pub container: Option<String>,
}

impl FromStr for ContainerTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            _ if parts.iter().any(|part| part.is_empty()) => {
                Err("a part is empty; write CLUSTER/NAMESPACE/POD, such as west/default/frontend".into())
            }
            _ if parts.iter().any(|part| !part.split('.').all(is_dns_label)) => Err(format!(
                "a part is not a name ({DNS_LABEL}); write CLUSTER/NAMESPACE/POD, such as west/default/frontend"
            )),
            [cluster, namespace, name] => Ok(Self::new(cluster, namespace, name, None)),
            [cluster, namespace, name, container] => Ok(Self::new(cluster, namespace, name, Some(container))),
            _ => Err("write CLUSTER/NAMESPACE/POD[/CONTAINER], such as west/default/frontend".into()),
        }
    }
}

impl ContainerTarget {
    fn new(cluster: &str, namespace: &str, name: &str, container: Option<&&str>) -> Self {
        Self {
            cluster: cluster.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            container: container.map(ToString::to_string),
        }
    }

    /// Returns the pods of the target, ready ones first.
    pub(super) async fn pods(&self, client: &Client) -> Result<Vec<Pod>, CommandError> {
        let api: Api<Pod> = Api::namespaced(client.clone(), &self.namespace);
        if let Some(pod) = api.get_opt(&self.name).await? {
            return Ok(vec![pod]);
        }
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), &self.namespace);
        let deployment = deployments.get_opt(&self.name).await?.and_then(|found| Some(found.spec?.selector));
        let selected = match deployment {
            Some(selector) => Some(selector),
            None => {
                let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &self.namespace);
                sets.get_opt(&self.name).await?.and_then(|found| Some(found.spec?.selector))
            }
        };
        let all = api.list(&ListParams::default()).await?;
        let meant = |pod: &Pod| match &selected {
            Some(selected) => selector::matches(selected, pod.labels()),
            None => pod.labels().get("app") == Some(&self.name),
        };
        let names: Vec<String> = all.items.iter().map(ResourceExt::name_any).collect();
        let mut pods: Vec<Pod> = all.items.into_iter().filter(|pod| meant(pod) && !ended(pod)).collect();
        pods.sort_by_key(|pod| (ready_since(pod).is_none(), pod.metadata.deletion_timestamp.is_some(), pod.name_any()));
        if pods.is_empty() {
            let known = if names.is_empty() { "there are none".to_owned() } else { names.join(", ") };
            return Err(format!(
                "no pod, deployment or statefulset \"{}\" in namespace {} of cluster {}\n  pods: {known}",
                self.name, self.namespace, self.cluster
            )
            .into());
        }
        Ok(pods)
    }

    /// Returns the container of the target in `pod`.
    pub(super) fn container_of(&self, pod: &Pod) -> Option<String> {
        self.container.clone().or_else(|| default_container(pod))
    }
}

fn ended(pod: &Pod) -> bool {
    crate::controllers::pod_state::finished(pod)
}

/// The container that the pod's annotation names, else the first that is not the proxy.
fn default_container(pod: &Pod) -> Option<String> {
    let named = pod.annotations().get("kubectl.kubernetes.io/default-container").cloned();
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    named.or_else(|| {
        let mut names = containers.map(|container| container.name.clone());
        let first = names.next()?;
        if first.ends_with("-proxy") { names.next().or(Some(first)) } else { Some(first) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let target: ContainerTarget = "west/default/frontend".parse().expect("a target");
        assert_eq!((target.cluster.as_str(), target.name.as_str(), &target.container), ("west", "frontend", &None));
        let target: ContainerTarget = "west/default/frontend/isthmus-proxy".parse().expect("a target");
        assert_eq!(target.container.as_deref(), Some("isthmus-proxy"));
        for bad in ["frontend", "west/frontend", "west//frontend", "a/b/c/d/e", "", "west/../pod", "a/b/Bad Name"] {
            assert!(
                bad.parse::<ContainerTarget>().is_err_and(|error| error.contains("CLUSTER/NAMESPACE/POD")),
                "{bad}"
            );
        }
    }

    #[test]
    fn the_application_is_the_default() {
        let pod = |names: &[&str], annotation: Option<&str>| {
            let containers: Vec<_> = names.iter().map(|name| serde_json::json!({"name": name})).collect();
            let annotations =
                annotation.map(|name| serde_json::json!({"kubectl.kubernetes.io/default-container": name}));
            serde_json::from_value::<Pod>(
                serde_json::json!({"metadata": {"annotations": annotations}, "spec": {"containers": containers}}),
            )
            .expect("a pod")
        };
        let cases: &[(&[&str], Option<&str>, Option<&str>)] = &[
            (&["app"], None, Some("app")),
            (&["isthmus-proxy", "app"], None, Some("app")),
            (&["app", "isthmus-proxy"], None, Some("app")),
            (&["app", "other"], Some("other"), Some("other")),
            (&["isthmus-proxy"], None, Some("isthmus-proxy")),
            (&[], None, None),
        ];
        for (names, annotation, expected) in cases {
            assert_eq!(default_container(&pod(names, *annotation)).as_deref(), *expected, "{names:?}");
        }
    }
}
