//! `discovery.k8s.io/v1` EndpointSlice, of address type IPv4 or IPv6.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1 as discovery;
use kube::core::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::intern::{Strings, copy};
use super::{Key, Kind, Record, Text, Transport, fields, metadata};

/// Some endpoints of a service.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Slice {
    /// The namespace.
    pub namespace: Text,
    /// The name.
    pub name: Text,
    /// Label `kubernetes.io/service-name`.
    pub service: Text,
    /// TCP ports: the service port's name, and the number that the endpoints listen on.
    pub ports: Box<[(Text, u16)]>,
    /// The ports of other protocols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_ports: Option<Box<[OtherPort]>>,
    /// The endpoints.
    pub endpoints: Box<[SliceEndpoint]>,
}

/// A port of a protocol other than TCP.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OtherPort {
    /// The service port's name.
    pub name: Text,
    /// The protocol.
    pub transport: Transport,
    /// The number that the endpoints listen on.
    pub number: u16,
}

/// One endpoint of a slice.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SliceEndpoint {
    /// `targetRef.name` where its kind is Pod; same namespace as the slice.
    pub pod: Option<Text>,
    /// The location, of which one copy is kept for all endpoints there.
    #[serde(flatten)]
    pub spot: Arc<Spot>,
    /// The first of `addresses`; the API says that they are fungible.
    pub ip: IpAddr,
    /// `conditions.ready`; absent means ready.
    pub ready: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// `conditions.serving`; absent means as `ready`.
    #[serde(default)]
    pub serving: bool,
    /// Whether `hostname` is the pod's name, as it is for pods of a StatefulSet. Another one is in the spot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub named: bool,
}

/// The location of an endpoint.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Spot {
    /// `nodeName`.
    pub node: Option<Text>,
    /// `zone`.
    pub zone: Option<Text>,
    /// `hostname`, if it is not the pod's name: all pods of a template have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Text>,
}

impl Default for SliceEndpoint {
    /// An endpoint at an unspecified address that is not ready.
    fn default() -> Self {
        let ip = IpAddr::from([0, 0, 0, 0]);
        SliceEndpoint {
            pod: None,
            spot: Arc::default(),
            ip,
            ready: false,
            terminating: false,
            serving: false,
            named: false,
        }
    }
}

impl SliceEndpoint {
    /// The endpoint's own name within its service.
    pub fn hostname(&self) -> Option<&Text> {
        if self.named { self.pod.as_ref() } else { self.spot.hostname.as_ref() }
    }
}

impl Deref for SliceEndpoint {
    type Target = Spot;

    fn deref(&self) -> &Spot {
        &self.spot
    }
}

/// The fields that are read.
#[derive(kube::Resource, Clone, Debug, Deserialize)]
#[resource(inherit = "discovery::EndpointSlice")]
#[serde(rename_all = "camelCase")]
pub struct Source {
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
    hostname: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
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

impl Record for Slice {
    type Source = Source;
    const KIND: Kind = Kind::Slice;
    const NAME: &'static str = "EndpointSlice";
    const LIMIT: usize = 200_000;

    fn extract(object: Source) -> Option<Self> {
        if !matches!(object.address_type.as_str(), "IPv4" | "IPv6") {
            return None;
        }
        let service =
            fields::label(&object.metadata, "kubernetes.io/service-name").filter(|of| fields::is_label(of))?;
        let ports = object.ports.into_iter().flatten().take(fields::MAX_PORTS);
        let (ports, others): (Vec<_>, Vec<_>) = ports.partition(|port| fields::is_tcp(port.protocol.as_deref()));
        let others: Box<[OtherPort]> = others.into_iter().filter_map(SlicePort::other).collect();
        let endpoints = object.endpoints.into_iter().flatten().take(fields::MAX_ENDPOINTS);
        Some(Slice {
            namespace: fields::namespace(&object.metadata)?,
            name: fields::name(&object.metadata)?,
            service,
            ports: ports
                .into_iter()
                .filter_map(|of| Some((of.name.unwrap_or_default().into(), fields::port(of.port?)?)))
                .collect(),
            other_ports: (!others.is_empty()).then_some(others),
            endpoints: endpoints.filter_map(|of| of.extract(object.address_type == "IPv4")).collect(),
        })
    }

    fn namespace(&self) -> Option<&Text> {
        Some(&self.namespace)
    }

    fn name(&self) -> &Text {
        &self.name
    }

    fn size(&self) -> usize {
        let endpoint = |of: &SliceEndpoint| {
            let texts = of.pod.iter().chain(&of.spot.node).chain(&of.spot.zone).chain(&of.spot.hostname);
            size_of::<SliceEndpoint>() + texts.map(|text| fields::size(text)).sum::<usize>()
        };
        let ports = self.ports.iter().map(|(name, _)| size_of::<(Text, u16)>() + fields::size(name));
        let others = self.other_ports.iter().flatten().map(|of| size_of::<OtherPort>() + fields::size(&of.name));
        let own = size_of::<Self>() + fields::size(&self.name) + fields::size(&self.service) + others.sum::<usize>();
        own + ports.sum::<usize>() + self.endpoints.iter().map(endpoint).sum::<usize>()
    }

    fn intern(&mut self, strings: &mut Strings) {
        // No other record has the slice's own name.
        self.name = copy(&self.name);
        strings.text(&mut self.namespace);
        strings.text(&mut self.service);
        self.ports.iter_mut().for_each(|(name, _)| strings.text(name));
        self.other_ports.iter_mut().flatten().for_each(|port| strings.text(&mut port.name));
        for endpoint in &mut self.endpoints {
            strings.spot(&mut endpoint.spot);
            // A pod's name is in one or two records, which share it between them.
            endpoint.pod = endpoint.pod.as_ref().map(copy);
        }
        self.endpoints = self.endpoints.to_vec().into();
    }
}

impl Slice {
    /// The service's namespace and name.
    pub fn service_key(&self) -> Key {
        Key { namespace: self.namespace.clone(), name: self.service.clone() }
    }

    /// The pods that the slice lists.
    pub fn pod_keys(&self) -> impl Iterator<Item = Key> + '_ {
        let pods = self.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref());
        pods.map(|pod| Key { namespace: self.namespace.clone(), name: pod.clone() })
    }
}

impl SlicePort {
    fn other(self) -> Option<OtherPort> {
        Some(OtherPort {
            name: self.name.filter(|name| name.len() <= fields::MAX_LABEL).unwrap_or_default().into(),
            transport: Transport::of(self.protocol.as_deref())?,
            number: fields::port(self.port?)?,
        })
    }
}

impl EndpointSpec {
    /// Extracts an endpoint of a slice of IPv4 or IPv6 addresses.
    fn extract(self, ipv4: bool) -> Option<SliceEndpoint> {
        let ip: IpAddr = self.addresses.first()?.parse().ok()?;
        let pod = self.target_ref.filter(|target| target.kind == "Pod").and_then(|target| target.name);
        let hostname = self.hostname.filter(|name| fields::is_label(name));
        let named = hostname.is_some() && hostname == pod;
        Some(SliceEndpoint {
            named,
            ip: Some(ip)
                .filter(|ip| ip.to_canonical().is_ipv4() == ipv4 && ip.is_ipv4() == ipv4)
                .filter(fields::is_reachable)?,
            ready: self.conditions.ready.unwrap_or(true),
            serving: self.conditions.serving.or(self.conditions.ready).unwrap_or(true),
            terminating: self.conditions.terminating.unwrap_or(false),
            pod: pod.map(Into::into),
            spot: Arc::new(Spot {
                node: self.node_name.filter(|name| fields::is_subdomain(name)).map(Into::into),
                zone: self.zone.filter(|zone| fields::is_label_value(zone)).map(Into::into),
                hostname: hostname.filter(|_| !named).map(Into::into),
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extract(object: serde_json::Value) -> Option<Slice> {
        Slice::extract(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn ready_and_terminating_endpoints_with_their_pods() {
        let json = serde_json::json!({
            "metadata": {"name": "reviews-x", "namespace": "default", "labels": {"kubernetes.io/service-name": "reviews"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 9080, "protocol": "TCP"}, {"name": "u", "port": 1, "protocol": "UDP"}],
            "endpoints": [
                {"addresses": ["10.244.0.5"], "conditions": {"ready": true}, "nodeName": "n1", "zone": "z",
                 "targetRef": {"kind": "Pod", "name": "reviews-1", "namespace": "default"}},
                {"addresses": ["10.244.0.6"], "conditions": {"ready": false, "terminating": true}},
                {"addresses": ["10.244.0.7"], "conditions": {}, "hostname": "db-0",
                 "targetRef": {"kind": "Pod", "name": "db-0"}},
                {"addresses": ["10.244.0.8"], "hostname": "db", "targetRef": {"kind": "Pod", "name": "db-x"}},
                {"addresses": ["fd00::1"]}, {"addresses": ["::ffff:10.244.0.9"]},
                {"addresses": ["nonsense"]}, {"addresses": []}]
        });
        let slice = extract(json).unwrap();
        assert_eq!(*slice.ports, [("http".into(), 9080)]);
        let states: Vec<_> = slice.endpoints.iter().map(|e| (e.ready, e.terminating, e.pod.as_deref())).collect();
        let expected = [
            (true, false, Some("reviews-1")),
            (false, true, None),
            (true, false, Some("db-0")),
            (true, false, Some("db-x")),
        ];
        assert_eq!(states, expected);
        let hostnames: Vec<_> = slice.endpoints.iter().map(|e| e.hostname().map(|name| &**name)).collect();
        assert_eq!(hostnames, [None, None, Some("db-0"), Some("db")]);
        let nulls = serde_json::json!({"metadata": {"name": "a", "namespace": "b",
            "labels": {"kubernetes.io/service-name": "c"}}, "addressType": "IPv6", "endpoints": null, "ports": null});
        assert!(extract(nulls).is_some());
        let fqdn = serde_json::json!({"metadata": {"name": "a", "namespace": "b",
            "labels": {"kubernetes.io/service-name": "c"}}, "addressType": "FQDN"});
        assert_eq!(extract(fqdn), None);
    }
}
