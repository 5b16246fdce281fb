//! A router on loopback, with a fake controller, real certificates and real sockets.

#[path = "../../../../sidecar/tests/mesh/app.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod app;
mod client;
mod fixture;
#[path = "../../../policy/src/jwt/tests/issuer.rs"]
mod issuer;
mod listeners;
mod opaque;
mod policies;
mod requests;
mod tls;
