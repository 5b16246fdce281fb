//! Telemetry of proxies and the controller: metrics with Istio's standard names, access logs in Istio's formats, and the
//! process log.
//!
//! Start at [`metrics::Registry`] for metrics, at [`istio`] for the standard families and their labels, at
//! [`access_log::Format`] for access logs. This crate opens no sockets: the admin server of `runtime` serves
//! [`metrics::Registry::render`].

pub mod access_log;
mod flags;
pub mod istio;
pub mod logging;
pub mod metrics;

pub use flags::ResponseFlags;
