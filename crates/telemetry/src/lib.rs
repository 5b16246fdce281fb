//! What a proxy and the controller tell of themselves: metrics with Istio's standard names, access logs in Istio's
//! formats, and the process's own log.
//!
//! Start at [`metrics::Registry`] for counting, at [`istio`] for the standard families and their labels, at
//! [`access_log::Format`] for access logs. Nothing here opens a socket: the admin server of `runtime` serves
//! [`metrics::Registry::render`].

pub mod access_log;
mod flags;
pub mod istio;
pub mod logging;
pub mod metrics;

pub use flags::ResponseFlags;
