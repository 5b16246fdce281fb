//! What cluster watches tell the index: the few fields of each object that matter, and nothing else.
//!
//! A watch sends, per cluster and kind: [`Event::Listing`], an [`Event::Upsert`] for each object of the list, then
//! [`Event::Listed`]; from then on upserts and deletes as they happen. A watch that has to start over sends the same
//! sequence again: what a list no longer has is removed at its [`Event::Listed`], not before, so that a restarted watch
//! disturbs nothing. A lost connection sends [`Event::Link`] alone.
//!
//! Strings are `Arc<str>`: the index replaces equal ones by one copy when it keeps them.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use wire::discovery::Protocol;

/// A short string that many records share.
pub type Text = Arc<str>;

pub use super::labels::Labels;

/// One thing that happened in some cluster.
#[derive(Clone, Debug)]
pub enum Event {
    /// A cluster is known: this one at the start, or by a remote secret. Again with another `generation` of credentials:
    /// nothing but the link changes.
    ClusterAdded(Cluster),
    /// The cluster's secret is gone: all that it told is removed.
    ClusterRemoved {
        /// Its name.
        cluster: Text,
    },
    /// All clusters that have a secret now have been added. Those remembered from before a restart and not added again are
    /// forgotten.
    ClustersListed,
    /// How the connection to a cluster's API server is. Never changes what is known of the cluster.
    Link {
        /// The cluster.
        cluster: Text,
        /// How it is now.
        link: Link,
        /// Since when.
        since: SystemTime,
    },
    /// A list of all objects of one kind begins.
    Listing {
        /// The cluster.
        cluster: Text,
        /// The kind.
        kind: Kind,
    },
    /// The list is complete: objects of that kind that it did not have no longer exist.
    Listed {
        /// The cluster.
        cluster: Text,
        /// The kind.
        kind: Kind,
    },
    /// An object exists in this form.
    Upsert {
        /// The cluster.
        cluster: Text,
        /// The object.
        object: Object,
    },
    /// An object was deleted.
    Delete {
        /// The cluster.
        cluster: Text,
        /// Its kind.
        kind: Kind,
        /// Its namespace; empty for kinds without.
        namespace: Text,
        /// Its name.
        name: Text,
    },
    /// The mesh-wide settings of this primary, as read from its root namespace.
    Mesh(Mesh),
    /// Roots and issuers, as the certificate authority has them now.
    Trust(Trust),
}

/// A cluster of the mesh.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name.
    pub name: Text,
    /// Whether it is the one that this controller runs in.
    pub own: bool,
    /// The network that it is on unless its objects say otherwise; empty: not known here. From this controller's options for
    /// its own cluster, where the label `topology.istio.io/network` of the system namespace goes first; for a remote one from
    /// that annotation of its secret, and only without it from the remote system namespace's label.
    pub network: Text,
    /// The API server's address, for status only.
    pub server: Text,
}

/// How the connection to a cluster's API server is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Link {
    /// The first lists have not all arrived.
    Connecting,
    /// Watches are running.
    Connected,
    /// Not reachable; what was learnt stays. With the reason in words.
    Lost(Text),
    /// The server answers and refuses us (credentials, permissions). With the reason in words.
    Refused(Text),
}

/// The kinds that are watched.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// [`Namespace`].
    Namespace,
    /// [`Node`].
    Node,
    /// [`Service`].
    Service,
    /// [`Slice`].
    Slice,
    /// [`Pod`].
    Pod,
    /// [`Export`].
    Export,
    /// [`Gateway`].
    Gateway,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 7] =
        [Kind::Namespace, Kind::Node, Kind::Service, Kind::Slice, Kind::Pod, Kind::Export, Kind::Gateway];

    /// As people know it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Namespace => "Namespace",
            Kind::Node => "Node",
            Kind::Service => "Service",
            Kind::Slice => "EndpointSlice",
            Kind::Pod => "Pod",
            Kind::Export => "ServiceExport",
            Kind::Gateway => "Gateway",
        }
    }
}

/// An object of a watched kind.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Object {
    /// A `v1` Namespace.
    Namespace(Namespace),
    /// A `v1` Node.
    Node(Node),
    /// A `v1` Service. Those of type ExternalName are not sent.
    Service(Service),
    /// A `discovery.k8s.io/v1` EndpointSlice of address type IPv4 or IPv6 that names its service.
    Slice(Slice),
    /// A `v1` Pod that is neither Failed nor Succeeded.
    Pod(Pod),
    /// A `multicluster.x-k8s.io/v1alpha1` ServiceExport.
    Export(Export),
    /// A `networking.istio.io` Gateway with at least one server in AUTO_PASSTHROUGH mode.
    Gateway(Gateway),
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Object::Namespace(_) => Kind::Namespace,
            Object::Node(_) => Kind::Node,
            Object::Service(_) => Kind::Service,
            Object::Slice(_) => Kind::Slice,
            Object::Pod(_) => Kind::Pod,
            Object::Export(_) => Kind::Export,
            Object::Gateway(_) => Kind::Gateway,
        }
    }
}

/// A namespace.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Namespace {
    /// Its name.
    pub name: Text,
    /// Label `topology.istio.io/network`: on the system namespace, the cluster's network.
    pub network: Option<Text>,
}

/// A node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: Text,
    /// Label `topology.kubernetes.io/region`.
    pub region: Text,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Text,
    /// Label `topology.istio.io/subzone`.
    pub subzone: Text,
}

/// A service of one cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Service {
    /// Its namespace.
    pub namespace: Text,
    /// Its name.
    pub name: Text,
    /// `metadata.creationTimestamp`, seconds since 1970.
    pub created: i64,
    /// `spec.clusterIPs`, without "None".
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.clusterIP: None`.
    pub headless: bool,
    /// TCP ports. Those of other protocols are left out.
    pub ports: Vec<ServicePort>,
    /// `spec.selector` is not empty.
    pub selects: bool,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// Label `topology.istio.io/network`: it is a gateway of that network.
    pub network: Option<Text>,
    /// Label `networking.istio.io/gatewayPort`.
    pub gateway_port: Option<u16>,
    /// `status.loadBalancer.ingress[].ip` and `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].hostname`.
    #[serde(default)]
    pub external_names: Vec<Text>,
}

/// A service's port.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name; empty where the only port has none.
    pub name: Text,
    /// Its number.
    pub number: u16,
    /// From `appProtocol`, else from the name's prefix; see [`protocol_of`].
    #[serde(with = "protocol_number")]
    pub protocol: Protocol,
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

/// Some endpoints of a service.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Slice {
    /// Its namespace.
    pub namespace: Text,
    /// Its name.
    pub name: Text,
    /// Label `kubernetes.io/service-name`.
    pub service: Text,
    /// TCP ports: the service port's name, and the number that the endpoints listen on.
    pub ports: Vec<(Text, u16)>,
    /// The endpoints.
    pub endpoints: Box<[SliceEndpoint]>,
}

/// One endpoint of a slice.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SliceEndpoint {
    /// `targetRef.name` where its kind is Pod; same namespace as the slice.
    pub pod: Option<Text>,
    /// Where it is: the index keeps one copy for all that are there.
    #[serde(flatten)]
    pub spot: Arc<Spot>,
    /// The first of `addresses`; the API says that they are fungible.
    pub ip: IpAddr,
    /// `conditions.ready`; absent means ready.
    pub ready: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
}

/// Where an endpoint is.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Spot {
    /// `nodeName`.
    pub node: Option<Text>,
    /// `zone`.
    pub zone: Option<Text>,
}

impl Deref for SliceEndpoint {
    type Target = Spot;

    fn deref(&self) -> &Spot {
        &self.spot
    }
}

/// A pod.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Pod {
    /// Its name.
    pub name: Text,
    /// `spec.nodeName`.
    pub node: Text,
    /// What it has in common with others: the index keeps one copy for all of them.
    #[serde(flatten)]
    pub template: Arc<Template>,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
}

/// What the pods of one template have in common.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Template {
    /// Their namespace.
    pub namespace: Text,
    /// `spec.serviceAccountName`; "default" where it is absent.
    pub service_account: Text,
    /// Their labels.
    pub labels: Labels,
    /// What made them: the Deployment where the owner is a ReplicaSet made by one, else the owner, else the pod's own name.
    pub workload: Text,
}

impl Deref for Pod {
    type Target = Template;

    fn deref(&self) -> &Template {
        &self.template
    }
}

/// That the service of the same name in the same namespace may be used from other clusters.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Export {
    /// Its namespace.
    pub namespace: Text,
    /// Its name.
    pub name: Text,
    /// `metadata.creationTimestamp`, seconds since 1970.
    pub created: i64,
}

/// An Istio Gateway that passes TLS through by server name.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Gateway {
    /// Its namespace.
    pub namespace: Text,
    /// Its name.
    pub name: Text,
    /// `spec.selector`: labels of the gateway pods that it is for.
    pub selector: Labels,
    /// Hosts of all servers in AUTO_PASSTHROUGH mode, as written: `*.local`, `default/reviews.default.svc.cluster.local`.
    pub hosts: Vec<Text>,
}

/// Mesh-wide settings that discovery passes on or acts on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mesh {
    /// `meshId`.
    pub mesh_id: Text,
    /// `outboundTrafficPolicy.mode: REGISTRY_ONLY`.
    pub registry_only: bool,
    /// `accessLogFile`.
    pub access_log_file: Text,
    /// `accessLogEncoding: JSON`.
    pub access_log_json: bool,
    /// `accessLogFormat`.
    pub access_log_format: Text,
    /// `connectTimeout`.
    pub connect_timeout_ms: u32,
    /// `protocolDetectionTimeout`.
    pub protocol_detection_timeout_ms: u32,
    /// `localityLbSetting.enabled`.
    pub locality_load_balancing: bool,
    /// Every service is exported from every cluster, except `default/kubernetes` and those of `kube-system` and of our own
    /// components' namespace.
    pub export_all: bool,
}

impl Default for Mesh {
    /// Istio's defaults, with nothing exported.
    fn default() -> Self {
        Mesh {
            mesh_id: Text::default(),
            registry_only: false,
            access_log_file: Text::default(),
            access_log_json: false,
            access_log_format: Text::default(),
            connect_timeout_ms: 10_000,
            protocol_detection_timeout_ms: 0,
            locality_load_balancing: true,
            export_all: false,
        }
    }
}

/// What certificates are verified against.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trust {
    /// The mesh's trust domain.
    pub trust_domain: Text,
    /// Root certificates, DER.
    pub roots: Vec<Bytes>,
    /// Cluster, and SHA-256 of its intermediate's SubjectPublicKeyInfo.
    pub issuers: Vec<(Text, Bytes)>,
}

/// The protocol of a port, as Istio declares it: `appProtocol` where set, else the part of the port's name before the
/// first dash; `TCP` and `PROTOCOL_UNSPECIFIED` for what is not known.
pub fn protocol_of(app_protocol: Option<&str>, port_name: &str) -> Protocol {
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
        _ => Protocol::Unspecified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(protocol_of(app, name), expected, "{app:?} {name}");
        }
    }
}
