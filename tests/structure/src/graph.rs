//! A graph of nodes that use each other, its layers and its cycles.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use crate::scan;
use crate::source::Crate;

/// A line of source that makes an edge.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Reference {
    /// The file, relative to the workspace's directory.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The declaration or path, such as `use crate::upstream::Target`.
    pub text: String,
}

/// Nodes that use each other.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// The name of the crate, or of the workspace.
    pub name: String,
    /// The nodes' names, sorted.
    pub nodes: Vec<String>,
    /// The edges, from user to used node by position in `nodes`, with the references that make them.
    pub edges: BTreeMap<(usize, usize), Vec<Reference>>,
}

impl Graph {
    /// The graph of a crate's modules. A node is a module at most `depth` names below the root, together with everything below it; the
    /// root's own items are the node `crate`. File names are relative to `directory`.
    ///
    /// A re-export of a module's own descendant is not a use of it, unless the module's own items name it as well.
    pub fn of_modules(krate: &Crate, depth: usize, directory: &Path) -> Graph {
        let node = |module: usize| match &krate.modules[module].path[..] {
            [] => "crate".to_owned(),
            path => path[..depth.min(path.len())].join("::"),
        };
        let names: BTreeSet<String> = (0..krate.modules.len()).map(node).collect();
        let mut graph = Graph { name: krate.name.clone(), nodes: names.into_iter().collect(), edges: BTreeMap::new() };
        for (id, module) in krate.modules.iter().enumerate() {
            let file = module.file.strip_prefix(directory).unwrap_or(&module.file).display().to_string();
            let mut add = |path: &scan::Path, line: usize, keyword: &str| {
                let Some(target) = krate.resolve(id, &path.segments) else { return };
                let text = format!("{keyword}{}", path.segments.join("::"));
                graph.add(&node(id), &node(target), Reference { file: file.clone(), line, text });
            };
            for import in module.imports.iter().chain(&module.names.imports) {
                if !(import.exported && krate.is_below(id, &import.path.segments)) {
                    add(&import.path, import.path.line, "use ");
                } else if let Some(line) = import.name.as_ref().and_then(|name| module.names.single.get(name)) {
                    add(&import.path, *line, "");
                }
            }
            for path in &module.names.paths {
                if krate.starts_at_module(id, &path.segments) {
                    add(path, path.line, "");
                }
            }
        }
        graph.edges.values_mut().for_each(|references| {
            references.sort();
            references.dedup();
        });
        graph
    }

    /// The graph of nodes that use each other, without references.
    pub fn of_names<'a>(name: &str, uses: impl IntoIterator<Item = (&'a str, Vec<&'a str>)>) -> Graph {
        let uses: Vec<_> = uses.into_iter().collect();
        let nodes: BTreeSet<String> = uses.iter().map(|(node, _)| (*node).to_owned()).collect();
        let mut graph = Graph { name: name.to_owned(), nodes: nodes.into_iter().collect(), edges: BTreeMap::new() };
        for (from, targets) in uses {
            for to in targets {
                if let Some(edge) = graph.edge(from, to) {
                    graph.edges.entry(edge).or_default();
                }
            }
        }
        graph
    }

    fn add(&mut self, from: &str, to: &str, reference: Reference) {
        if let Some(edge) = self.edge(from, to) {
            self.edges.entry(edge).or_default().push(reference);
        }
    }

    fn edge(&self, from: &str, to: &str) -> Option<(usize, usize)> {
        Some((self.position(from)?, self.position(to)?)).filter(|(from, to)| from != to)
    }

    /// A node's position in `nodes`.
    pub fn position(&self, node: &str) -> Option<usize> {
        self.nodes.binary_search_by(|other| other.as_str().cmp(node)).ok()
    }

    /// The nodes that a node uses.
    pub fn uses(&self, node: usize) -> impl Iterator<Item = usize> {
        self.edges.range((node, 0)..=(node, usize::MAX)).map(|((_, to), _)| *to)
    }

    /// The nodes that a node uses, directly or through others. Contains the node itself only if it is part of a cycle.
    pub fn reachable(&self, node: usize) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut pending = vec![node];
        while let Some(next) = pending.pop() {
            pending.extend(self.uses(next).filter(|to| reached.insert(*to)));
        }
        reached
    }

    /// The cycles: each set of nodes that all reach each other, sorted by name.
    pub fn cycles(&self) -> Vec<Vec<usize>> {
        self.components().into_iter().filter(|component| component.len() > 1).collect()
    }

    /// The sets of nodes that all reach each other; a node outside of cycles is a set of its own.
    fn components(&self) -> Vec<Vec<usize>> {
        let reachable: Vec<BTreeSet<usize>> = (0..self.nodes.len()).map(|node| self.reachable(node)).collect();
        let mut components: Vec<Vec<usize>> = Vec::new();
        for node in 0..self.nodes.len() {
            let with = |other: &usize| reachable[node].contains(other) && reachable[*other].contains(&node);
            match components.iter_mut().find(|component| with(&component[0])) {
                Some(component) => component.push(node),
                None => components.push(vec![node]),
            }
        }
        components
    }

    /// The nodes in dependency order: a node uses nodes of earlier layers, and of its own only in a cycle.
    pub fn layers(&self) -> Vec<Vec<usize>> {
        let mut remaining = self.components();
        let mut placed = BTreeSet::new();
        let mut layers = Vec::new();
        while !remaining.is_empty() {
            let ready = |component: &Vec<usize>| {
                component.iter().all(|node| self.uses(*node).all(|to| placed.contains(&to) || component.contains(&to)))
            };
            let (layer, rest): (Vec<_>, Vec<_>) = remaining.into_iter().partition(ready);
            let mut layer: Vec<usize> = layer.into_iter().flatten().collect();
            layer.sort_unstable();
            placed.extend(layer.iter().copied());
            layers.push(layer);
            remaining = rest;
        }
        layers
    }

    /// The names of nodes.
    pub fn names(&self, nodes: &[usize]) -> Vec<&str> {
        nodes.iter().map(|node| self.nodes[*node].as_str()).collect()
    }
}

impl Crate {
    /// Returns whether `segments` lead from module `from` to something defined below it.
    fn is_below(&self, from: usize, segments: &[String]) -> bool {
        self.resolve(from, segments).is_some_and(|target| {
            let (outer, inner) = (&self.modules[from].path, &self.modules[target].path);
            inner.len() > outer.len() && inner.starts_with(outer)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> Graph {
        Graph::of_names(
            "g",
            [("a", vec!["b"]), ("b", vec!["c"]), ("c", vec!["b", "d"]), ("d", vec![]), ("e", vec!["d"])],
        )
    }

    #[test]
    fn a_cycle_is_found_and_shares_a_layer() {
        let graph = graph();
        assert_eq!(graph.cycles().iter().map(|cycle| graph.names(cycle)).collect::<Vec<_>>(), [["b", "c"]]);
        let layers: Vec<Vec<&str>> = graph.layers().iter().map(|layer| graph.names(layer)).collect();
        assert_eq!(layers, [vec!["d"], vec!["b", "c", "e"], vec!["a"]]);
    }

    #[test]
    fn reachable_holds_what_is_used_through_others() {
        let graph = graph();
        let reachable =
            |name| graph.names(&graph.reachable(graph.position(name).unwrap()).into_iter().collect::<Vec<_>>());
        assert_eq!(reachable("a"), ["b", "c", "d"]);
        assert_eq!(reachable("b"), ["b", "c", "d"]);
        assert!(reachable("d").is_empty());
    }
}
