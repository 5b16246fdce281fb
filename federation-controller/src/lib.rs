//! The control plane: watches clusters, issues identities, tells every proxy what it needs.
//!
//! ```text
//! clusters ──events──► index ──resources──► store ──► discovery ──► proxies
//!    │                   └ export                         ▲
//!    └─ clients ──► ca (certificates, roots) ─────────────┘ one TLS listener
//!                   inject (webhook)
//! ```
//!
//! Read in this order: [`index::event`] for what is watched, [`index`] for what follows from it, [`store`] for what is
//! kept to be told, [`discovery`] for how it is told. [`clusters`] does the watching, [`ca`] is the certificate
//! authority, [`inject`] the webhook, [`debug`] the pages for people. [`run`] puts it all together.
//!
//! What it does not do: it carries no traffic, and when it is away nothing that proxies know changes.

pub mod ca;
pub mod clusters;
pub mod compile;
pub mod debug;
pub mod discovery;
pub mod inject;
pub mod inventory;
pub mod metrics;
pub mod objects;
mod options;
pub mod pipeline;
pub mod publish;
mod run;
mod slots;

#[cfg(test)]
mod fake;

pub use options::Options;
pub use run::run;
