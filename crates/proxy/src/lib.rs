//! The proxy engine, shared by the sidecar and the gateways.

pub mod detect;
pub mod failure;
pub mod http;
pub mod io;
pub mod mesh;
pub mod opaque;
pub mod relay;
pub mod report;
pub mod upstream;
pub mod worker;
