//! Configuration that users write: resource types, defaults and validation. No IO.
//!
//! - [`mesh`]: mesh-wide settings, key `mesh` of ConfigMap `istio` or of an IstioOperator, and the settings of injected
//!   proxies.
//! - [`networking`]: Istio's VirtualService, DestinationRule, Gateway, ServiceEntry, Sidecar and ProxyConfig: what they
//!   say, and what is wrong with them.
//! - [`security`]: Istio's AuthorizationPolicy, PeerAuthentication and RequestAuthentication, in the same way.
//! - [`envoy_filter`]: Istio's EnvoyFilter, as far as it limits the rate of requests, and [`rate_limit`]: the mesh's own RateLimit.
//! - [`federation`]: the mesh's own FederationPolicy: which clusters may export a service, and to whom.
//! - [`smi`]: SMI's TrafficSplit and HTTPRouteGroup, and [`linkerd`]: Linkerd's ServiceProfile and annotations of Services.
//! - [`analyze`]: what is wrong in and between objects, for `isthmus analyze`.
//! - [`import`]: what becomes of the objects of another mesh, for `isthmus import`.
//! - [`export`]: ServiceExport and ServiceImport of the Multi-Cluster Services API (KEP-1645).
//! - [`service_entry_export`]: exported services as ServiceEntries of other meshes, for `isthmus export` and the controller.
//! - [`compatibility`]: kinds and fields that are accepted and have no effect.
//! - [`remote_secret`]: the Secret that adds a remote cluster, and [`kubeconfig`]: validation of the kubeconfig in it.
//! - [`reader`]: the service account whose token a remote secret holds.
//! - [`names`]: labels, annotations and well-known names.
//!
//! Every input converts into a form in which invalid states do not exist. A field without effect is reported as a
//! [`Warning`], never ignored silently.
//!
//! This crate does not talk to clusters and is not linked into proxies.

pub mod analyze;
pub mod compatibility;
pub mod duration;
pub mod envoy_filter;
pub mod export;
pub mod federation;
pub mod import;
pub mod kubeconfig;
pub mod linkerd;
pub mod mesh;
pub mod names;
pub mod networking;
mod proxy_settings;
pub mod quantity;
pub mod rate_limit;
pub mod reader;
pub mod remote_secret;
mod resource;
pub mod security;
pub mod service_entry_export;
pub mod smi;
pub mod yaml;

use std::fmt;

/// A warning about a field that has no effect.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Warning {
    /// The path of the field, such as `defaultConfig.concurrency`.
    pub field: String,
    /// Why the field has no effect, or what to write instead.
    pub message: String,
}

impl Warning {
    /// Creates a warning about a field.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Warning { field: field.into(), message: message.into() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}
