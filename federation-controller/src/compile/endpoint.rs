//! An endpoint in compact form: its own fields, and references to what it shares with others. It is encoded when it is sent.
//!
//! Ten thousands of endpoints have the names, labels and identities of some hundreds of pod templates, so these are kept once
//! per template ([`Prototype`]) and node ([`Location`]). The version of an endpoint is a hash of everything that is encoded:
//! endpoints of equal versions have equal encodings, in every process.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use wire::discovery::{self, Health, Locality};
use wire::name;

use super::resource::{Audience, version};
use super::workload;
use crate::objects::{Template, Text};

/// The fields that the endpoints of one cluster and network share.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NetworkScope {
    /// The cluster.
    pub cluster: Text,
    /// The network.
    pub network: Text,
    /// All networks of the mesh.
    pub networks: Arc<[Text]>,
    /// The proxies that may receive the endpoints.
    pub audience: Audience,
    /// The clusters in which a connection to an endpoint's own address reaches the service.
    pub reachable_in: Arc<[Text]>,
    /// The trust domain of the identities.
    pub trust_domain: Text,
}

/// The fields that the endpoints of one service and pod template share.
#[derive(Clone, PartialEq, Debug)]
pub struct PrototypeFields {
    /// The service's hostname.
    pub hostname: Arc<str>,
    /// The fields that endpoints of other services share as well.
    pub scope: Arc<NetworkScope>,
    /// Service port to pod port.
    pub ports: Box<[(u16, u16)]>,
    /// The pods' template; `None` for endpoints without pods.
    pub template: Option<Arc<Template>>,
    /// Only proxies on the endpoint's own node use it.
    pub node_local: bool,
    /// Ports of the pod on which its sidecar terminates no TLS.
    pub plaintext_ports: Box<[u16]>,
}

impl Deref for PrototypeFields {
    type Target = NetworkScope;

    fn deref(&self) -> &NetworkScope {
        &self.scope
    }
}

impl PrototypeFields {
    /// Returns the SPIFFE ID; empty if it is unknown.
    pub fn identity(&self) -> String {
        self.template.as_ref().map(|template| workload::identity(&self.trust_domain, template)).unwrap_or_default()
    }
}

/// [`PrototypeFields`] with their hash.
#[derive(Debug)]
pub struct Prototype {
    fields: PrototypeFields,
    hash: u64,
}

impl Prototype {
    /// Creates the prototype of endpoints with these fields.
    pub fn new(fields: PrototypeFields) -> Self {
        let hash = version(&shared_message(&fields).encode_to_vec());
        Prototype { fields, hash }
    }

    /// The fields.
    pub fn fields(&self) -> &PrototypeFields {
        &self.fields
    }
}

/// The location of an endpoint.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Location {
    /// The region.
    pub region: Text,
    /// The zone.
    pub zone: Text,
    /// The subzone.
    pub subzone: Text,
    /// The node; empty for a summary.
    pub node: Text,
}

impl Location {
    /// Returns the locality: the location without the node.
    pub fn locality(&self) -> Locality {
        Locality { region: self.region.to_string(), zone: self.zone.to_string(), subzone: self.subzone.to_string() }
    }
}

/// An endpoint, or the summary of all endpoints of one locality behind gateways.
#[derive(Clone, Debug)]
pub struct Endpoint {
    prototype: Arc<Prototype>,
    location: Arc<Location>,
    content: Content,
}

/// The fields of one endpoint.
#[derive(Clone, PartialEq, Debug)]
pub enum Content {
    /// A pod, or an address without a pod.
    Direct {
        /// The address.
        ip: IpAddr,
        /// [`Health`] as its number.
        health: u8,
        /// The pod's name.
        pod: Option<Text>,
        /// The pod's name is its hostname within the service.
        named: bool,
    },
    /// A pod with addresses of both families, or with a hostname that is not its name. Few endpoints are like this, so the
    /// others do not pay for the further fields.
    Unusual(Box<Direct>),
    /// The summary of the endpoints of one locality.
    Summary {
        /// The number of ready endpoints.
        ready: u32,
        /// The name of the subset; `None`: all endpoints.
        subset: Option<Text>,
        /// The identities and ports, if they are not the prototype's.
        details: Option<Box<SummaryDetails>>,
    },
}

/// The own fields of a direct endpoint.
#[derive(Clone, PartialEq, Debug)]
pub struct Direct {
    /// The address; the IPv4 address if there is another.
    pub ip: IpAddr,
    /// The address of the other family.
    pub further_ip: Option<IpAddr>,
    /// [`Health`] as its number.
    pub health: u8,
    /// The pod's name.
    pub pod: Option<Text>,
    /// The pod's hostname within the service.
    pub hostname: Option<Text>,
}

/// References to the fields of a [`Direct`].
#[derive(Clone, Copy)]
struct Own<'a> {
    ip: IpAddr,
    further_ip: Option<IpAddr>,
    health: u8,
    pod: Option<&'a Text>,
    hostname: Option<&'a Text>,
}

impl From<Direct> for Content {
    fn from(direct: Direct) -> Self {
        let named = direct.hostname.is_some() && direct.hostname == direct.pod;
        if direct.further_ip.is_none() && (named || direct.hostname.is_none()) {
            Content::Direct { ip: direct.ip, health: direct.health, pod: direct.pod, named }
        } else {
            Content::Unusual(Box::new(direct))
        }
    }
}

impl Content {
    /// Returns the fields of a direct endpoint.
    fn own(&self) -> Option<Own<'_>> {
        match self {
            Content::Direct { ip, health, pod, named } => {
                let pod = pod.as_ref();
                Some(Own { ip: *ip, further_ip: None, health: *health, pod, hostname: pod.filter(|_| *named) })
            }
            Content::Unusual(of) => Some(Own {
                ip: of.ip,
                further_ip: of.further_ip,
                health: of.health,
                pod: of.pod.as_ref(),
                hostname: of.hostname.as_ref(),
            }),
            Content::Summary { .. } => None,
        }
    }
}

/// The identities and ports of a summary.
#[derive(Clone, PartialEq, Debug)]
pub struct SummaryDetails {
    /// SPIFFE IDs, sorted.
    pub identities: Box<[Text]>,
    /// Service ports of the ready endpoints, sorted.
    pub ports: Box<[u16]>,
}

impl Endpoint {
    /// Creates an endpoint.
    pub fn new(prototype: Arc<Prototype>, location: Arc<Location>, content: Content) -> Self {
        Endpoint { prototype, location, content }
    }

    /// Returns the version. It is computed on each call, which takes as long as one hash of a hundred bytes.
    pub fn version(&self) -> u64 {
        let Endpoint { prototype, location, content } = self;
        // There are few summaries, and they have few of the prototype's fields.
        let Some(Own { ip, further_ip, health, pod, hostname }) = content.own() else {
            return version(&self.message().encode_to_vec());
        };
        let mut own = Vec::with_capacity(128);
        own.extend(prototype.hash.to_le_bytes());
        own.push(health);
        own.extend(&name::ip_to_bytes(ip)[..]);
        for part in [&location.region, &location.zone, &location.subzone, &location.node].into_iter().chain(pod) {
            own.extend(part.as_bytes());
            own.push(0);
        }
        // No text has these bytes.
        if let Some(further) = further_ip {
            own.push(0xFF);
            own.extend(&name::ip_to_bytes(further)[..]);
        }
        if let Some(hostname) = hostname {
            own.push(0xFE);
            own.extend(hostname.as_bytes());
        }
        version(&own)
    }

    /// The fields that the endpoint shares with others.
    pub fn fields(&self) -> &PrototypeFields {
        &self.prototype.fields
    }

    /// The address; `None` for a summary.
    pub fn ip(&self) -> Option<IpAddr> {
        self.content.own().map(|own| own.ip)
    }

    /// The address of the other family, if the endpoint has one.
    pub fn further_ip(&self) -> Option<IpAddr> {
        self.content.own().and_then(|own| own.further_ip)
    }

    /// The proxies that may receive the endpoint.
    pub fn audience(&self) -> &Audience {
        &self.fields().audience
    }

    /// Returns whether proxies of a network use the endpoint.
    pub fn is_for(&self, network: &str) -> bool {
        let fields = self.fields();
        let exists = || fields.networks.iter().any(|of| **of == *network);
        match &self.content {
            Content::Summary { .. } => *fields.network != *network && exists(),
            // The network is unknown, and the audience is the endpoint's own cluster.
            _ if fields.network.is_empty() => exists(),
            _ => *fields.network == *network && exists(),
        }
    }

    /// Returns the networks whose proxies use the endpoint.
    pub fn networks(&self) -> impl Iterator<Item = &Text> {
        self.fields().networks.iter().filter(|network| self.is_for(network))
    }

    /// Returns the resource name.
    pub fn name(&self) -> String {
        let fields = self.fields();
        let (hostname, NetworkScope { network, cluster, .. }) = (&fields.hostname, &**fields);
        if let Some(Own { ip, .. }) = self.content.own() {
            return name::endpoint(hostname, network, cluster, &ip.to_string());
        }
        let Location { region, zone, subzone, .. } = &*self.location;
        let mut id = format!("{network}/{region}/{zone}/{subzone}");
        if let Some(subset) = self.subset() {
            id = format!("{id}/{subset}");
        }
        name::endpoint(hostname, name::SUMMARY, cluster, &id)
    }

    /// Compares the names of two endpoints of a service: addresses first, then summaries.
    pub fn order(&self, other: &Endpoint) -> Ordering {
        let (own, others) = (self.fields(), other.fields());
        let scope = || (&own.cluster, &own.network).cmp(&(&others.cluster, &others.network));
        match (self.ip(), other.ip()) {
            (Some(ip), Some(of)) => ip.cmp(&of).then_with(scope),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => scope()
                .then_with(|| self.location.cmp(&other.location))
                .then_with(|| self.subset().cmp(&other.subset())),
        }
    }

    /// The subset of a summary; `None`: all endpoints.
    fn subset(&self) -> Option<&Text> {
        match &self.content {
            Content::Summary { subset, .. } => subset.as_ref(),
            _ => None,
        }
    }

    /// Returns whether content, names or audience differ from an earlier form of the endpoint.
    pub fn differs(&self, before: &Endpoint) -> bool {
        let equal = match &self.content {
            Content::Summary { .. } => self.version() == before.version(),
            direct => {
                self.prototype.hash == before.prototype.hash
                    && self.location == before.location
                    && *direct == before.content
            }
        };
        !equal || self.audience() != before.audience() || self.fields().networks != before.fields().networks
    }

    /// Returns the encoded message.
    pub fn encode(&self) -> Bytes {
        self.message().encode_to_vec().into()
    }

    fn message(&self) -> discovery::Endpoint {
        let fields = self.fields();
        let locality = Some(self.location.locality());
        match &self.content {
            Content::Direct { .. } | Content::Unusual(_) => {
                let mut message = shared_message(fields);
                message.locality = locality;
                if let Some(discovery::endpoint::Kind::Direct(direct)) = &mut message.kind
                    && let Some(Own { ip, further_ip, health, pod, hostname }) = self.content.own()
                {
                    message.health = health.into();
                    direct.ip = name::ip_to_bytes(ip);
                    direct.further_ips = further_ip.into_iter().map(name::ip_to_bytes).collect();
                    direct.pod = pod.map(ToString::to_string).unwrap_or_default();
                    direct.pod_hostname = hostname.map(ToString::to_string).unwrap_or_default();
                    direct.node = self.location.node.to_string();
                }
                message
            }
            Content::Summary { ready, subset, details } => {
                let health = if *ready > 0 { Health::Ready } else { Health::Unready };
                let (identities, ports) = match details {
                    Some(details) => {
                        (details.identities.iter().map(ToString::to_string).collect(), details.ports.to_vec())
                    }
                    None => (vec![fields.identity()], fields.ports.iter().map(|(port, _)| *port).collect()),
                };
                let summary = discovery::Summary {
                    ready: *ready,
                    identities,
                    ports: ports.into_iter().map(u32::from).collect(),
                    subset: subset.as_deref().unwrap_or_default().into(),
                };
                discovery::Endpoint {
                    service: fields.hostname.to_string(),
                    cluster: fields.cluster.to_string(),
                    network: fields.network.to_string(),
                    locality,
                    health: health.into(),
                    weight: *ready,
                    kind: Some(discovery::endpoint::Kind::Summary(summary)),
                }
            }
        }
    }
}

/// Returns the message of a direct endpoint with the fields that it shares with others.
fn shared_message(fields: &PrototypeFields) -> discovery::Endpoint {
    let template = fields.template.as_ref();
    let labels = template.into_iter().flat_map(|of| of.labels.iter());
    let direct = discovery::Direct {
        ip: Bytes::new(),
        ports: fields.ports.iter().map(|(port, target)| ((*port).into(), (*target).into())).collect(),
        identity: fields.identity(),
        mutual_tls: template.is_some_and(|template| template.accepts_mutual_tls()),
        pod: String::new(),
        workload: template.map(|of| workload::labels(&of.namespace, &of.workload, &of.labels)),
        labels: labels.map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        node: String::new(),
        further_ips: Vec::new(),
        node_local: fields.node_local,
        plaintext_ports: fields.plaintext_ports.iter().map(|port| (*port).into()).collect(),
        pod_hostname: String::new(),
    };
    discovery::Endpoint {
        service: fields.hostname.to_string(),
        cluster: fields.cluster.to_string(),
        network: fields.network.to_string(),
        locality: None,
        health: Health::Ready.into(),
        weight: 1,
        kind: Some(discovery::endpoint::Kind::Direct(direct)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Pod, SliceEndpoint};

    /// Sizes of records of which there is one per endpoint. Each byte costs ten thousand in a mesh of 10,000 endpoints.
    #[test]
    fn records_are_small() {
        assert_eq!(size_of::<Endpoint>(), 56);
        assert_eq!(size_of::<Option<Pod>>(), 48);
        assert_eq!(size_of::<SliceEndpoint>(), 48);
    }
}
