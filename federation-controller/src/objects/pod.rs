//! `v1` Pod that is neither Failed nor Succeeded.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use api::mesh::{GatewayTopology, PROXY_CONFIG_ANNOTATION};
use k8s_openapi::api::core::v1 as core;
use kube::core::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::intern::{Strings, copy};
use super::{Kind, Labels, Record, Text, fields, metadata};

/// A pod.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Pod {
    /// The name.
    pub name: Text,
    /// `spec.nodeName`.
    pub node: Text,
    /// The fields that pods of one template have in common, of which one copy is kept.
    #[serde(flatten)]
    pub template: Arc<Template>,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
}

/// The fields that the pods of one template have in common.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Template {
    /// The namespace.
    pub namespace: Text,
    /// `spec.serviceAccountName`; "default" if it is absent.
    pub service_account: Text,
    /// The labels.
    pub labels: Labels,
    /// The workload: the Deployment of a ReplicaSet, else the owner, else the pod's own name.
    pub workload: Text,
    /// Annotation `proxy.istio.io/config`: what a gateway knows of the proxies in front of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<Box<GatewayTopology>>,
}

impl Deref for Pod {
    type Target = Template;

    fn deref(&self) -> &Template {
        &self.template
    }
}

/// The label by which the injector marks pods that accept the mesh's mutual TLS.
const TLS_MODE: &str = "security.istio.io/tlsMode";

impl Template {
    /// Returns whether the pods have a sidecar that accepts the mesh's mutual TLS.
    pub fn accepts_mutual_tls(&self) -> bool {
        self.labels.get(TLS_MODE).is_some_and(|mode| &**mode == "istio")
    }
}

impl Pod {
    /// The network of the pod by its label `topology.istio.io/network`.
    pub fn network(&self) -> Option<&Text> {
        self.labels.get(api::names::NETWORK_LABEL).filter(|network| !network.is_empty())
    }
}

/// The fields that are read.
#[derive(kube::Resource, Clone, Debug, Deserialize)]
#[resource(inherit = "core::Pod")]
pub struct Source {
    #[serde(deserialize_with = "metadata::read")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    service_account_name: Option<String>,
    node_name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: String,
}

impl Record for Pod {
    type Source = Source;
    const KIND: Kind = Kind::Pod;
    const NAME: &'static str = "Pod";
    const LIMIT: usize = 200_000;

    fn extract(object: Source) -> Option<Self> {
        let Source { metadata, spec, status } = object;
        if matches!(status.phase.as_str(), "Failed" | "Succeeded") {
            return None;
        }
        let account = spec.service_account_name.filter(|name| fields::is_subdomain(name)).unwrap_or("default".into());
        Some(Pod {
            name: fields::name(&metadata)?,
            node: spec.node_name.filter(|name| fields::is_subdomain(name)).unwrap_or_default().into(),
            terminating: metadata.deletion_timestamp.is_some(),
            template: Arc::new(Template {
                namespace: fields::namespace(&metadata)?,
                service_account: account.into(),
                workload: workload(&metadata),
                topology: metadata.annotations.as_ref().and_then(topology).map(Box::new),
                labels: fields::labels(metadata.labels),
            }),
        })
    }

    fn namespace(&self) -> Option<&Text> {
        Some(&self.template.namespace)
    }

    fn name(&self) -> &Text {
        &self.name
    }

    fn size(&self) -> usize {
        let Template { namespace, service_account, labels, workload, .. } = &*self.template;
        let texts = [&self.name, &self.node, namespace, service_account, workload];
        size_of::<Self>()
            + size_of::<Template>()
            + labels.size()
            + texts.map(|text| fields::size(text)).iter().sum::<usize>()
    }

    fn intern(&mut self, strings: &mut Strings) {
        self.name = copy(&self.name);
        strings.text(&mut self.node);
        strings.template(&mut self.template);
    }
}

/// Returns what a pod's annotation says of the proxies in front of it.
fn topology(annotations: &BTreeMap<String, String>) -> Option<GatewayTopology> {
    GatewayTopology::of_annotation(annotations.get(PROXY_CONFIG_ANNOTATION)?)
}

/// Returns the workload of a pod. The ReplicaSet of a Deployment has a name that ends in the pod template's hash, so
/// ReplicaSets need no watch.
fn workload(metadata: &ObjectMeta) -> Text {
    let owner = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let hash = metadata.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
    match (owner, hash) {
        (Some(owner), Some(hash)) if owner.kind == "ReplicaSet" => {
            owner.name.strip_suffix(hash.as_str()).and_then(|n| n.strip_suffix('-')).unwrap_or(&owner.name).into()
        }
        (Some(owner), _) => owner.name.as_str().into(),
        (None, _) => fields::name(metadata).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extract(object: serde_json::Value) -> Option<Pod> {
        Pod::extract(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn finished_pods_are_left_out() {
        let pod = |phase: &str, host: bool| {
            serde_json::json!({
                "metadata": {"name": "reviews-v1-5b7f-a", "namespace": "default", "deletionTimestamp": "2026-01-02T03:04:05Z",
                    "labels": {"app": "reviews", "pod-template-hash": "5b7f"},
                    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "reviews-v1-5b7f",
                                         "uid": "1", "controller": true}]},
                "spec": {"nodeName": "n1", "hostNetwork": host, "containers": []},
                "status": {"phase": phase, "podIP": "10.244.0.5", "podIPs": [{"ip": "10.244.0.5"}]}
            })
        };
        let running = extract(pod("Running", false)).unwrap();
        assert_eq!((&*running.workload, &*running.service_account), ("reviews-v1", "default"));
        assert!(running.terminating);
        assert_eq!(extract(pod("Running", true)).as_ref(), Some(&running));
        assert_eq!(running.topology, None);
        let mut annotated = pod("Running", false);
        annotated["metadata"]["annotations"] =
            serde_json::json!({PROXY_CONFIG_ANNOTATION: "gatewayTopology: {numTrustedProxies: 2}"});
        assert_eq!(extract(annotated).unwrap().topology.as_ref().unwrap().trusted_proxies, Some(2));
        assert_eq!(extract(pod("Failed", false)), None);
        assert_eq!(extract(pod("Succeeded", false)), None);
    }
}
