//! The mesh's certificate authority: who signs for which cluster, who may have a certificate, and how the roots reach
//! workloads.
//!
//! - [`authorities`]: the signing certificates, from Secrets `cacerts` (own cluster) and `cacerts-<cluster>` (remotes) in
//!   the root namespace; a self-signed root where there is none at all.
//! - [`service`]: the certificate API on port 15012.
//! - [`review`]: whether a token is what its bearer says, asked of the bearer's own cluster.
//! - [`own`]: the controller's own certificate, renewed at half of its life.
//! - [`serve`]: TLS listeners that use it.
//! - `issuers`: who signs in clusters that sign for themselves.
//! - [`roots`]: ConfigMap `istio-ca-root-cert` in every namespace, and the webhook's `caBundle`.
//!
//! A workload's certificate is signed with the intermediate of the cluster that vouched for its token, so the chain
//! itself proves the cluster. `docs/decisions/intermediates.md` says where intermediates live, and why.

pub mod authorities;
mod issuers;
pub mod own;
pub mod review;
pub mod roots;
pub mod serve;
pub mod service;

#[cfg(test)]
mod tests;

pub use authorities::Authorities;
