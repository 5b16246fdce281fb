//! The pod that calls.

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use lab::console::Patience;
use lab::topology::nearest;
use serde_json::{Value, json};

use crate::access::ClusterAccess;
use crate::config::source;

/// The names of the container of an injected sidecar.
const PROXY_CONTAINERS: &[&str] = &["isthmus-proxy", "istio-proxy"];
/// Kinds that a pod may be named by.
const KINDS: &[&str] =
    &["pod", "pods", "po", "deployment", "deployments", "deploy", "statefulset", "statefulsets", "sts"];

/// The pod that is meant, as it was typed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NamedPod {
    pub(super) cluster: Option<String>,
    namespace: String,
    name: String,
}

impl NamedPod {
    /// Parses `CLUSTER/NAMESPACE/NAME`, `NAMESPACE/NAME`, `NAME`, `NAME.NAMESPACE` or `KIND/NAME`.
    pub(super) fn parse(text: &str, namespace: &str) -> anyhow::Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            bail!(
                "{text:?} names no pod\n  name it as CLUSTER/NAMESPACE/NAME, NAMESPACE/NAME, NAME or deployment/NAME"
            );
        }
        let owned = |text: &str| text.to_owned();
        Ok(match parts[..] {
            [cluster, namespace, name] => {
                NamedPod { cluster: Some(owned(cluster)), namespace: owned(namespace), name: owned(name) }
            }
            [namespace, name] if !KINDS.contains(&namespace) => {
                NamedPod { cluster: None, namespace: owned(namespace), name: owned(name) }
            }
            [_] | [_, _] => {
                let (name, namespace) = source::pod_name(text, namespace);
                NamedPod { cluster: None, namespace, name }
            }
            _ => bail!("{text:?} has too many parts\n  name the pod as CLUSTER/NAMESPACE/NAME"),
        })
    }

    fn is(&self, pod: &Pod) -> bool {
        source::is(pod, &self.name) || (!self.name.contains('/') && workload_of(pod).as_deref() == Some(&self.name))
    }
}

/// The pod that calls.
pub(super) struct CallingPod<'a> {
    pub(super) cluster: &'a ClusterAccess,
    pub(super) namespace: String,
    pub(super) pod: String,
    /// Whether it has a sidecar.
    pub(super) meshed: bool,
}

impl<'a> CallingPod<'a> {
    /// Returns the pod that is meant: of several of one workload, a running one.
    ///
    /// # Errors
    /// Returns an error with the nearest name if there is none, or if several clusters have one.
    pub(super) async fn find(
        clusters: &'a [ClusterAccess],
        target: &NamedPod,
        patience: &Patience,
    ) -> anyhow::Result<CallingPod<'a>> {
        let searched: Vec<&ClusterAccess> = match &target.cluster {
            None => clusters.iter().collect(),
            Some(wanted) => {
                let found = clusters.iter().find(|cluster| cluster.name == *wanted);
                vec![found.with_context(|| unknown_cluster(wanted, clusters))?]
            }
        };
        let (mut found, mut seen) = (Vec::new(), Vec::new());
        for cluster in &searched {
            let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &target.namespace);
            let listed = patience.answer(&cluster.api_server(), pods.list(&ListParams::default())).await??;
            let mut meant: Vec<&Pod> = listed.items.iter().filter(|pod| target.is(pod)).collect();
            meant.sort_by_key(|pod| (!is_running(pod), pod.name_any()));
            found.extend(meant.first().map(|pod| (*cluster, pod.name_any(), has_sidecar(pod))));
            seen.extend(listed.items.iter().flat_map(|pod| workload_of(pod).into_iter().chain([pod.name_any()])));
        }
        match &found[..] {
            [] => bail!(missing(&searched, target, &seen, patience).await),
            [(cluster, pod, meshed)] => {
                let (namespace, pod, meshed) = (target.namespace.clone(), pod.clone(), *meshed);
                Ok(CallingPod { cluster, namespace, pod, meshed })
            }
            several => {
                let names: Vec<_> = several.iter().map(|(cluster, ..)| cluster.name.as_str()).collect();
                let (namespace, name) = (&target.namespace, &target.name);
                bail!(
                    "several clusters have {name} in namespace {namespace}: {}\n  name one: {}/{namespace}/{name}",
                    names.join(", "),
                    names[0]
                )
            }
        }
    }

    /// Reads an admin page of the pod's sidecar.
    pub(super) async fn page(&self, path: &str, patience: &Patience) -> anyhow::Result<Value> {
        let from =
            format!("the sidecar of {} in {}, through {}", self.pod, self.cluster.name, self.cluster.api_server());
        let read = source::read(self.cluster, &self.namespace, &self.pod, path);
        let page = patience.answer(&from, read).await??;
        serde_json::from_str(&page).context("the sidecar's answer is no JSON: compare its version with isthmus version")
    }

    pub(super) fn document(&self) -> Value {
        json!({"cluster": self.cluster.name, "namespace": self.namespace, "pod": self.pod})
    }
}

/// Returns the name of the Deployment or other owner of a pod.
fn workload_of(pod: &Pod) -> Option<String> {
    let owner = pod.metadata.owner_references.iter().flatten().next()?;
    match &*owner.kind {
        "ReplicaSet" => owner.name.rsplit_once('-').map(|(deployment, _)| deployment.to_owned()),
        _ => Some(owner.name.clone()),
    }
}

fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
}

fn has_sidecar(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    containers.map(|container| &*container.name).any(|name| PROXY_CONTAINERS.contains(&name))
}

fn unknown_cluster(wanted: &str, clusters: &[ClusterAccess]) -> String {
    let names: Vec<&str> = clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    let hint = hint(wanted, names.iter().copied());
    format!("no cluster \"{wanted}\"\n  clusters: {}{hint}", names.join(", "))
}

/// Describes that there is no such pod, with the nearest name there is.
async fn missing(clusters: &[&ClusterAccess], target: &NamedPod, seen: &[String], patience: &Patience) -> String {
    let (name, namespace) = (target.name.rsplit('/').next().unwrap_or_default(), &target.namespace);
    let names: Vec<_> = clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    let error = format!("no pod or workload {name} in namespace {namespace} of {}", names.join(", "));
    let kubectl = clusters.first().map_or("kubectl", |cluster| cluster.kubectl.as_str());
    if !seen.is_empty() {
        let hint = hint(name, seen.iter().map(String::as_str));
        return format!("{error}\n  list the pods: {kubectl} -n {namespace} get pods{hint}");
    }
    let mut namespaces = Vec::new();
    for cluster in clusters {
        let api: Api<Namespace> = Api::all(cluster.client.clone());
        // The suggestion is left out if the namespaces cannot be listed.
        if let Ok(Ok(listed)) = patience.answer(&cluster.api_server(), api.list(&ListParams::default())).await {
            namespaces.extend(listed.items.iter().map(|namespace| namespace.name_any()));
        }
    }
    let hint = match namespaces.iter().any(|known| known == namespace) {
        true => String::new(),
        false => hint(namespace, namespaces.iter().map(String::as_str)),
    };
    format!("{error}: it has no pods\n  list the namespaces: {kubectl} get namespaces{hint}")
}

fn hint<'n>(wanted: &str, names: impl Iterator<Item = &'n str>) -> String {
    nearest(wanted, names).map(|name| format!("\n  did you mean \"{name}\"?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_named_in_several_forms() {
        let of = |cluster: Option<&str>, namespace: &str, name: &str| {
            Some(NamedPod {
                cluster: cluster.map(str::to_owned),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            })
        };
        for (text, expected) in [
            ("west/default/frontend", of(Some("west"), "default", "frontend")),
            ("bank/frontend", of(None, "bank", "frontend")),
            ("frontend", of(None, "shop", "frontend")),
            ("frontend.bank", of(None, "bank", "frontend")),
            ("deployment/frontend", of(None, "shop", "deployment/frontend")),
            ("", None),
            ("west//frontend", None),
            ("a/b/c/d", None),
        ] {
            assert_eq!(NamedPod::parse(text, "shop").ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_pod_is_found_by_its_workload_and_known_by_its_sidecar() {
        let pod = |container: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "reviews-v1-7f-x", "ownerReferences":
                    [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "reviews-v1-7f", "uid": "u"}]},
                "spec": {"containers": [{"name": "app"}], "initContainers": [{"name": container}]},
            }))
            .unwrap()
        };
        for name in ["reviews-v1", "reviews-v1-7f-x", "deployment/reviews-v1"] {
            assert!(NamedPod::parse(name, "default").unwrap().is(&pod("x")), "{name}");
        }
        assert!(!NamedPod::parse("reviews", "default").unwrap().is(&pod("x")));
        assert!(has_sidecar(&pod("isthmus-proxy")) && !has_sidecar(&pod("setup")));
    }

    #[test]
    fn the_nearest_name_is_suggested() {
        assert_eq!(hint("frontned", ["frontend", "reviews"].into_iter()), "\n  did you mean \"frontend\"?");
        assert_eq!(hint("x", ["frontend"].into_iter()), "");
    }
}
