//! The workspace's crates and their dependencies, read from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::graph::Graph;
use crate::source::Crate;

/// A workspace.
#[derive(Debug)]
pub struct Workspace {
    /// Its directory.
    pub directory: PathBuf,
    /// Its crates, by name.
    pub packages: Vec<Package>,
}

/// A crate of the workspace. Dependencies of tests and build scripts are left out.
#[derive(Debug)]
pub struct Package {
    /// The name, without `isthmus-`.
    pub name: String,
    /// The root file of its library, or of its program if it has no library.
    pub root: PathBuf,
    /// The crates of the workspace that it depends on.
    pub uses: BTreeSet<String>,
    /// All packages that it links, through others as well, by their full names.
    pub links: BTreeSet<String>,
}

impl Workspace {
    /// Reads the workspace that `directory` belongs to, as it is built for this machine.
    ///
    /// # Errors
    ///
    /// Returns an error if `cargo metadata` fails: it needs the packages that the workspace depends on.
    pub fn read(directory: &Path) -> anyhow::Result<Workspace> {
        let host = run(Command::new("rustc").arg("-vV"))?;
        let host = host.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(directory).args(["metadata", "--format-version", "1", "--filter-platform", host]);
        let metadata: Metadata =
            serde_json::from_str(&run(&mut command)?).context("cannot read the output of cargo metadata")?;
        Workspace::of(metadata)
    }

    fn of(metadata: Metadata) -> anyhow::Result<Workspace> {
        let names: BTreeMap<&str, &str> =
            metadata.packages.iter().map(|package| (package.id.as_str(), package.name.as_str())).collect();
        let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
        let members: BTreeSet<&str> = metadata.workspace_members.iter().map(String::as_str).collect();
        let linked = |id: &str| -> Vec<&str> {
            let dependencies = nodes.get(id).map(|node| node.deps.as_slice()).unwrap_or_default();
            let linked =
                dependencies.iter().filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()));
            linked.map(|dependency| dependency.pkg.as_str()).collect()
        };
        let mut packages = Vec::new();
        for package in metadata.packages.iter().filter(|package| members.contains(package.id.as_str())) {
            let target = |kind: &str| package.targets.iter().find(|target| target.kind.iter().any(|k| k == kind));
            let root = target("lib")
                .or_else(|| target("bin"))
                .with_context(|| format!("{} has no library and no program", package.name))?;
            let uses =
                linked(&package.id).into_iter().filter(|id| members.contains(id)).map(|id| short(names[id])).collect();
            let mut links = BTreeSet::new();
            let mut pending = vec![package.id.as_str()];
            let mut visited = BTreeSet::new();
            while let Some(id) = pending.pop() {
                for dependency in linked(id) {
                    if visited.insert(dependency) {
                        links.insert(names[dependency].to_owned());
                        pending.push(dependency);
                    }
                }
            }
            packages.push(Package { name: short(&package.name), root: root.src_path.clone(), uses, links });
        }
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Workspace { directory: metadata.workspace_root.clone(), packages })
    }

    /// The graph of the workspace's crates.
    pub fn crates(&self) -> Graph {
        let uses = self.packages.iter().map(|p| (p.name.as_str(), p.uses.iter().map(String::as_str).collect()));
        Graph::of_names("workspace", uses)
    }

    /// The graphs of the modules of the named crates, or of all crates if none is named.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no crate of a name, or if its source cannot be read.
    pub fn modules(&self, names: &[String], depth: usize) -> anyhow::Result<Vec<Graph>> {
        for name in names {
            if !self.packages.iter().any(|package| package.name == short(name)) {
                let known: Vec<&str> = self.packages.iter().map(|package| package.name.as_str()).collect();
                bail!("the workspace has no crate {name:?}; it has {}", known.join(", "));
            }
        }
        let wanted = |package: &&Package| names.is_empty() || names.iter().any(|name| short(name) == package.name);
        self.packages
            .iter()
            .filter(wanted)
            .map(|package| Ok(Graph::of_modules(&Crate::read(&package.name, &package.root)?, depth, &self.directory)))
            .collect()
    }
}

/// A package's name without `isthmus-`.
fn short(name: &str) -> String {
    name.strip_prefix("isthmus-").unwrap_or(name).to_owned()
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} failed:\n{}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{program} printed something else than text"))
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<MetadataPackage>,
    workspace_members: Vec<String>,
    workspace_root: PathBuf,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct MetadataPackage {
    id: String,
    name: String,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    src_path: PathBuf,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// `None` for a dependency that is linked, else `build` or `dev`.
    kind: Option<String>,
}
