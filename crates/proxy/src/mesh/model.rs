//! The mesh as the data path reads it. Made from the wire's messages in `convert`; past that point nothing is invalid.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use balance::{Health, Locality};
use identity::SpiffeId;
use policy::{Authorization, Decision, Facts, PeerAuthentication};

/// What a port speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Not declared: found out from the first bytes.
    #[default]
    Unknown,
    /// HTTP/1.1, or HTTP/2 where the client opens with its preface.
    Http,
    /// HTTP/2, gRPC included.
    Http2,
    /// gRPC: HTTP/2 whose outcome is in the `grpc-status` trailer.
    Grpc,
    /// Opaque bytes; the server may speak first. The application's own TLS is opaque, too.
    Tcp,
}

/// A service's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// What it speaks.
    pub protocol: Protocol,
}

/// A service and its endpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// `<name>.<namespace>.svc.<domain>`.
    pub hostname: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its ports, by number.
    pub ports: Box<[Port]>,
    /// Its addresses here: those of the own cluster and those of all clusters.
    pub addresses: Box<[IpAddr]>,
    /// Its endpoints are addressed one by one.
    pub headless: bool,
    /// Its endpoints; `None` as long as they were not told.
    pub endpoints: Option<Arc<[Endpoint]>>,
}

/// What telemetry says of a workload. Empty parts are unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct WorkloadLabels {
    /// The name of the Deployment or the like.
    pub workload: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// The label `app`.
    pub app: Arc<str>,
    /// The label `version`.
    pub version: Arc<str>,
    /// The canonical service.
    pub canonical_service: Arc<str>,
    /// The canonical revision.
    pub canonical_revision: Arc<str>,
}

/// One pod behind a service, or all pods of a locality behind another network's gateways.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// The resource's name.
    pub id: Arc<str>,
    /// Its cluster.
    pub cluster: Arc<str>,
    /// Its network.
    pub network: Arc<str>,
    /// Where it runs.
    pub locality: Locality,
    /// Whether to use it.
    pub health: Health,
    /// Its share.
    pub weight: u32,
    /// How it is reached.
    pub reach: Reach,
}

/// How an endpoint is reached.
#[derive(Debug, Clone, PartialEq)]
pub enum Reach {
    /// At its own address.
    Direct(Arc<Direct>),
    /// Through the gateways of its network.
    Gateways {
        /// Who may answer.
        identities: Box<[SpiffeId]>,
        /// The service ports that it serves; empty: all.
        ports: Box<[u16]>,
    },
}

/// A pod in this network.
#[derive(Debug, Clone, PartialEq)]
pub struct Direct {
    /// Its address.
    pub ip: IpAddr,
    /// Service port to the port that it listens on.
    pub ports: Box<[(u16, u16)]>,
    /// Who answers; `None` where unknown.
    pub identity: Option<SpiffeId>,
    /// It takes the mesh's mutual TLS.
    pub mutual_tls: bool,
    /// What telemetry says of it.
    pub labels: Arc<WorkloadLabels>,
    /// The pod's name.
    pub pod: Arc<str>,
}

/// One address of a network's east-west gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Where it listens.
    pub address: SocketAddr,
    /// The cluster that it runs in.
    pub cluster: Arc<str>,
}

/// A port of the own application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundPort {
    /// The port that the application listens on.
    pub number: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// The service that it serves; empty where none.
    pub service: Arc<str>,
}

/// The own workload.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Own {
    /// Where it runs.
    pub locality: Locality,
    /// What telemetry says of it.
    pub labels: Arc<WorkloadLabels>,
    /// Its ports, by number.
    pub ports: Box<[InboundPort]>,
}

impl Own {
    /// What is known of a port.
    pub fn port(&self, number: u16) -> Option<&InboundPort> {
        self.ports.binary_search_by_key(&number, |port| port.number).ok().map(|at| &self.ports[at])
    }
}

/// What to do with destinations that are not of the mesh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OutboundPolicy {
    /// Carry them there unchanged.
    #[default]
    AllowAny,
    /// Refuse them.
    RegistryOnly,
}

/// How access is logged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct LogSettings {
    /// `/dev/stdout` or a path; empty: nowhere.
    pub file: Arc<str>,
    /// As JSON and not as text.
    pub json: bool,
    /// The format; empty: the default one.
    pub format: Arc<str>,
}

/// Mesh-wide settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The mesh's name.
    pub mesh_id: Arc<str>,
    /// The suffix of service hostnames.
    pub cluster_domain: Arc<str>,
    /// For unknown destinations.
    pub outbound_policy: OutboundPolicy,
    /// Access logs.
    pub log: LogSettings,
    /// The longest time to connect.
    pub connect_timeout: Duration,
    /// How long to wait for a client's first bytes where the protocol is not declared; `None`: without limit.
    pub detection_timeout: Option<Duration>,
    /// Prefer near endpoints.
    pub locality_load_balancing: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mesh_id: Arc::default(),
            cluster_domain: "cluster.local".into(),
            outbound_policy: OutboundPolicy::default(),
            log: LogSettings::default(),
            connect_timeout: Duration::from_secs(10),
            detection_timeout: None,
            locality_load_balancing: true,
        }
    }
}

/// Everything at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Mesh-wide settings.
    pub settings: Arc<Settings>,
    /// The own workload; `None` until it was told.
    pub own: Option<Arc<Own>>,
    /// What the own inbound side accepts; `None` until it was told.
    pub authentication: Option<Arc<PeerAuthentication>>,
    /// Who may do what; `None` until it was told, and then nobody may anything.
    pub authorization: Option<Arc<Authorization>>,
    /// Services by hostname.
    pub services: HashMap<Arc<str>, Arc<Service>>,
    /// Services by the addresses that applications use.
    pub addresses: HashMap<IpAddr, Arc<Service>>,
    /// Services by the addresses of pods that were asked for and are among their endpoints.
    pub pods: HashMap<IpAddr, Vec<Arc<Service>>>,
    /// Clusters whose own intermediate is known: what runs in them must be signed by it.
    pub issuers: Arc<HashSet<Arc<str>>>,
    /// Gateways by network. A network that is known to have none has an empty list.
    pub gateways: Arc<HashMap<Arc<str>, Arc<[Gateway]>>>,
}

/// What an address leads to.
#[derive(Debug, Clone)]
pub struct Found {
    /// The service, with its endpoints.
    pub service: Arc<Service>,
    /// The service's port.
    pub port: u16,
    /// The endpoint whose own address it is; `None` where it is the service's.
    pub endpoint: Option<Arc<str>>,
}

impl Snapshot {
    /// Decides by the policies of the own workload.
    pub fn authorize(&self, facts: &Facts<'_>) -> Decision {
        self.authorization.as_ref().map_or(Decision::NotAllowed, |authorization| authorization.evaluate(facts))
    }
}

impl Service {
    /// The endpoint that has this address for its own, and the service port that leads there.
    pub fn endpoint_at(&self, address: SocketAddr) -> Option<(&Endpoint, u16)> {
        let endpoints = self.endpoints.as_deref().unwrap_or_default();
        endpoints.iter().find_map(|endpoint| match &endpoint.reach {
            Reach::Direct(direct) if direct.ip == address.ip() => {
                let port = direct.ports.iter().find(|(_, pod_port)| *pod_port == address.port())?.0;
                Some((endpoint, port))
            }
            _ => None,
        })
    }

    /// The addresses of its pods in this network that are to be used.
    pub fn pod_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let endpoints = self.endpoints.as_deref().unwrap_or_default();
        endpoints.iter().filter(|endpoint| endpoint.health == Health::Ready).filter_map(|endpoint| {
            match &endpoint.reach {
                Reach::Direct(direct) => Some(direct.ip),
                Reach::Gateways { .. } => None,
            }
        })
    }

    /// What is known of a port.
    pub fn port(&self, number: u16) -> Option<&Port> {
        self.ports.binary_search_by_key(&number, |port| port.number).ok().map(|at| &self.ports[at])
    }

    /// The networks whose gateways are needed to reach all of it.
    pub fn remote_networks(&self) -> impl Iterator<Item = &Arc<str>> {
        let endpoints = self.endpoints.as_deref().unwrap_or_default();
        endpoints.iter().filter(|e| matches!(e.reach, Reach::Gateways { .. })).map(|e| &e.network)
    }
}
