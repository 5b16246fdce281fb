//! Services, endpoints and the own workload, in the form that the data path reads.
//!
//! `convert` builds these from the wire's messages and rejects invalid ones; nothing here is invalid.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use balance::{Health, Locality};
use identity::SpiffeId;
use route::Table;
use runtime::limits::Limit;

use super::destination::DestinationPolicy;
use super::entry::{Entry, NamedEndpoint, Resolution};
use super::federation::{Callers, SourceAddresses};

/// The protocol of a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Not declared: detected from the first bytes.
    #[default]
    Unknown,
    /// HTTP/1.1, or HTTP/2 if the client opens with its preface.
    Http,
    /// HTTP/2.
    Http2,
    /// gRPC: HTTP/2 whose outcome is in the `grpc-status` trailer.
    Grpc,
    /// Opaque bytes; the server may send first. TLS of the application is opaque as well.
    Tcp,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The number.
    pub number: u16,
    /// The name; empty if the only port has none.
    pub name: Box<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// Server names (SNI), in lower case, that an east-west gateway forwards to this port besides `outbound_.…`.
    pub server_names: Box<[Box<str>]>,
}

/// The endpoints of a service that have all of these labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subset {
    /// The name.
    pub name: Arc<str>,
    /// Label keys and values.
    pub labels: Box<[(Box<str>, Box<str>)]>,
}

/// A cluster whose endpoints of a service other clusters may use, and their network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The cluster.
    pub cluster: Arc<str>,
    /// The network.
    pub network: Arc<str>,
    /// From where the cluster's gateways accept connections; `None`: from anywhere.
    pub sources: Option<Arc<SourceAddresses>>,
}

/// A service with its endpoints.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Service {
    /// The hostname, which is the service's key.
    pub hostname: Arc<str>,
    /// The name, for telemetry.
    pub name: Arc<str>,
    /// The namespace.
    pub namespace: Arc<str>,
    /// The ports, ordered by number.
    pub ports: Box<[Port]>,
    /// The addresses at which applications of this cluster reach the service: those of the cluster first, then those of all
    /// clusters.
    pub addresses: Box<[IpAddr]>,
    /// The number of `addresses` that are the cluster's own.
    pub own_addresses: usize,
    /// The clusters that export the service.
    pub exports: Box<[Export]>,
    /// The subsets.
    pub subsets: Box<[Subset]>,
    /// DNS answers with the endpoints' own addresses.
    pub headless: bool,
    /// The service has a name in `clusterset.local`, with the addresses that are not the cluster's own.
    pub clusterset: bool,
    /// The endpoints; `None` until they arrive.
    pub endpoints: Option<Arc<[Endpoint]>>,
    /// The routes of requests and connections to the service; `None` until they arrive.
    pub routes: Option<Arc<Table>>,
    /// How requests and connections are carried.
    pub policy: Arc<DestinationPolicy>,
    /// What a service of a ServiceEntry has beside; `None` for a Kubernetes Service.
    pub entry: Option<Arc<Entry>>,
}

/// A workload's labels in telemetry. An empty label is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct WorkloadLabels {
    /// The name of the Deployment or other owner.
    pub workload: Arc<str>,
    /// The namespace.
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

/// An endpoint of a service, or a summary of all endpoints of a locality behind another network's gateways.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// The resource name.
    pub id: Arc<str>,
    /// The cluster.
    pub cluster: Arc<str>,
    /// The network.
    pub network: Arc<str>,
    /// The locality.
    pub locality: Locality,
    /// The health that discovery reports.
    pub health: Health,
    /// The weight relative to the service's other endpoints.
    pub weight: u32,
    /// How the endpoint is reached.
    pub reach: Reach,
}

/// How an endpoint is reached.
#[derive(Debug, Clone, PartialEq)]
pub enum Reach {
    /// At its own address.
    Direct(Arc<DirectEndpoint>),
    /// At the addresses of a name.
    Named(Arc<NamedEndpoint>),
    /// Through the gateways of its network.
    Gateways(Summary),
}

/// The endpoints behind a network's gateways.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// The SPIFFE IDs that the endpoints may present.
    pub identities: Box<[SpiffeId]>,
    /// The service ports that the endpoints serve; empty: all.
    pub ports: Box<[u16]>,
    /// The subset that the summary is of; empty: all endpoints.
    pub subset: Arc<str>,
}

/// An endpoint in this network.
#[derive(Debug, Clone, PartialEq)]
pub struct DirectEndpoint {
    /// The address to connect to.
    pub ip: IpAddr,
    /// The pod's address of the other family, if it has one.
    pub further_ip: Option<IpAddr>,
    /// Service ports and the ports that the endpoint listens on for them.
    pub ports: Box<[(u16, u16)]>,
    /// The SPIFFE ID; `None` if unknown.
    pub identity: Option<SpiffeId>,
    /// The endpoint has a sidecar that accepts mutual TLS.
    pub mutual_tls: bool,
    /// Ports on which that sidecar terminates no TLS.
    pub plaintext_ports: Box<[u16]>,
    /// The labels in telemetry.
    pub workload: Arc<WorkloadLabels>,
    /// The pod's labels, ordered by key; subsets select by them.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// The pod's name.
    pub pod: Arc<str>,
    /// The pod's own name within a headless service; empty if it has none.
    pub hostname: Arc<str>,
    /// The node.
    pub node: Arc<str>,
    /// The only node whose proxies use the endpoint; `None`: all.
    pub only_node: Option<Arc<str>>,
}

/// An address of a network's east-west gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayAddress {
    /// The address.
    pub address: SocketAddr,
    /// The cluster that the gateway runs in.
    pub cluster: Arc<str>,
}

/// A port of the own application.
#[derive(Debug, Clone, PartialEq)]
pub struct InboundPort {
    /// The port that the application listens on.
    pub number: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// The hostname of the service that the port serves; empty if none.
    pub service: Arc<str>,
    /// Limits on what is carried to the port; `None` if unlimited.
    pub limits: Option<Arc<InboundLimits>>,
    /// Where the application is; `None`: at the address that the client connected to.
    pub application: Option<ApplicationAddress>,
    /// Who may call the port; `None`: everyone.
    pub callers: Option<Arc<Callers>>,
}

/// Where the application of a port is, if not at the address that clients connect to (Istio:
/// `Sidecar.ingress[].defaultEndpoint`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplicationAddress {
    /// A port of this address.
    At(SocketAddr),
    /// A port of the address that the client connected to.
    SameAddress(u16),
    /// A Unix socket; the first byte of the path of an abstract one is `@`.
    Unix(Arc<str>),
}

impl fmt::Display for ApplicationAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApplicationAddress::At(address) => address.fmt(f),
            ApplicationAddress::SameAddress(port) => write!(f, "*:{port}"),
            ApplicationAddress::Unix(path) => write!(f, "unix://{path}"),
        }
    }
}

/// A socket that the application listens at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ApplicationSocket {
    /// Of TCP.
    Tcp(SocketAddr),
    /// A Unix socket; the first byte of the path of an abstract one is `@`.
    Unix(Arc<str>),
}

impl ApplicationSocket {
    /// Returns the address; `None` for a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            ApplicationSocket::Tcp(address) => Some(*address),
            ApplicationSocket::Unix(_) => None,
        }
    }
}

impl fmt::Display for ApplicationSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApplicationSocket::Tcp(address) => address.fmt(f),
            ApplicationSocket::Unix(path) => write!(f, "unix://{path}"),
        }
    }
}

/// Limits on what is carried to a port of the application at a time, exact across workers.
#[derive(Debug, Default, PartialEq)]
pub struct InboundLimits {
    /// On connections.
    pub connections: Limit,
    /// On requests in progress.
    pub requests: Limit,
}

/// The own workload.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OwnWorkload {
    /// The locality.
    pub locality: Locality,
    /// The cluster.
    pub cluster: Arc<str>,
    /// The network.
    pub network: Arc<str>,
    /// The node.
    pub node: Arc<str>,
    /// The pod's labels, ordered by key.
    pub pod_labels: Box<[(Box<str>, Box<str>)]>,
    /// The labels in telemetry.
    pub labels: Arc<WorkloadLabels>,
    /// The application's ports, ordered by number.
    pub ports: Box<[InboundPort]>,
    /// The check of the application that decides whether the workload is ready, of one that is no pod.
    pub probe: Option<wire::discovery::ReadinessProbe>,
}

impl OwnWorkload {
    /// Returns the value of a label of the pod.
    pub fn pod_label(&self, key: &str) -> Option<&str> {
        label(&self.pod_labels, key)
    }

    /// Returns the socket of the application for connections to `destination`.
    pub fn application(&self, destination: SocketAddr) -> ApplicationSocket {
        match self.port(destination.port()).and_then(|port| port.application.as_ref()) {
            None => ApplicationSocket::Tcp(destination),
            Some(ApplicationAddress::At(address)) => ApplicationSocket::Tcp(*address),
            Some(ApplicationAddress::SameAddress(port)) => ApplicationSocket::Tcp((destination.ip(), *port).into()),
            Some(ApplicationAddress::Unix(path)) => ApplicationSocket::Unix(path.clone()),
        }
    }

    /// Returns a port of the application.
    pub fn port(&self, number: u16) -> Option<&InboundPort> {
        self.ports.binary_search_by_key(&number, |port| port.number).ok().map(|at| &self.ports[at])
    }
}

impl Service {
    /// Returns a port of the service.
    pub fn port(&self, number: u16) -> Option<&Port> {
        self.ports.binary_search_by_key(&number, |port| port.number).ok().map(|at| &self.ports[at])
    }

    /// Returns the addresses that DNS answers with: the cluster's own, else those of all clusters.
    pub fn dns_addresses(&self) -> &[IpAddr] {
        match self.own_addresses {
            0 => &self.addresses,
            own => self.addresses.get(..own).unwrap_or_default(),
        }
    }

    /// Returns the addresses with which DNS answers for the name in `clusterset.local`.
    pub fn clusterset_addresses(&self) -> &[IpAddr] {
        self.addresses.get(self.own_addresses..).unwrap_or_default()
    }

    /// Returns a subset: as the policy says, else as the service does.
    pub fn subset(&self, name: &str) -> Option<&Subset> {
        let declared = || self.subsets.iter().find(|subset| *subset.name == *name);
        self.policy.subset(name).or_else(declared)
    }

    /// Returns the endpoint with this address, and the service port that leads to it.
    pub fn endpoint_at(&self, address: SocketAddr) -> Option<(&Endpoint, u16)> {
        self.endpoints().iter().find_map(|endpoint| match &endpoint.reach {
            Reach::Direct(direct) if direct.ips().any(|ip| ip == address.ip()) => {
                let port = direct.ports.iter().find(|(_, pod_port)| *pod_port == address.port())?.0;
                Some((endpoint, port))
            }
            _ => None,
        })
    }

    /// Returns the ready endpoints in this network, with their clusters.
    pub fn ready_endpoints(&self) -> impl Iterator<Item = (&str, &DirectEndpoint)> {
        let ready = self.endpoints().iter().filter(|endpoint| endpoint.health == Health::Ready);
        ready.filter_map(|endpoint| match &endpoint.reach {
            Reach::Direct(direct) => Some((&*endpoint.cluster, &**direct)),
            Reach::Named(_) | Reach::Gateways(_) => None,
        })
    }

    /// Returns the ready endpoints in this network.
    pub fn ready_pods(&self) -> impl Iterator<Item = &DirectEndpoint> {
        self.ready_endpoints().map(|(_, direct)| direct)
    }

    /// Returns the networks whose gateways lead to some of the endpoints.
    pub fn remote_networks(&self) -> impl Iterator<Item = &Arc<str>> {
        self.endpoints().iter().filter(|e| matches!(e.reach, Reach::Gateways(_))).map(|e| &e.network)
    }

    /// Returns the names of endpoints whose addresses are resolved.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.endpoints().iter().filter_map(|endpoint| match &endpoint.reach {
            Reach::Named(named) => Some(&named.host).filter(|_| !self.is_dynamic()),
            Reach::Direct(_) | Reach::Gateways(_) => None,
        })
    }

    /// Returns whether connections go to the address that the application connected to.
    pub fn passes_through(&self) -> bool {
        self.entry.as_ref().is_some_and(|entry| entry.resolution == Resolution::None)
    }

    /// Returns whether the host of each request or connection is resolved.
    pub fn is_dynamic(&self) -> bool {
        self.hostname.starts_with('*')
            && self.entry.as_ref().is_some_and(|entry| entry.resolution == Resolution::DynamicDns)
    }

    /// Returns the endpoints, none if they have not arrived.
    pub fn endpoints(&self) -> &[Endpoint] {
        self.endpoints.as_deref().unwrap_or_default()
    }
}

impl DirectEndpoint {
    /// Returns the addresses, first the one to connect to.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.ip).chain(self.further_ip)
    }

    /// Returns the endpoint's port for a service port.
    pub fn port(&self, service_port: u16) -> Option<u16> {
        self.ports.iter().find(|(port, _)| *port == service_port).map(|(_, port)| *port)
    }

    /// Returns whether the endpoint is part of a subset.
    pub fn is_in(&self, subset: &Subset) -> bool {
        subset.labels.iter().all(|(key, value)| self.label(key) == Some(value))
    }

    /// Returns the value of a label of the pod.
    pub fn label(&self, key: &str) -> Option<&str> {
        label(&self.labels, key)
    }
}

/// Returns the value of a key among labels that are ordered by key.
fn label<'a>(labels: &'a [(Box<str>, Box<str>)], key: &str) -> Option<&'a str> {
    labels.binary_search_by(|(known, _)| (**known).cmp(key)).ok().map(|at| &*labels[at].1)
}
