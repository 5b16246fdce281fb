//! Sidecars on loopback, with a fake controller, real certificates and real sockets.

mod admission;
mod answers;
mod app;
mod destinations;
mod drain;
mod evasion;
mod external;
mod failover;
mod federation;
mod fixture;
mod floods;
mod gate;
mod http;
#[path = "../../../crates/policy/src/jwt/tests/issuer.rs"]
mod issuer;
mod limits;
mod observed;
mod opaque;
mod own_ports;
mod paths;
mod profiles;
mod rate_limits;
mod raw;
mod routes;
mod routing;
mod scope;
mod slow_network;
mod start;
mod stream;
mod tokens;
mod validity;
