//! What controller and proxies say to each other: messages and the delta stream's state machines.
//!
//! - [`discovery`], [`envoy`] and [`ca`] are generated from `proto/`; the header of
//!   `proto/isthmus/discovery/v1/resources.proto` is the contract of names and collections, and [`name`] writes and
//!   reads those names.
//! - [`delta`] holds the two state machines of the incremental discovery protocol. They do no IO, so that drops,
//!   reconnects and reordering are tested exhaustively.
//! - [`client`] drives the client's machine over gRPC: start at [`client::Discovery`].
//!
//! What this crate does not do: TLS (a connector is handed in), or deciding who may ask for what (the controller's).

pub mod client;
pub mod delta;
pub mod name;

/// Resource types of `isthmus.discovery.v1`: what the controller tells proxies.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod discovery {
    tonic::include_proto!("isthmus.discovery.v1");
}

/// The part of xDS that is spoken: `envoy.service.discovery.v3`, incremental and aggregated.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod envoy {
    tonic::include_proto!("envoy.service.discovery.v3");
}

/// The certificate API: `istio.v1.auth.IstioCertificateService`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod ca {
    tonic::include_proto!("istio.v1.auth");
}

pub use prost;

/// A resource type of the discovery protocol.
///
/// The order is that of a first push: resources come before those that refer to them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Kind {
    /// [`discovery::Trust`].
    Trust,
    /// [`discovery::MeshConfig`].
    MeshConfig,
    /// [`discovery::PeerAuthentication`].
    PeerAuthentication,
    /// [`discovery::AuthorizationPolicy`].
    AuthorizationPolicy,
    /// [`discovery::Workload`].
    Workload,
    /// [`discovery::NetworkGateway`].
    NetworkGateway,
    /// [`discovery::Service`].
    Service,
    /// [`discovery::Endpoint`].
    Endpoint,
}

/// Prefix of the type URLs.
const URL_PREFIX: &str = "type.googleapis.com/isthmus.discovery.v1.";

impl Kind {
    /// All kinds, in order.
    pub const ALL: [Kind; 8] = [
        Kind::Trust,
        Kind::MeshConfig,
        Kind::PeerAuthentication,
        Kind::AuthorizationPolicy,
        Kind::Workload,
        Kind::NetworkGateway,
        Kind::Service,
        Kind::Endpoint,
    ];

    /// Returns the type URL.
    pub const fn url(self) -> &'static str {
        match self {
            Kind::Trust => "type.googleapis.com/isthmus.discovery.v1.Trust",
            Kind::MeshConfig => "type.googleapis.com/isthmus.discovery.v1.MeshConfig",
            Kind::PeerAuthentication => "type.googleapis.com/isthmus.discovery.v1.PeerAuthentication",
            Kind::AuthorizationPolicy => "type.googleapis.com/isthmus.discovery.v1.AuthorizationPolicy",
            Kind::Workload => "type.googleapis.com/isthmus.discovery.v1.Workload",
            Kind::NetworkGateway => "type.googleapis.com/isthmus.discovery.v1.NetworkGateway",
            Kind::Service => "type.googleapis.com/isthmus.discovery.v1.Service",
            Kind::Endpoint => "type.googleapis.com/isthmus.discovery.v1.Endpoint",
        }
    }

    /// Returns the name of the message, which metrics and debug pages show.
    pub fn as_str(self) -> &'static str {
        &self.url()[URL_PREFIX.len()..]
    }

    /// Returns the kind of a type URL, or `None` if the protocol has no such type.
    pub fn of_url(url: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.url() == url)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
