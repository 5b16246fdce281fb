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

/// A resource type that discovery carries.
///
/// The order is that in which a first push sends them: trust and settings before what depends on them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Kind {
    /// [`discovery::Trust`].
    Trust,
    /// [`discovery::MeshConfig`].
    MeshConfig,
    /// [`discovery::Workload`].
    Workload,
    /// [`discovery::Authentication`].
    Authentication,
    /// [`discovery::Authorization`].
    Authorization,
    /// [`discovery::Gateway`].
    Gateway,
    /// [`discovery::Service`].
    Service,
    /// [`discovery::Endpoint`].
    Endpoint,
}

impl Kind {
    /// All kinds, in order.
    pub const ALL: [Kind; 8] = [
        Kind::Trust,
        Kind::MeshConfig,
        Kind::Workload,
        Kind::Authentication,
        Kind::Authorization,
        Kind::Gateway,
        Kind::Service,
        Kind::Endpoint,
    ];

    /// The type URL on the wire.
    pub const fn url(self) -> &'static str {
        match self {
            Kind::Trust => "type.googleapis.com/isthmus.discovery.v1.Trust",
            Kind::MeshConfig => "type.googleapis.com/isthmus.discovery.v1.MeshConfig",
            Kind::Workload => "type.googleapis.com/isthmus.discovery.v1.Workload",
            Kind::Authentication => "type.googleapis.com/isthmus.discovery.v1.Authentication",
            Kind::Authorization => "type.googleapis.com/isthmus.discovery.v1.Authorization",
            Kind::Gateway => "type.googleapis.com/isthmus.discovery.v1.Gateway",
            Kind::Service => "type.googleapis.com/isthmus.discovery.v1.Service",
            Kind::Endpoint => "type.googleapis.com/isthmus.discovery.v1.Endpoint",
        }
    }

    /// The short name, as metrics and debug pages say it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Trust => "Trust",
            Kind::MeshConfig => "MeshConfig",
            Kind::Workload => "Workload",
            Kind::Authentication => "Authentication",
            Kind::Authorization => "Authorization",
            Kind::Gateway => "Gateway",
            Kind::Service => "Service",
            Kind::Endpoint => "Endpoint",
        }
    }

    /// The kind of a type URL; `None` for a type that this protocol does not carry.
    pub fn of_url(url: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.url() == url)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
