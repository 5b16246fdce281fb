//! The objects and statuses that the controller writes for exports, in the form of the API.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::net::IpAddr;

use api::export::{
    MANAGED_BY, MANAGED_BY_LABEL, SERVICE_NAME_LABEL, SLICE_MANAGED_BY_LABEL, SOURCE_CLUSTER_LABEL, ServiceImport,
    ServiceImportPort, ServiceImportSpec,
};
use k8s_openapi::api::core::v1::{ClientIPConfig, SessionAffinityConfig};
use kube::Resource as _;
use serde::Serialize;
use serde_json::{Value, json};

use super::merge::{Merged, affinity_name, policy_name};
use crate::objects::{DeclaredPort, IpFamily, Key, Text};

/// The annotation with a digest of what the controller has written, by which it finds out what is to be written again.
pub(super) const CONTENT: &str = "federation.isthmus.dev/content";

/// A condition without its time.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub(super) struct Condition {
    pub(super) kind: &'static str,
    pub(super) status: &'static str,
    pub(super) reason: String,
    pub(super) message: String,
}

impl Condition {
    pub(super) fn new(kind: &'static str, status: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Condition { kind, status, reason: reason.to_owned(), message: message.into() }
    }

    /// Returns the condition as objects have it. `before` is the one that the object has.
    pub(super) fn to_json(&self, generation: i64, before: &Value, now: &str) -> Value {
        let since = match before["lastTransitionTime"].as_str() {
            Some(since) if before["status"] == self.status => since,
            _ => now,
        };
        json!({
            "type": self.kind, "status": self.status, "reason": self.reason, "message": self.message,
            "lastTransitionTime": since, "observedGeneration": generation,
        })
    }
}

/// The status of a ServiceExport.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub(super) struct ExportStatus {
    /// The hash of the export's uid.
    pub(super) uid: u64,
    pub(super) conditions: [Condition; 3],
}

/// A ServiceImport.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Import {
    pub(super) labels: BTreeMap<String, String>,
    /// Without [`CONTENT`].
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) spec: ServiceImportSpec,
    pub(super) clusters: Vec<Text>,
    pub(super) has_slices: bool,
    pub(super) ready: Condition,
    /// Digests of spec, labels and annotations, and of the status.
    pub(super) content: String,
    pub(super) status: String,
}

impl Import {
    /// Returns the import of a merged service with these addresses.
    pub(super) fn new(merged: &Merged, addresses: &[(IpFamily, IpAddr)], has_slices: bool, ready: Condition) -> Self {
        let text = |of: &BTreeMap<Text, Text>| -> BTreeMap<String, String> {
            of.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
        };
        let mut labels = text(&merged.labels);
        labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
        let mut annotations = text(&merged.annotations);
        annotations.remove(CONTENT);
        let spec = spec(merged, addresses);
        let content = digest(&(&labels, &annotations, &spec));
        let status = status_digest(merged.clusters.iter().map(|of| &**of), has_slices, &ready);
        let clusters = merged.clusters.clone();
        Import { labels, annotations, spec, clusters, has_slices, ready, content, status }
    }

    /// Returns the object, without its status.
    pub(super) fn to_json(&self, key: &Key) -> Value {
        let mut annotations = self.annotations.clone();
        annotations.insert(CONTENT.to_owned(), self.content.clone());
        json!({
            "apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ServiceImport",
            "metadata": {
                "name": *key.name, "namespace": *key.namespace, "labels": self.labels, "annotations": annotations,
            },
            "spec": self.spec,
        })
    }

    /// Returns the status. `before` is the condition that the object has.
    pub(super) fn status_json(&self, generation: i64, before: &Value, now: &str) -> Value {
        let clusters: Vec<Value> = self.clusters.iter().map(|cluster| json!({"cluster": **cluster})).collect();
        json!({
            "clusters": clusters, "endpointSliceObjects": slices_word(self.has_slices),
            "conditions": [self.ready.to_json(generation, before, now)],
        })
    }
}

/// Returns the digest of an import's status.
pub(super) fn status_digest<'a>(
    clusters: impl Iterator<Item = &'a str>,
    has_slices: bool,
    ready: &Condition,
) -> String {
    let clusters: Vec<&str> = clusters.collect();
    digest(&(clusters, slices_word(has_slices), ready.status, &ready.reason, &ready.message))
}

/// Returns `status.endpointSliceObjects`.
pub(super) fn slices_word(has_slices: bool) -> &'static str {
    if has_slices { "Present" } else { "Absent" }
}

fn spec(merged: &Merged, addresses: &[(IpFamily, IpAddr)]) -> ServiceImportSpec {
    let affinity = merged.affinity.filter(|_| !merged.headless);
    let config = |timeout_seconds: u32| SessionAffinityConfig {
        client_ip: Some(ClientIPConfig { timeout_seconds: i32::try_from(timeout_seconds).ok() }),
    };
    ServiceImportSpec {
        r#type: if merged.headless { "Headless" } else { "ClusterSetIP" }.to_owned(),
        ips: addresses.iter().map(|(_, ip)| ip.to_string()).collect(),
        ip_families: match merged.headless {
            true => merged.families.iter().map(|family| family.as_str().to_owned()).collect(),
            false => addresses.iter().map(|(family, _)| family.as_str().to_owned()).collect(),
        },
        ports: merged.ports.iter().map(import_port).collect(),
        session_affinity: (!merged.headless).then(|| affinity_name(affinity).to_owned()),
        session_affinity_config: affinity.and_then(|of| of.timeout_seconds).map(config),
        internal_traffic_policy: Some(policy_name(merged.local).to_owned()),
        traffic_distribution: merged.distribution.as_deref().map(str::to_owned),
    }
}

fn import_port(port: &DeclaredPort) -> ServiceImportPort {
    ServiceImportPort {
        name: (!port.name.is_empty()).then(|| port.name.to_string()),
        protocol: Some(port.transport.as_str().to_owned()),
        app_protocol: port.app_protocol.as_deref().map(str::to_owned),
        port: port.number.into(),
    }
}

/// An EndpointSlice with endpoints of one cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct ImportedSlice {
    pub(super) service: Text,
    pub(super) source: Text,
    pub(super) family: &'static str,
    pub(super) ports: Vec<SlicePort>,
    pub(super) endpoints: Vec<SliceMember>,
}

/// A port of an [`ImportedSlice`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SlicePort {
    pub(super) name: Text,
    pub(super) protocol: &'static str,
    pub(super) port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) app_protocol: Option<Text>,
}

/// An endpoint of an [`ImportedSlice`]. Names of nodes and pods have no meaning in other clusters, and are left out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct SliceMember {
    pub(super) addresses: [IpAddr; 1],
    pub(super) conditions: SliceConditions,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hostname: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) zone: Option<Text>,
}

/// The conditions of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(super) struct SliceConditions {
    pub(super) ready: bool,
    pub(super) serving: bool,
    pub(super) terminating: bool,
}

impl ImportedSlice {
    /// Returns the object with this name and digest, which the service's import with this uid owns.
    pub(super) fn to_json(&self, key: &Key, content: &str, import: Option<&str>) -> Value {
        let owner = import.map(|uid| {
            json!({
                "apiVersion": ServiceImport::api_version(&()), "kind": ServiceImport::kind(&()),
                "name": *self.service, "uid": uid, "controller": true,
            })
        });
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": *key.name, "namespace": *key.namespace,
                "labels": {
                    SERVICE_NAME_LABEL: *self.service, SOURCE_CLUSTER_LABEL: *self.source,
                    SLICE_MANAGED_BY_LABEL: MANAGED_BY,
                },
                "annotations": {CONTENT: content},
                "ownerReferences": owner.into_iter().collect::<Vec<_>>(),
            },
            "addressType": self.family, "ports": self.ports, "endpoints": self.endpoints,
        })
    }
}

/// Returns a digest of what is written, the same in every process.
pub(super) fn digest(of: &impl Serialize) -> String {
    // What is digested are maps with names as keys, lists, strings and numbers, which serialize.
    let text = serde_json::to_vec(of).unwrap_or_default();
    format!("{:016x}", foldhash::quality::FixedState::with_seed(0x6d_63_73).hash_one(text))
}
