//! The discovery protocol between controller and proxies: its messages, its names, and both ends of a stream.
//!
//! - [`discovery`], [`envoy`], [`ext_authz`] and [`ca`] are generated from `proto/`. The header of
//!   `proto/isthmus/discovery/v1/resources.proto` defines the names of resources and collections; [`name`] formats and
//!   parses them.
//! - [`Kind`] enumerates the resource types, from the list in the same file.
//! - [`delta`] holds the two state machines of the incremental discovery protocol. They do no IO, so that tests cover
//!   every order of drops, reconnects and messages.
//! - [`client`] runs the client's state machine over gRPC; start at [`client::Discovery`].
//!
//! This crate contains no TLS, which the caller's connector provides, and no authorization of subscriptions, which is
//! the controller's.

pub mod client;
pub mod delta;
mod kinds;
pub mod name;

/// The resource messages, which the controller pushes to proxies: `isthmus.discovery.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod discovery {
    tonic::include_proto!("isthmus.discovery.v1");
}

/// The part of xDS that Isthmus implements: `envoy.service.discovery.v3`, incremental and aggregated.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod envoy {
    tonic::include_proto!("envoy.service.discovery.v3");
}

/// Envoy's external authorization: `envoy.service.auth.v3`, the part that proxies send and read.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod ext_authz {
    tonic::include_proto!("envoy.service.auth.v3");
}

/// The certificate API: `istio.v1.auth.IstioCertificateService`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod ca {
    tonic::include_proto!("istio.v1.auth");
}

/// Ports on which the server sends first by convention: SMTP, DNS, MySQL and MongoDB, the list of Istio. Without a declared
/// protocol, connections to them are opaque: there is nothing to detect it from.
pub const SERVER_FIRST_PORTS: [u16; 4] = [25, 53, 3306, 27017];

pub use kinds::Kind;
pub use prost;
