//! `v1` Service.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use api::linkerd::ServiceAnnotations;
use k8s_openapi::api::core::v1 as core;
use kube::core::ObjectMeta;
use serde::{Deserialize, Serialize};
use wire::discovery::Protocol;

mod details;

pub use details::{DeclaredPort, IpFamily, ServiceDetails, Transport};

use super::intern::{Strings, copy};
use super::{Kind, Labels, Record, Text, fields, metadata};

/// A service of one cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Service {
    /// The namespace.
    pub namespace: Text,
    /// The name.
    pub name: Text,
    /// `metadata.creationTimestamp`, seconds since 1970.
    pub created: i64,
    /// `spec.clusterIPs`, without "None".
    pub cluster_ips: Box<[IpAddr]>,
    /// `spec.clusterIP: None`.
    pub headless: bool,
    /// TCP ports. Ports of other protocols are left out.
    pub ports: Vec<ServicePort>,
    /// `spec.selector` is not empty.
    pub selects: bool,
    /// `spec.selector`, which selects WorkloadEntries beside pods; `None`: it is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Box<Labels>>,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// `spec.internalTrafficPolicy: Local`, which has no meaning for a headless service.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub node_local: bool,
    /// Label `topology.istio.io/network`: the service is a gateway of that network.
    pub network: Option<Text>,
    /// Label `networking.istio.io/gatewayPort`; 0 if its value is not a port.
    pub gateway_port: Option<u16>,
    /// `status.loadBalancer.ingress[].ip` and `spec.externalIPs`.
    pub external_ips: Box<[IpAddr]>,
    /// `status.loadBalancer.ingress[].hostname`.
    #[serde(default)]
    pub external_names: Box<[Text]>,
    /// Annotation `traffic.istio.io/nodeSelector`: the labels of the nodes at whose addresses a gateway is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<Box<Labels>>,
    /// `spec.type: ExternalName`. The service has no other fields: DNS resolves its name to one outside the mesh.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub external: bool,
    /// Annotation `networking.istio.io/exportTo`: the namespaces whose clients see the service; empty: as the mesh
    /// settings say.
    #[serde(default, skip_serializing_if = "<[Text]>::is_empty")]
    pub export_to: Box<[Text]>,
    /// Linkerd's annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linkerd: Option<Arc<ServiceAnnotations>>,
    /// What imports have beside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<ServiceDetails>>,
}

/// A port of a service.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ServicePort {
    /// The name; empty if the only port has none.
    pub name: Text,
    /// The number.
    pub number: u16,
    /// The declared protocol; see [`protocol_of`].
    #[serde(with = "protocol_number")]
    pub protocol: Protocol,
    /// `nodePort`; 0: none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub node_port: u16,
    /// `targetPort`.
    #[serde(default, skip_serializing_if = "TargetPort::is_same")]
    pub target: TargetPort,
}

/// The port of the workloads that a port of a service leads to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum TargetPort {
    /// The service's own number.
    #[default]
    Same,
    /// Another number.
    Number(u16),
    /// The port of this name.
    Name(Text),
}

impl TargetPort {
    fn is_same(&self) -> bool {
        *self == TargetPort::Same
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(port: &u16) -> bool {
    *port == 0
}

/// The generated enum as its number on the wire.
mod protocol_number {
    use serde::{Deserialize, Deserializer, Serializer};
    use wire::discovery::Protocol;

    pub(crate) fn serialize<S: Serializer>(protocol: &Protocol, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i32(*protocol as i32)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Protocol, D::Error> {
        Ok(Protocol::try_from(i32::deserialize(from)?).unwrap_or_default())
    }
}

/// The fields that are read.
#[derive(kube::Resource, Clone, Debug, Deserialize)]
#[resource(inherit = "core::Service")]
pub struct Source {
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
    internal_traffic_policy: String,
    session_affinity: String,
    session_affinity_config: SessionAffinityConfig,
    traffic_distribution: Option<String>,
    ip_families: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SessionAffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: ClientIpConfig,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClientIpConfig {
    timeout_seconds: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PortSpec {
    name: Option<String>,
    port: i64,
    protocol: Option<String>,
    app_protocol: Option<String>,
    node_port: Option<i64>,
    target_port: Option<serde_json::Value>,
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

impl Record for Service {
    type Source = Source;
    const KIND: Kind = Kind::Service;
    const NAME: &'static str = "Service";
    const LIMIT: usize = 20_000;

    fn extract(object: Source) -> Option<Self> {
        let Source { metadata, spec, status } = object;
        let details = ServiceDetails::of(&spec).map(Box::new);
        if spec.r#type == "ExternalName" {
            return Some(Service {
                namespace: fields::namespace(&metadata)?,
                name: fields::name(&metadata).filter(|name| fields::is_label(name))?,
                created: fields::created(&metadata),
                external: true,
                ..Service::default()
            });
        }
        let mut ips = spec.cluster_ips;
        if ips.is_empty() {
            ips.push(spec.cluster_ip);
        }
        let ingress = status.load_balancer.ingress;
        let names = ingress.iter().take(fields::MAX_ADDRESSES).filter_map(|ingress| ingress.hostname.as_deref());
        let external_names = names.filter(|name| fields::is_subdomain(name)).map(Into::into).collect();
        let external = ingress.into_iter().filter_map(|ingress| ingress.ip).chain(spec.external_ips);
        let external = external.take(fields::MAX_ADDRESSES).filter_map(|ip| ip.parse().ok());
        let headless = ips.iter().any(|ip| ip == "None");
        let selector = spec.selector.filter(|selector| !selector.is_empty());
        Some(Service {
            namespace: fields::namespace(&metadata)?,
            name: fields::name(&metadata).filter(|name| fields::is_label(name))?,
            created: fields::created(&metadata),
            headless,
            node_local: spec.internal_traffic_policy == "Local" && !headless,
            cluster_ips: ips.iter().take(2).filter_map(|ip| ip.parse().ok()).collect(),
            ports: spec.ports.iter().take(fields::MAX_PORTS).filter_map(PortSpec::extract).collect(),
            selects: selector.is_some(),
            selector: selector.map(|of| Box::new(fields::labels(Some(of)))),
            publish_not_ready: spec.publish_not_ready_addresses,
            network: fields::network(&metadata),
            gateway_port: fields::label(&metadata, "networking.istio.io/gatewayPort").map(|of| of.parse().unwrap_or(0)),
            external_ips: external.filter(fields::is_reachable).collect(),
            external_names,
            node_selector: fields::node_selector(&metadata).map(Box::new),
            external: false,
            export_to: fields::export_to(&metadata).into(),
            linkerd: metadata.annotations.as_ref().and_then(ServiceAnnotations::read).map(Arc::new),
            details,
        })
    }

    fn namespace(&self) -> Option<&Text> {
        Some(&self.namespace)
    }

    fn name(&self) -> &Text {
        &self.name
    }

    fn size(&self) -> usize {
        let ports = self.ports.iter().map(|port| size_of::<ServicePort>() + fields::size(&port.name));
        let addresses = (self.cluster_ips.len() + self.external_ips.len()) * size_of::<IpAddr>();
        let names = self.external_names.iter().map(|name| fields::size(name));
        let selector = self.node_selector.iter().chain(&self.selector).map(|of| of.size()).sum::<usize>();
        let linkerd = self.linkerd.as_ref().map_or(0, |of| {
            let texts = of.retry_on.iter().chain(&of.problems).map(|text| text.len() + size_of::<String>());
            size_of::<ServiceAnnotations>() + texts.sum::<usize>()
        });
        let details = self.details.as_ref().map_or(0, |details| details.size());
        let own = size_of::<Self>() + fields::size(&self.name) + fields::size(&self.namespace);
        let export_to: usize = self.export_to.iter().map(|namespace| fields::size(namespace)).sum();
        own + export_to + ports.sum::<usize>() + addresses + names.sum::<usize>() + selector + linkerd + details
    }

    fn intern(&mut self, strings: &mut Strings) {
        strings.text(&mut self.namespace);
        strings.text(&mut self.name);
        strings.option(&mut self.network);
        self.node_selector.iter_mut().chain(&mut self.selector).for_each(|labels| strings.labels(labels));
        for port in &mut self.ports {
            strings.text(&mut port.name);
            if let TargetPort::Name(name) = &mut port.target {
                strings.text(name);
            }
        }
        self.ports = self.ports.to_vec();
        self.external_names = self.external_names.iter().map(copy).collect();
        self.export_to.iter_mut().for_each(|namespace| strings.text(namespace));
        self.details.iter_mut().for_each(|details| details.intern(strings));

        self.linkerd = self.linkerd.as_ref().map(|of| Arc::new(ServiceAnnotations::clone(of)));
    }
}

/// The port of an east-west gateway without a label.
const GATEWAY_PORT: u16 = 15443;

impl Service {
    /// Returns the ports of every protocol, as the service declares them.
    pub fn declared_ports(&self) -> Vec<DeclaredPort> {
        match &self.details {
            Some(details) if !details.ports.is_empty() => details.ports.to_vec(),
            _ => self
                .ports
                .iter()
                .map(|port| DeclaredPort {
                    name: port.name.clone(),
                    transport: Transport::Tcp,
                    number: port.number,
                    app_protocol: None,
                })
                .collect(),
        }
    }

    /// Returns `ipFamilies`.
    pub fn ip_families(&self) -> Vec<IpFamily> {
        match &self.details {
            Some(details) if !details.ip_families.is_empty() => details.ip_families.to_vec(),
            _ => vec![IpFamily::V4],
        }
    }

    /// The port of the gateway that the service is.
    pub fn gateway_port(&self) -> u16 {
        self.gateway_port.unwrap_or(GATEWAY_PORT)
    }

    /// The port of the gateway on nodes; `None` if it has none, or is not reached at nodes.
    pub fn gateway_node_port(&self) -> Option<u16> {
        let port = self.ports.iter().find(|port| port.number == self.gateway_port())?.node_port;
        (self.node_selector.is_some() && self.external_ips.is_empty() && port != 0).then_some(port)
    }
}

impl PortSpec {
    fn extract(&self) -> Option<ServicePort> {
        if !fields::is_tcp(self.protocol.as_deref()) {
            return None;
        }
        let name = self.name.as_deref().filter(|name| name.len() <= fields::MAX_LABEL).unwrap_or_default();
        let number = fields::port(self.port)?;
        Some(ServicePort {
            name: name.into(),
            number,
            protocol: protocol_of(self.app_protocol.as_deref(), name, number),
            node_port: self.node_port.and_then(fields::port).unwrap_or_default(),
            target: self.target_port.as_ref().map(|of| target(of, number)).unwrap_or_default(),
        })
    }
}

/// Returns where the port of a number leads to.
fn target(port: &serde_json::Value, number: u16) -> TargetPort {
    match port {
        serde_json::Value::String(name) if name.len() <= fields::MAX_LABEL => TargetPort::Name(name.as_str().into()),
        other => match other.as_i64().and_then(fields::port) {
            Some(target) if target != number => TargetPort::Number(target),
            _ => TargetPort::Same,
        },
    }
}

/// Returns the protocol of a port by the rules of Istio: `appProtocol` if it is set, else the part of the port's name before
/// the first dash. With an unknown word, a port of [`wire::SERVER_FIRST_PORTS`] is opaque, and others are
/// `PROTOCOL_UNSPECIFIED`.
fn protocol_of(app_protocol: Option<&str>, port_name: &str, number: u16) -> Protocol {
    let word = match app_protocol {
        Some(declared) => declared,
        None => match port_name.split_once('-') {
            Some(("grpc", rest)) if rest == "web" || rest.starts_with("web-") => "grpc-web",
            Some((prefix, _)) => prefix,
            None => port_name,
        },
    };
    match word.to_ascii_lowercase().as_str() {
        "http" | "grpc-web" | "kubernetes.io/ws" => Protocol::Http,
        "http2" | "kubernetes.io/h2c" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "https" | "tls" | "kubernetes.io/wss" => Protocol::Tls,
        "tcp" | "mongo" | "mysql" | "redis" => Protocol::Tcp,
        _ if wire::SERVER_FIRST_PORTS.contains(&number) => Protocol::Tcp,
        _ => Protocol::Unspecified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extract(object: serde_json::Value) -> Option<Service> {
        Service::extract(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn a_service_as_an_api_server_sends_it() {
        let json = serde_json::json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "reviews", "namespace": "default", "creationTimestamp": "2026-01-02T03:04:05Z",
                         "labels": {"topology.istio.io/network": "net-west", "networking.istio.io/gatewayPort": "15443"},
                         "annotations": {"networking.istio.io/exportTo": "., shop,Not_A_Name,~"}},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.3.4", "clusterIPs": ["10.96.3.4", "fd00::4"],
                     "selector": {"app": "reviews"}, "externalIPs": ["198.51.100.1"],
                     "ports": [{"name": "http", "port": 9080, "targetPort": 9080, "protocol": "TCP", "nodePort": 30000},
                               {"name": "dns", "port": 53, "protocol": "UDP"},
                               {"name": "odd", "port": 70000}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.10"}, {"hostname": "x.example"}]}}
        });
        let service = extract(json).unwrap();
        let port = ServicePort {
            name: "http".into(),
            number: 9080,
            protocol: Protocol::Http,
            node_port: 30000,
            ..Default::default()
        };
        assert_eq!(service.ports, [port]);
        assert_eq!(service.cluster_ips.len(), 2);
        assert_eq!(*service.external_ips, ["203.0.113.10".parse::<IpAddr>().unwrap(), "198.51.100.1".parse().unwrap()]);
        assert_eq!(*service.external_names, ["x.example".into()]);
        assert!(service.selects && !service.headless);
        let selector = service.selector.as_ref().and_then(|selector| selector.get("app"));
        assert_eq!(selector.map(|app| &**app), Some("reviews"));
        let targets = [("web".into(), TargetPort::Name("web".into())), (81.into(), TargetPort::Number(81))];
        for (port, expected) in
            targets.into_iter().chain([(80.into(), TargetPort::Same), (70_000.into(), TargetPort::Same)])
        {
            assert_eq!(target(&port, 80), expected, "{port}");
        }
        assert_eq!((service.network.as_deref(), service.gateway_port), (Some("net-west"), Some(15443)));
        assert_eq!(service.created, 1_767_323_045);
        assert_eq!(*service.export_to, [".".into(), "shop".into(), "~".into()]);

        let external =
            serde_json::json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"type": "ExternalName"}});
        let external = extract(external).unwrap();
        assert!(external.external && external.ports.is_empty() && external.cluster_ips.is_empty());
        let headless = serde_json::json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"clusterIP": "None"}});
        let headless = extract(headless).unwrap();
        assert!(headless.headless && headless.cluster_ips.is_empty());
        for (ip, expected) in [("10.96.0.1", true), ("None", false)] {
            let local = serde_json::json!({"metadata": {"name": "a", "namespace": "b"},
                "spec": {"clusterIP": ip, "internalTrafficPolicy": "Local"}});
            assert_eq!(extract(local).unwrap().node_local, expected, "{ip}");
        }
    }

    #[test]
    fn protocols_are_declared_by_app_protocol_then_by_name() {
        for (app, name, expected) in [
            (None, "http", Protocol::Http),
            (None, "http-admin", Protocol::Http),
            (None, "grpc-web", Protocol::Http),
            (None, "grpc-web-x", Protocol::Http),
            (None, "grpc-website", Protocol::Grpc),
            (None, "tcp-mysql", Protocol::Tcp),
            (None, "mysql", Protocol::Tcp),
            (None, "https-x", Protocol::Tls),
            (None, "metrics", Protocol::Unspecified),
            (None, "", Protocol::Unspecified),
            (Some("grpc"), "http", Protocol::Grpc),
            (Some("kubernetes.io/h2c"), "x", Protocol::Http2),
            (Some("HTTP"), "x", Protocol::Http),
            (Some("mine.example/thing"), "http", Protocol::Unspecified),
        ] {
            assert_eq!(protocol_of(app, name, 9080), expected, "{app:?} {name}");
        }
        for number in [25, 53, 3306, 27017] {
            assert_eq!(protocol_of(None, "db", number), Protocol::Tcp, "{number}");
            assert_eq!(protocol_of(None, "http", number), Protocol::Http, "{number}");
        }
    }
}
