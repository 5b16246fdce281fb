//! The admission webhooks. One adds the sidecar to pods as they are created; the other denies invalid objects
//! ([`api::networking`]) and warns of those without effect ([`api::compatibility`]).
//!
//! - [`rules`]: the pods that get a sidecar
//! - [`settings`]: the settings in a pod's annotations
//! - [`template`]: the JSON patch that adds the sidecar
//! - [`gateway`]: the JSON patch that completes the container of a gateway
//! - `review.rs`: the requests and answers of API servers
//! - [`validation`]: the decision about an object of the mesh's configuration
//! - [`webhook`]: the HTTPS server on port 15017
//!
//! Names, labels and annotations are Istio's, so manifests for Istio work here. The kubelet's probes of application
//! ports are not rewritten: under PERMISSIVE they pass the sidecar as plaintext from outside the mesh.

pub mod gateway;
mod probes;
mod review;
pub mod rules;
pub mod settings;
pub mod template;
pub mod validation;
pub mod webhook;

#[cfg(test)]
mod tests;
