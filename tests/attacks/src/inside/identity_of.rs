//! A certificate of the mesh for an attacker that has a token.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use runtime::enrol::{self, Enrolled};
use telemetry::metrics::Registry;

/// The address of the controller.
pub(super) const CONTROLLER: &str = "isthmus-controller.isthmus-system.svc:15012";

/// Enrols with a token of a service account of `west`.
pub(super) async fn enrol(roots: &Path, token: &Path) -> Result<Enrolled> {
    let mut options = enrol::Options::new(CONTROLLER.parse()?, "west");
    options.token_path = token.to_owned();
    options.root_path = roots.to_owned();
    let registry = Registry::new();
    let enrolled = tokio::time::timeout(Duration::from_secs(30), enrol::start(options, &registry)).await;
    enrolled.context("no certificate within 30 s")
}
