//! The discovery protocol between controller and proxies: its messages, its names, and both ends of a stream.
//!
//! - [`discovery`], [`envoy`], [`ext_authz`], [`rate_limit_service`] and [`ca`] are generated from `proto/`. The header of
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

/// The packages of `proto/` that refer to each other, as modules by which generated code finds the messages.
#[allow(missing_docs, unreachable_pub)]
mod proto {
    pub mod envoy {
        pub mod service {
            pub mod auth {
                #[allow(missing_docs, unreachable_pub, clippy::all)]
                pub mod v3 {
                    tonic::include_proto!("envoy.service.auth.v3");
                }
            }
            pub mod discovery {
                #[allow(missing_docs, unreachable_pub, clippy::all)]
                pub mod v3 {
                    tonic::include_proto!("envoy.service.discovery.v3");
                }
            }
            pub mod ratelimit {
                #[allow(missing_docs, unreachable_pub, clippy::all)]
                pub mod v3 {
                    tonic::include_proto!("envoy.service.ratelimit.v3");
                }
            }
        }
    }
    pub mod isthmus {
        pub mod discovery {
            #[allow(missing_docs, unreachable_pub, clippy::all)]
            pub mod v1 {
                tonic::include_proto!("isthmus.discovery.v1");
            }
        }
    }
}

/// Envoy's external authorization: `envoy.service.auth.v3`, the part that proxies send and read.
pub use proto::envoy::service::auth::v3 as ext_authz;
/// The part of xDS that Isthmus implements: `envoy.service.discovery.v3`, incremental and aggregated.
pub use proto::envoy::service::discovery::v3 as envoy;
/// Envoy's rate limit service: `envoy.service.ratelimit.v3`, the part that proxies send and read.
pub use proto::envoy::service::ratelimit::v3 as rate_limit_service;
/// The resource messages, which the controller pushes to proxies, and what proxies report: `isthmus.discovery.v1`.
pub use proto::isthmus::discovery::v1 as discovery;

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
