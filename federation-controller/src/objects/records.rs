//! What of each watched object is read, and how it becomes a record of the index.
//!
//! The types name only the fields that matter; the rest of an object is skipped while it is parsed, and nothing of it is
//! kept. Whatever a server sends that does not fit (a port beyond 65535, an address that is none) is left out, never an
//! error: one odd object must not stop a watch. A server may be somebody else's, so what Kubernetes itself would not have
//! admitted is left out as well: names that are none (they become parts of host names and of resource names), endpoints
//! at addresses of the dialling host's own, lists without end.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use api::names;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use kube::core::ObjectMeta;
use serde::Deserialize;

use super::metadata;
use crate::objects::event::{
    Export, Gateway, Kind, Labels, Namespace, Node, Object, Pod, Service, ServicePort, Slice, SliceEndpoint, Spot,
    Template, Text, protocol_of,
};

/// A kind that is watched in every cluster.
pub(crate) trait Watched:
    kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static
{
    /// Its kind in the index.
    const KIND: Kind;
    /// The cluster may lack the kind, or deny it to us, and still be of use.
    const OPTIONAL: bool = false;

    /// What the index wants of it; `None` where it wants nothing (any more).
    fn record(self) -> Option<Object>;
}

/// `v1` Namespace.
#[derive(kube::Resource, Clone, Debug, Deserialize)]
#[resource(inherit = "core::Namespace")]
pub(crate) struct NamespaceObject {
    #[serde(deserialize_with = "metadata::read")]
    metadata: ObjectMeta,
}

impl Watched for NamespaceObject {
    const KIND: Kind = Kind::Namespace;

    fn record(self) -> Option<Object> {
        let network = network(&self.metadata);
        Some(Object::Namespace(Namespace { name: name(&self.metadata).filter(|name| is_label(name))?, network }))
    }
}

/// `v1` Node.
#[derive(kube::Resource, Clone, Debug, Deserialize)]
#[resource(inherit = "core::Node")]
pub(crate) struct NodeObject {
    #[serde(deserialize_with = "metadata::read")]
    metadata: ObjectMeta,
}

impl Watched for NodeObject {
    const KIND: Kind = Kind::Node;

    fn record(self) -> Option<Object> {
        let of = |labels: &[&str]| labels.iter().find_map(|l| label(&self.metadata, l)).unwrap_or_default();
        Some(Object::Node(Node {
            name: name(&self.metadata)?,
            region: of(&["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"]),
            zone: of(&["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"]),
            subzone: of(&["topology.istio.io/subzone"]),
        }))
    }
}

/// `v1` Service.
#[derive(kube::Resource, Clone, Debug, Deserialize)]
#[resource(inherit = "core::Service")]
pub(crate) struct ServiceObject {
    #[serde(deserialize_with = "metadata::read")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: ServiceSpec,
    #[serde(default)]
    status: ServiceStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    r#type: String,
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    #[serde(rename = "externalIPs")]
    external_ips: Vec<String>,
    ports: Vec<PortSpec>,
    selector: Option<BTreeMap<String, String>>,
    publish_not_ready_addresses: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PortSpec {
    name: Option<String>,
    port: i64,
    protocol: Option<String>,
    app_protocol: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceStatus {
    load_balancer: LoadBalancer,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Vec<Ingress>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Ingress {
    ip: Option<String>,
    hostname: Option<String>,
}

impl Watched for ServiceObject {
    const KIND: Kind = Kind::Service;

    fn record(self) -> Option<Object> {
        if self.spec.r#type == "ExternalName" {
            return None;
        }
        let spec = self.spec;
        let mut ips = spec.cluster_ips;
        if ips.is_empty() {
            ips.push(spec.cluster_ip);
        }
        let ingress = self.status.load_balancer.ingress;
        let names =
            ingress.iter().take(MAX_ADDRESSES).filter_map(|i| i.hostname.as_deref()).filter(|n| is_subdomain(n));
        let external_names = names.map(Into::into).collect();
        let external = ingress.into_iter().filter_map(|i| i.ip).chain(spec.external_ips).take(MAX_ADDRESSES);
        Some(Object::Service(Service {
            namespace: namespace(&self.metadata)?,
            name: name(&self.metadata).filter(|name| is_label(name))?,
            created: created(&self.metadata),
            headless: ips.iter().any(|ip| ip == "None"),
            cluster_ips: ips.iter().take(2).filter_map(|ip| ip.parse().ok()).collect(),
            ports: spec.ports.iter().take(MAX_PORTS).filter_map(PortSpec::record).collect(),
            selects: spec.selector.is_some_and(|selector| !selector.is_empty()),
            publish_not_ready: spec.publish_not_ready_addresses,
            network: network(&self.metadata),
            gateway_port: label(&self.metadata, "networking.istio.io/gatewayPort").and_then(|port| port.parse().ok()),
            external_ips: external.filter_map(|ip| ip.parse().ok()).filter(is_reachable).collect(),
            external_names,
        }))
    }
}

impl PortSpec {
    fn record(&self) -> Option<ServicePort> {
        if !is_tcp(self.protocol.as_deref()) {
            return None;
        }
        let name = self.name.as_deref().filter(|name| name.len() <= MAX_LABEL).unwrap_or_default();
        Some(ServicePort {
            name: name.into(),
            number: port(self.port)?,
            protocol: protocol_of(self.app_protocol.as_deref(), name),
        })
    }
}

/// `discovery.k8s.io/v1` EndpointSlice.
#[derive(kube::Resource, Clone, Debug, Deserialize)]
#[resource(inherit = "discovery::EndpointSlice")]
#[serde(rename_all = "camelCase")]
pub(crate) struct SliceObject {
    #[serde(deserialize_with = "metadata::read")]
    metadata: ObjectMeta,
    #[serde(default)]
    address_type: String,
    #[serde(default)]
    endpoints: Option<Vec<EndpointSpec>>,
    #[serde(default)]
    ports: Option<Vec<SlicePort>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EndpointSpec {
    addresses: Vec<String>,
    conditions: Conditions,
    target_ref: Option<TargetRef>,
    node_name: Option<String>,
    zone: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct TargetRef {
    kind: String,
    name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SlicePort {
    name: Option<String>,
    port: Option<i64>,
    protocol: Option<String>,
}

impl Watched for SliceObject {
    const KIND: Kind = Kind::Slice;

    fn record(self) -> Option<Object> {
        if !matches!(self.address_type.as_str(), "IPv4" | "IPv6") {
            return None;
        }
        let service = label(&self.metadata, "kubernetes.io/service-name").filter(|service| is_label(service))?;
        let ports =
            self.ports.unwrap_or_default().into_iter().take(MAX_PORTS).filter(|p| is_tcp(p.protocol.as_deref()));
        Some(Object::Slice(Slice {
            namespace: namespace(&self.metadata)?,
            name: name(&self.metadata)?,
            service,
            ports: ports.filter_map(|p| Some((p.name.unwrap_or_default().into(), port(p.port?)?))).collect(),
            endpoints: self
                .endpoints
                .into_iter()
                .flatten()
                .take(MAX_ENDPOINTS)
                .filter_map(EndpointSpec::record)
                .collect(),
        }))
    }
}

impl EndpointSpec {
    fn record(self) -> Option<SliceEndpoint> {
        Some(SliceEndpoint {
            ip: self.addresses.first()?.parse().ok().filter(is_reachable)?,
            ready: self.conditions.ready.unwrap_or(true),
            terminating: self.conditions.terminating.unwrap_or(false),
            pod: self.target_ref.filter(|target| target.kind == "Pod").and_then(|target| target.name).map(Into::into),
            spot: Arc::new(Spot {
                node: self.node_name.filter(|name| is_subdomain(name)).map(Into::into),
                zone: self.zone.filter(|zone| is_label_value(zone)).map(Into::into),
            }),
        })
    }
}

/// `v1` Pod.
#[derive(kube::Resource, Clone, Debug, Deserialize)]
#[resource(inherit = "core::Pod")]
pub(crate) struct PodObject {
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

impl Watched for PodObject {
    const KIND: Kind = Kind::Pod;

    fn record(self) -> Option<Object> {
        if matches!(self.status.phase.as_str(), "Failed" | "Succeeded") {
            return None;
        }
        let account = self.spec.service_account_name.filter(|name| is_subdomain(name)).unwrap_or("default".into());
        Some(Object::Pod(Pod {
            name: name(&self.metadata)?,
            node: self.spec.node_name.filter(|name| is_subdomain(name)).unwrap_or_default().into(),
            terminating: self.metadata.deletion_timestamp.is_some(),
            template: Arc::new(Template {
                namespace: namespace(&self.metadata)?,
                service_account: account.into(),
                workload: workload(&self.metadata),
                labels: texts(self.metadata.labels),
            }),
        }))
    }
}

impl Watched for api::export::ServiceExport {
    const KIND: Kind = Kind::Export;
    const OPTIONAL: bool = true;

    fn record(self) -> Option<Object> {
        Some(Object::Export(Export {
            namespace: namespace(&self.metadata)?,
            name: name(&self.metadata)?,
            created: created(&self.metadata),
        }))
    }
}

impl Watched for api::gateway::Gateway {
    const KIND: Kind = Kind::Gateway;
    const OPTIONAL: bool = true;

    fn record(self) -> Option<Object> {
        for warning in self.warnings() {
            tracing::debug!(gateway = ?self.metadata.name, namespace = ?self.metadata.namespace, "{warning}");
        }
        if !self.spec.servers.iter().any(api::gateway::Server::is_auto_passthrough) {
            return None;
        }
        Some(Object::Gateway(Gateway {
            namespace: namespace(&self.metadata)?,
            name: name(&self.metadata)?,
            hosts: self
                .exported_hosts()
                .filter(|host| host.len() <= MAX_HOST)
                .take(MAX_HOSTS)
                .map(Into::into)
                .collect(),
            selector: self.spec.selector.into_iter().take(MAX_LABELS).map(|(k, v)| (k.into(), v.into())).collect(),
        }))
    }
}

/// A Secret, of which only the data is read.
#[derive(kube::Resource, Clone, Debug, Deserialize)]
#[resource(inherit = "core::Secret")]
pub(crate) struct SecretObject {
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) data: Option<BTreeMap<String, ByteString>>,
}

/// A ConfigMap, of which only the data is read.
#[derive(kube::Resource, Clone, Debug, Deserialize)]
#[resource(inherit = "core::ConfigMap")]
pub(crate) struct ConfigMapObject {
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) data: Option<BTreeMap<String, String>>,
}

/// What made a pod. A ReplicaSet of a Deployment is recognised by its name, which ends in the pod template's hash, so
/// that ReplicaSets need no watch of their own.
fn workload(metadata: &ObjectMeta) -> Text {
    let owner = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let hash = metadata.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
    match (owner, hash) {
        (Some(owner), Some(hash)) if owner.kind == "ReplicaSet" => {
            owner.name.strip_suffix(hash.as_str()).and_then(|n| n.strip_suffix('-')).unwrap_or(&owner.name).into()
        }
        (Some(owner), _) => owner.name.as_str().into(),
        (None, _) => name(metadata).unwrap_or_default(),
    }
}

fn name(metadata: &ObjectMeta) -> Option<Text> {
    metadata.name.as_deref().filter(|name| is_subdomain(name)).map(Into::into)
}

fn namespace(metadata: &ObjectMeta) -> Option<Text> {
    metadata.namespace.as_deref().filter(|namespace| is_label(namespace)).map(Into::into)
}

fn label(metadata: &ObjectMeta, key: &str) -> Option<Text> {
    metadata.labels.as_ref()?.get(key).filter(|value| is_label_value(value)).map(|value| value.as_str().into())
}

fn network(metadata: &ObjectMeta) -> Option<Text> {
    label(metadata, names::NETWORK_LABEL).filter(|network| !network.is_empty())
}

fn created(metadata: &ObjectMeta) -> i64 {
    metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second())
}

fn texts(labels: Option<BTreeMap<String, String>>) -> Labels {
    let usable = |(key, value): &(String, String)| key.len() <= MAX_LABEL_KEY && is_label_value(value);
    let labels = labels.unwrap_or_default().into_iter().filter(usable).take(MAX_LABELS);
    labels.map(|(key, value)| (key.into(), value.into())).collect()
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol.is_empty() || protocol == "TCP")
}

fn port(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

/// Ports of one service or slice; the API server itself has no bound on those of a service.
const MAX_PORTS: usize = 1_000;
/// Endpoints of one slice: the API's own bound.
const MAX_ENDPOINTS: usize = 1_000;
/// Addresses of one service or pod.
const MAX_ADDRESSES: usize = 64;
/// Labels of one object; objects have some tens.
const MAX_LABELS: usize = 256;
/// The API's bounds on a label's value, which is also that on a DNS label, and on its key (a subdomain, `/`, a name).
const MAX_LABEL: usize = 63;
const MAX_LABEL_KEY: usize = 253 + 1 + 63;
/// Hosts of one gateway, and a host's length with its namespace.
const MAX_HOSTS: usize = 10_000;
const MAX_HOST: usize = 63 + 1 + 253;

/// A DNS label, as names of services and namespaces are.
fn is_label(name: &str) -> bool {
    name.len() <= MAX_LABEL && !name.contains('.') && is_subdomain(name)
}

/// A DNS subdomain, as all names are.
fn is_subdomain(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    name.len() <= 253 && edge(bytes.first()) && edge(bytes.last()) && name.bytes().all(allowed)
}

fn is_label_value(value: &str) -> bool {
    value.len() <= MAX_LABEL && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Not an address that means the dialling host itself, its link, or many hosts. The API refuses the same.
fn is_reachable(ip: &IpAddr) -> bool {
    let ip = ip.to_canonical();
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests {
    use super::*;
    use wire::discovery::Protocol;

    fn record<K: Watched>(json: serde_json::Value) -> Option<Object> {
        serde_json::from_value::<K>(json).unwrap().record()
    }

    #[test]
    fn a_service_as_an_api_server_sends_it() {
        let json = serde_json::json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "reviews", "namespace": "default", "creationTimestamp": "2026-01-02T03:04:05Z",
                         "labels": {"topology.istio.io/network": "net-west", "networking.istio.io/gatewayPort": "15443"}},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.3.4", "clusterIPs": ["10.96.3.4", "fd00::4"],
                     "selector": {"app": "reviews"}, "externalIPs": ["198.51.100.1"],
                     "ports": [{"name": "http", "port": 9080, "targetPort": 9080, "protocol": "TCP", "nodePort": 30000},
                               {"name": "dns", "port": 53, "protocol": "UDP"},
                               {"name": "odd", "port": 70000}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.10"}, {"hostname": "x.example"}]}}
        });
        let Some(Object::Service(service)) = record::<ServiceObject>(json) else { panic!("no service") };
        assert_eq!(service.ports, [ServicePort { name: "http".into(), number: 9080, protocol: Protocol::Http }]);
        assert_eq!(service.cluster_ips.len(), 2);
        assert_eq!(service.external_ips, ["203.0.113.10".parse::<IpAddr>().unwrap(), "198.51.100.1".parse().unwrap()]);
        assert_eq!(service.external_names, ["x.example".into()]);
        assert!(service.selects && !service.headless);
        assert_eq!((service.network.as_deref(), service.gateway_port), (Some("net-west"), Some(15443)));
        assert_eq!(service.created, 1_767_323_045);

        let external =
            serde_json::json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"type": "ExternalName"}});
        assert_eq!(record::<ServiceObject>(external), None);
        let headless = serde_json::json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"clusterIP": "None"}});
        let Some(Object::Service(headless)) = record::<ServiceObject>(headless) else { panic!("no service") };
        assert!(headless.headless && headless.cluster_ips.is_empty());
    }

    #[test]
    fn slices_and_pods() {
        let json = serde_json::json!({
            "metadata": {"name": "reviews-x", "namespace": "default", "labels": {"kubernetes.io/service-name": "reviews"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 9080, "protocol": "TCP"}, {"name": "u", "port": 1, "protocol": "UDP"}],
            "endpoints": [
                {"addresses": ["10.244.0.5"], "conditions": {"ready": true}, "nodeName": "n1", "zone": "z",
                 "targetRef": {"kind": "Pod", "name": "reviews-1", "namespace": "default"}},
                {"addresses": ["10.244.0.6"], "conditions": {"ready": false, "terminating": true}},
                {"addresses": ["10.244.0.7"], "conditions": {}},
                {"addresses": ["nonsense"]}, {"addresses": []}]
        });
        let Some(Object::Slice(slice)) = record::<SliceObject>(json) else { panic!("no slice") };
        assert_eq!(slice.ports, [("http".into(), 9080)]);
        let states: Vec<_> = slice.endpoints.iter().map(|e| (e.ready, e.terminating, e.pod.as_deref())).collect();
        assert_eq!(states, [(true, false, Some("reviews-1")), (false, true, None), (true, false, None)]);
        let nulls = serde_json::json!({"metadata": {"name": "a", "namespace": "b",
            "labels": {"kubernetes.io/service-name": "c"}}, "addressType": "IPv6", "endpoints": null, "ports": null});
        assert!(record::<SliceObject>(nulls).is_some());
        let fqdn = serde_json::json!({"metadata": {"name": "a", "namespace": "b",
            "labels": {"kubernetes.io/service-name": "c"}}, "addressType": "FQDN"});
        assert_eq!(record::<SliceObject>(fqdn), None);

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
        let Some(Object::Pod(running)) = record::<PodObject>(pod("Running", false)) else { panic!("no pod") };
        assert_eq!((&*running.workload, &*running.service_account), ("reviews-v1", "default"));
        assert!(running.terminating);
        assert_eq!(record::<PodObject>(pod("Running", true)), Some(Object::Pod(running)));
        assert_eq!(record::<PodObject>(pod("Failed", false)), None);
        assert_eq!(record::<PodObject>(pod("Succeeded", false)), None);
    }

    #[test]
    fn only_gateways_that_pass_through_matter() {
        let gateway = |mode: &str| {
            serde_json::json!({"metadata": {"name": "g", "namespace": "istio-system"}, "spec": {
                "selector": {"istio": "eastwestgateway"},
                "servers": [{"port": {"number": 15443, "name": "tls", "protocol": "TLS"},
                             "tls": {"mode": mode}, "hosts": ["*.local"]}]}})
        };
        let Some(Object::Gateway(found)) = record::<api::gateway::Gateway>(gateway("AUTO_PASSTHROUGH")) else {
            panic!("no gateway")
        };
        assert_eq!(found.hosts, ["*.local".into()]);
        assert_eq!(record::<api::gateway::Gateway>(gateway("PASSTHROUGH")), None);
    }
}
