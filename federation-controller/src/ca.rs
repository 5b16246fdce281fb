//! The mesh's certificate authority. It signs workload certificates, authenticates requests for them, and distributes
//! the roots.
//!
//! - [`authorities`]: the signing certificates, from Secrets `cacerts` (own cluster) and `cacerts-<cluster>` (remote
//!   clusters) in the root namespace; a self-signed root if the own cluster has no `cacerts`
//! - [`service`]: the certificate API on port 15012
//! - [`account`]: whether a service account exists, for renewals
//! - [`review`]: token reviews by the workload's own cluster
//! - [`own`]: the controller's own certificate, renewed after half of its lifetime
//! - [`serve`]: TLS listeners with that certificate
//! - `issuers`: the intermediates of clusters with a controller of their own; `claims`: the record of whose they are
//! - [`roots`]: ConfigMap `istio-ca-root-cert` in every namespace, and the `caBundle` of the webhook
//!
//! A workload's certificate is signed with the intermediate of the cluster that vouched for its token, so the chain
//! proves the cluster. `docs/decisions/intermediates.md` records where intermediates are stored.

pub mod account;
pub mod authorities;
mod claims;
mod issuers;
pub mod own;
pub mod review;
pub mod roots;
pub mod serve;
pub mod service;

#[cfg(test)]
mod tests;

pub use authorities::Authorities;
