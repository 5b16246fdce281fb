//! The policies of a host, as DestinationRules set them: subsets, load balancing, limits, outlier detection and TLS.
//!
//! `convert` builds these from the wire's messages; the controller has resolved the precedence of destination, subset and port.

use std::sync::Arc;
use std::time::Duration;

use balance::{Algorithm, FailoverPriority, LocalityPolicy, Warmup};
use identity::SpiffeId;
use rustls_pki_types::ServerName;

use super::model::Subset;
use super::traffic::TrafficPolicy;

/// The policies of a host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DestinationPolicy {
    /// The objects that it was made of, for display: `<namespace>/<name>`.
    pub sources: Box<[Box<str>]>,
    /// The policy of all endpoints.
    pub policies: PortPolicies,
    /// The subsets; empty: those of the service.
    pub subsets: Box<[SubsetPolicy]>,
}

/// A policy, and those of single ports instead.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PortPolicies {
    /// The policy of ports that have none of their own.
    pub policy: Arc<TrafficPolicy>,
    /// The policies of ports of the service, ordered by port.
    pub ports: Box<[(u16, Arc<TrafficPolicy>)]>,
}

/// A subset with its policies.
#[derive(Debug, Clone, PartialEq)]
pub struct SubsetPolicy {
    /// The subset.
    pub subset: Subset,
    /// Its policies.
    pub policies: PortPolicies,
}

impl PortPolicies {
    fn of(&self, port: u16) -> &Arc<TrafficPolicy> {
        self.ports.binary_search_by_key(&port, |(of, _)| *of).map_or(&self.policy, |at| &self.ports[at].1)
    }
}

impl DestinationPolicy {
    /// Returns the policy of a port, of a subset if `subset` is not empty.
    pub fn traffic(&self, port: u16, subset: &str) -> &Arc<TrafficPolicy> {
        let found = self.subsets.iter().find(|found| *found.subset.name == *subset);
        found.map_or(&self.policies, |found| &found.policies).of(port)
    }

    /// Returns a subset.
    pub fn subset(&self, name: &str) -> Option<&Subset> {
        self.subsets.iter().map(|found| &found.subset).find(|subset| *subset.name == *name)
    }
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadBalancing {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// The address that the client connected to is used instead of an endpoint.
    pub passthrough: bool,
    /// What requests are hashed by, for the algorithms that need it.
    pub hash: Option<HashKey>,
    /// The warm-up of new endpoints.
    pub warmup: Option<Warmup>,
    /// Which localities are used; `None`: as the mesh settings say.
    pub locality: Option<LocalityRules>,
}

/// Which localities are used.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LocalityRules {
    /// The order and the shares.
    pub policy: LocalityPolicy,
    /// The labels that rank endpoints.
    pub priority: FailoverPriority,
}

/// What requests are hashed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// The value of a header.
    Header(http::HeaderName),
    /// The value of a cookie.
    Cookie(Arc<HashCookie>),
    /// The address of the client.
    SourceAddress,
    /// The value of a parameter of the query.
    QueryParameter(Box<str>),
}

/// A cookie that requests are hashed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashCookie {
    /// The name.
    pub name: Box<str>,
    /// The path of a cookie that the proxy generates.
    pub path: Box<str>,
    /// The lifetime of a cookie that the proxy generates, zero for a session; `None`: it generates none.
    pub ttl: Option<Duration>,
    /// Further attributes of a cookie that the proxy generates; empty values are those without one.
    pub attributes: Box<[(Box<str>, Box<str>)]>,
}

/// Limits and timeouts of connections. `None` is unlimited, or the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionPool {
    /// The maximum number of connections.
    pub max_connections: Option<u32>,
    /// The maximum number of requests that wait for a connection.
    pub max_pending_requests: Option<u32>,
    /// The maximum number of requests in progress.
    pub max_requests: Option<u32>,
    /// The maximum number of retries in progress.
    pub max_retries: Option<u32>,
    /// The number of requests after which a connection is closed.
    pub max_requests_per_connection: Option<u32>,
    /// The timeout of the TCP and the TLS handshake.
    pub connect_timeout: Option<Duration>,
    /// TCP keep-alive.
    pub keepalive: Option<Keepalive>,
    /// How long a connection stays open.
    pub max_connection_duration: Option<Duration>,
    /// How long an opaque connection stays open without bytes.
    pub tcp_idle_timeout: Option<Duration>,
    /// How long an HTTP connection stays open without requests.
    pub http_idle_timeout: Option<Duration>,
    /// Whether requests are sent by HTTP/2; `None`: as the port declares.
    pub h2_upgrade: Option<bool>,
    /// Requests are sent by the version that the client used.
    pub use_client_protocol: bool,
    /// The maximum number of streams of an HTTP/2 session.
    pub max_concurrent_streams: Option<u32>,
    /// How often an HTTP/2 session is probed, and how long its peer may take to answer.
    pub http2_keepalive: Option<(Duration, Duration)>,
}

/// TCP keep-alive; `None` is the system's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// The number of probes without an answer after which a connection is closed.
    pub probes: Option<u32>,
    /// How long a connection is idle before it is probed.
    pub time: Option<Duration>,
    /// The time between probes.
    pub interval: Option<Duration>,
}

impl Keepalive {
    /// Returns time, interval and probes, with Linux's defaults.
    pub fn or_system_default(self) -> (Duration, Duration, u32) {
        let seconds = Duration::from_secs;
        (self.time.unwrap_or(seconds(7200)), self.interval.unwrap_or(seconds(75)), self.probes.unwrap_or(9))
    }
}

impl ConnectionPool {
    /// Returns whether anything limits requests or connections.
    pub fn is_limited(&self) -> bool {
        self.max_connections.is_some() || self.max_pending_requests.is_some() || self.max_requests.is_some()
    }
}

/// TLS to endpoints.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum ClientTls {
    /// Mutual TLS where the endpoint has a sidecar.
    #[default]
    Auto,
    /// None.
    Disable,
    /// Mutual TLS with the workload's identity.
    Mesh {
        /// The server name to send; `None`: the usual one.
        sni: Option<ServerName<'static>>,
        /// The identities to accept; `None`: those of the endpoints.
        identities: Option<Box<[SpiffeId]>>,
    },
    /// TLS with a server outside the mesh.
    Originate(Arc<OriginatedTls>),
}

/// TLS with servers outside the mesh. Files are paths in the proxy's file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct OriginatedTls {
    /// The client certificate and its private key.
    pub client: Option<(Box<str>, Box<str>)>,
    /// The authorities that servers are verified with; `None`: the system's.
    pub authorities: Option<Box<str>>,
    /// The revoked certificates.
    pub revoked: Option<Box<str>>,
    /// The names of which the server's certificate must have one; empty: the server name.
    pub names: Box<[Box<str>]>,
    /// The server name to send; `None`: the host of the service.
    pub sni: Option<Box<str>>,
    /// Any certificate is accepted.
    pub insecure: bool,
}

/// Opaque connections are tunnelled through an HTTP proxy: the endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// `POST` instead of `CONNECT`.
    pub post: bool,
    /// The host and port that the proxy is asked for.
    pub target: Box<str>,
}

/// The version of the PROXY protocol header that precedes connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// The text.
    V1,
    /// The binary form.
    V2,
}

/// The share of requests in progress that may be retries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// In percent.
    pub percent: f64,
    /// The number of retries that is allowed in any case.
    pub min_retries: u32,
}
