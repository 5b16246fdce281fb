//! The topology file: a mesh as one YAML document.
//!
//! It says which clusters there are, on which networks and in which regions and zones, which of them run a
//! control plane, and what runs in them. [`Topology::load`] is the only way in: it returns either a topology
//! in which every name resolves, or a [`Diagnostic`] that points at the line, says what is wrong, and what to
//! do. The format is documented field by field in `docs/topology.md`; the raw records are in [`file`].

mod check;
mod diagnostic;
pub mod file;
mod model;
mod yaml;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use diagnostic::Diagnostic;
pub use model::{Cluster, Export, MAX_CLUSTERS, Manifest, Mesh, Network, Port, Program, Role, Topology, Workload};

impl Topology {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// The first thing wrong, with its place in the file.
    pub fn load(path: &Path) -> Result<Self, Box<Diagnostic>> {
        let text = std::fs::read_to_string(path).map_err(|error| diagnostic::unreadable(path, &error))?;
        Self::parse(path, &text)
    }

    /// Checks `text` as if it had been read from `path`; manifests are looked for beside it.
    ///
    /// # Errors
    /// The first thing wrong, with its place in the text.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Box<Diagnostic>> {
        let raw = file::read(text).map_err(|error| yaml::diagnostic(path, text, &error))?;
        check::check(path, raw).map_err(|finding| Box::new(finding.locate(path, text)))
    }
}
