//! The injection webhook: pods get their sidecar as they are created.
//!
//! - [`rules`]: which pods.
//! - [`settings`]: what a pod's annotations ask for.
//! - [`template`]: what is added, as a JSON patch.
//! - [`webhook`]: the HTTPS server on port 15017.
//!
//! Names, labels and annotations are Istio's, so that manifests written for it inject here. Kubelet's probes of
//! application ports are not rewritten: under PERMISSIVE they pass the sidecar as plaintext from outside the mesh.

pub mod rules;
pub mod settings;
pub mod template;
pub mod webhook;

#[cfg(test)]
mod tests;
