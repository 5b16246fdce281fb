//! Snapshots: the whole view of the mesh at one moment, and mesh-wide settings.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use policy::{Authorization, Decision, Facts, PeerAuthentication, jwt};
use ratelimit::RateLimits;

use super::federation::AddressRange;
use super::map::SharedMap;
use super::model::{ApplicationSocket, GatewayAddress, OwnWorkload, Service};
use super::names::ResolvedNames;
use super::paths::Paths;
use super::scope::Scope;
use crate::http::PathNormalization;

/// How connections to destinations outside the mesh are treated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OutboundPolicy {
    /// Passed through unchanged (`ALLOW_ANY`).
    #[default]
    AllowAny,
    /// Refused (`REGISTRY_ONLY`).
    RegistryOnly,
}

impl OutboundPolicy {
    /// Returns the name of Istio's mode.
    pub fn as_str(self) -> &'static str {
        match self {
            OutboundPolicy::AllowAny => "ALLOW_ANY",
            OutboundPolicy::RegistryOnly => "REGISTRY_ONLY",
        }
    }
}

/// Access log settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct AccessLogSettings {
    /// `/dev/stdout` or a path; empty: no access log.
    pub file: Arc<str>,
    /// Lines are JSON instead of text.
    pub json: bool,
    /// The format; empty: Istio's default.
    pub format: Arc<str>,
}

/// The maximum wait for a client's first bytes if none is configured. Istio's default is to wait for ever, which a client that
/// waits for its server does as well.
pub(super) const DETECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the outcome of a path to another cluster is reported, if the controller does not say.
const PATH_INTERVAL: Duration = Duration::from_secs(10);

/// Mesh-wide settings.
#[derive(Debug, Clone, PartialEq)]
pub struct MeshSettings {
    /// The mesh ID.
    pub mesh_id: Arc<str>,
    /// The suffix of service hostnames.
    pub cluster_domain: Arc<str>,
    /// The treatment of destinations outside the mesh.
    pub outbound_policy: OutboundPolicy,
    /// Access log settings.
    pub log: AccessLogSettings,
    /// The connect timeout; `None` if not configured, in which case [`MeshSettings::connect_timeouts`] has defaults.
    pub configured_connect_timeout: Option<Duration>,
    /// The maximum wait for a client's first bytes if the protocol is not declared.
    pub detection_timeout: Duration,
    /// Near endpoints are preferred.
    pub locality_load_balancing: bool,
    /// The form of the paths of requests.
    pub path_normalization: PathNormalization,
    /// Services may have hosts of any domain.
    pub entries: bool,
    /// Some of these hosts are wildcards.
    pub wildcard_entries: bool,
    /// Blocks of addresses that lead to services, the smallest first.
    pub address_blocks: Box<[AddressBlock]>,
    /// The clusters whose endpoints are the last resort, because their path is dead by the word of several proxies.
    pub drained: Box<[Arc<str>]>,
    /// How often the outcome of a path to another cluster is reported.
    pub path_interval: Duration,
}

/// Addresses that begin with the same bits, and the service that they lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressBlock {
    /// The first address.
    pub ip: IpAddr,
    /// The number of bits.
    pub length: u8,
    /// The service's hostname.
    pub hostname: Arc<str>,
}

impl AddressBlock {
    /// Returns whether an address is in the block.
    pub fn contains(&self, ip: IpAddr) -> bool {
        AddressRange { ip: self.ip, length: self.length }.contains(ip)
    }
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            mesh_id: Arc::default(),
            cluster_domain: "cluster.local".into(),
            outbound_policy: OutboundPolicy::default(),
            log: AccessLogSettings::default(),
            configured_connect_timeout: None,
            detection_timeout: DETECTION_TIMEOUT,
            locality_load_balancing: true,
            path_normalization: PathNormalization::default(),
            entries: false,
            wildcard_entries: false,
            address_blocks: Box::default(),
            drained: Box::default(),
            path_interval: PATH_INTERVAL,
        }
    }
}

/// The view of the mesh at one moment.
#[derive(Debug, Clone, Default)]
pub struct MeshSnapshot {
    /// Mesh-wide settings.
    pub settings: Arc<MeshSettings>,
    /// The own workload; `None` until it arrives.
    pub own: Option<Arc<OwnWorkload>>,
    /// Which inbound connections are accepted; `None` until all policies have arrived.
    pub authentication: Option<Arc<PeerAuthentication>>,
    /// The rules for tokens of end users; `None`: tokens are not read.
    pub tokens: Option<Arc<jwt::TokenRules>>,
    /// The authorization policies; `None` until all policies have arrived, and until then everything is denied.
    pub authorization: Option<Arc<Authorization>>,
    /// What the own workload's Sidecar lets the proxy see; `None`: everything.
    pub scope: Option<Arc<Scope>>,
    /// The scope that the own workload names has arrived, or it names none.
    pub scope_known: bool,
    /// The limits on rates of requests; `None`: there are none.
    pub rate_limits: Option<Arc<RateLimits>>,
    /// Services by hostname.
    pub services: SharedMap<Arc<str>, Arc<Service>>,
    /// Services by virtual address.
    pub addresses: SharedMap<IpAddr, Arc<Service>>,
    /// Services by the addresses of pods that were looked up and are among the services' endpoints.
    pub pods: SharedMap<IpAddr, Arc<[Arc<Service>]>>,
    /// Clusters whose intermediate is known: certificates of their workloads must be signed by it.
    pub issuers: Arc<HashSet<Arc<str>>>,
    /// Gateways by network. The list is empty if the network is known to have none.
    pub gateways: Arc<HashMap<Arc<str>, Arc<[GatewayAddress]>>>,
    /// The addresses of the names of endpoints.
    pub resolved: Arc<ResolvedNames>,
    /// The paths to other clusters, which all snapshots share.
    pub paths: Arc<Paths>,
}

/// The service that an address leads to.
#[derive(Debug, Clone)]
pub struct AddressMatch {
    /// The service, with its endpoints.
    pub service: Arc<Service>,
    /// The service port.
    pub port: u16,
    /// The endpoint with this address; `None` if the address is the service's.
    pub endpoint: Option<Arc<str>>,
}

impl MeshSnapshot {
    /// Returns whether the application reaches a service through a port.
    pub fn reaches(&self, service: &Service, port: u16) -> bool {
        self.scope.as_ref().is_none_or(|scope| scope.includes(service, port))
    }

    /// Returns whether the application reaches a service through any port.
    pub fn knows(&self, service: &Service) -> bool {
        self.scope.as_ref().is_none_or(|scope| scope.names(service))
    }

    /// Returns the socket of the application for connections to `destination`.
    pub fn application(&self, destination: SocketAddr) -> ApplicationSocket {
        self.own.as_ref().map_or(ApplicationSocket::Tcp(destination), |own| own.application(destination))
    }

    /// Returns the treatment of destinations outside of the mesh, or of the scope.
    pub fn outbound_policy(&self) -> OutboundPolicy {
        let scoped = self.scope.as_ref().and_then(|scope| scope.outbound_policy);
        scoped.unwrap_or(self.settings.outbound_policy)
    }

    /// Returns whether all names of a service have been resolved, or could not be.
    pub fn resolves(&self, service: &Service) -> bool {
        service.names().all(|name| self.resolved.contains_key(name))
    }

    /// Evaluates the authorization policies of the own workload.
    pub fn authorize(&self, facts: &Facts<'_>) -> Decision {
        self.authorization.as_ref().map_or(Decision::NotAllowed, |authorization| authorization.evaluate(facts))
    }
}
