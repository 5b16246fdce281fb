//! Topology files: a mesh as one YAML document.
//!
//! A topology lists clusters with their networks, regions and zones, which of them are primaries, and their workloads.
//! [`Topology::load`] returns either a topology in which every name resolves, or a [`Diagnostic`] with the line, what
//! is wrong, and what to do. `docs/topology.md` documents the format field by field; [`file`] has the types of the
//! file's fields.

mod addresses;
mod check;
mod diagnostic;
pub mod file;
mod manifest;
mod model;
mod yaml;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use addresses::{API_PORT, IpFamily};
pub use diagnostic::{Diagnostic, nearest};
pub use model::{
    Cluster, ClusterGateway, ClusterGatewayPort, Delay, Export, External, ExternalPort, GatewayCertificate,
    IngressPort, Link, MAX_CLUSTERS, Manifest, Mesh, Network, Port, Program, Role, TokenAlgorithm, TokenIssuer,
    Topology, Workload, WorkloadController,
};

impl Topology {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// Returns the first problem, with its location in the file.
    pub fn load(path: &Path) -> Result<Self, Box<Diagnostic>> {
        let text = std::fs::read_to_string(path).map_err(|error| diagnostic::unreadable(path, &error))?;
        Self::parse(path, &text)
    }

    /// Checks `text` as if it had been read from `path`. Paths of manifests are relative to `path`.
    ///
    /// # Errors
    /// Returns the first problem, with its location in the text.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Box<Diagnostic>> {
        let raw = file::read(text).map_err(|error| yaml::diagnostic(path, text, &error))?;
        check::check(path, raw).map_err(|finding| Box::new(finding.locate(path, text)))
    }
}
