//! The objects that a cluster of the mesh gets, and applying them.
//!
//! [`Installation`] holds the parameters of one cluster; [`Installation::objects`] returns its manifests: namespaces, custom
//! resource definitions, accounts and roles, mesh-wide settings, signing Secrets, workloads, Services, and the admission
//! webhooks. A primary gets the controller, its webhook and an east-west gateway; a remote gets the gateway, and two Services
//! that lead to its primary's controller through the primary's gateway. Either may have ingress and egress gateways
//! ([`gateways`]). [`apply`] applies manifests by server-side apply, as
//! `kubectl apply --server-side` does; [`client_error`] and [`yaml_error`] put errors
//! of a Kubernetes client and of the YAML parser into plain words.
//!
//! Where to start: [`settings`], then [`components`]. Which kinds are watched, and by which rights, is in [`api::reader`].
//! What this crate does not do: decide which clusters there are, issue certificates, or wait for what it applied.

pub mod access;
pub mod apply;
pub mod client_error;
pub mod components;
mod configuration;
pub mod debug_pages;
pub mod definitions;
pub mod gateways;
mod settings;
pub mod webhook;
pub mod yaml_error;

use serde_json::Value;
pub use settings::{ControlPlane, Images, Installation, KeyServers, SigningSecret};

impl Installation {
    /// Every object of the cluster, in the order in which they are needed.
    #[must_use]
    pub fn objects(&self) -> Vec<Value> {
        let mut objects = configuration::namespaces(self);
        objects.extend(definitions::all());
        objects.extend(access::all(self));
        objects.extend(configuration::all(self));
        objects.extend(components::control_plane(self));
        objects.extend(components::gateway(self));
        objects.extend(gateways::all(self));
        objects.extend([webhook::injection(self), webhook::warnings(self)]);
        objects
    }
}

#[cfg(test)]
mod tests;
