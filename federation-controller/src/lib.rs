//! The control plane: watches clusters, issues certificates, and pushes resources to proxies.
//!
//! ```text
//! clusters ─► inventory ─► compile ─► publish ─► discovery ─► proxies
//!     │                                              ▲
//!     └─ clients ─► ca (certificates, roots) ────────┘ one TLS listener
//!                   inject (webhook)
//! ```
//!
//! Start with [`objects`], the kinds that are watched, and follow an event: [`clusters`] receives it, [`inventory`] finds
//! out what it affects, [`compile`] computes resources, [`publish`] stores them, and [`discovery`] pushes them.
//! [`pipeline`] runs these stages. [`ca`] is the certificate authority, [`inject`] the admission webhook, [`debug`] the
//! debug pages. `recorder.rs` writes Events, `rule_status.rs` the status of rules, and [`multicluster`] ServiceImports
//! and the status of ServiceExports. `run.rs` starts all of them.
//!
//! The controller carries no traffic. While it is down, proxies keep the resources that they have.

pub mod ca;
pub mod clusters;
pub mod compile;
mod credentials;
pub mod debug;
pub mod discovery;
pub mod gauges;
pub mod inject;
pub mod inventory;
mod keys;
pub mod leases;
pub mod metrics;
mod multicluster;
pub mod objects;
mod options;
pub mod pipeline;
pub mod ports;
pub mod publish;
mod recorder;
mod registration;
mod rule_status;
mod run;
mod service_entries_export;
mod slots;

#[cfg(test)]
mod fake;

pub use options::Options;
pub use run::run;
