//! What people write: resource types, defaulting and validation. No IO.
//!
//! - [`mesh`]: the mesh-wide settings, key `mesh` of ConfigMap `istio`.
//! - [`gateway`]: Istio's Gateway, as far as it says what may cross networks.
//! - [`export`]: ServiceExport and ServiceImport of the Multi-Cluster Services API (KEP-1645).
//! - [`remote_secret`]: the Secret by which a cluster joins, and [`kubeconfig`]: what such a Secret may hold.
//! - [`reader`]: the account that such a Secret speaks for.
//! - [`names`]: labels, annotations and well-known names.
//!
//! Every input converts into a form in which invalid states do not exist. What is written but has no effect is told as a
//! [`Warning`] that names the field, never passed over silently.
//!
//! What it does not do: talk to a cluster, or be linked into a proxy.

pub mod export;
pub mod gateway;
pub mod kubeconfig;
pub mod mesh;
pub mod names;
pub mod reader;
pub mod remote_secret;
mod resource;
pub mod yaml;

use std::fmt;

/// Something that was written and has no effect.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Warning {
    /// Path of the field, such as `defaultConfig.concurrency`.
    pub field: String,
    /// Why it has no effect, or what to write instead.
    pub message: String,
}

impl Warning {
    /// A warning about a field.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Warning { field: field.into(), message: message.into() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}
