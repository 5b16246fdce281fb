//! Graphs as text, Graphviz, JSON and Markdown.

use std::fmt::Write as _;

use serde_json::json;

use crate::check;
use crate::graph::Graph;

/// Where the generated part of a page begins and ends.
const BEGIN: &str = "<!-- generated: modules -->";
const END: &str = "<!-- end -->";

/// A graph as text: its layers, the lowest first, with what each node uses, and its cycles with the lines that make them.
pub fn text(graph: &Graph) -> String {
    let mut text = format!("{}\n", graph.name);
    let width = graph.nodes.iter().map(String::len).max().unwrap_or(0);
    for (number, layer) in graph.layers().iter().enumerate() {
        for (i, node) in layer.iter().filter(|node| !is_bare_root(graph, **node)).enumerate() {
            let number = if i == 0 { (number + 1).to_string() } else { String::new() };
            let uses: Vec<&str> = graph.uses(*node).map(|to| graph.nodes[to].as_str()).collect();
            let arrow = if uses.is_empty() { String::new() } else { format!(" -> {}", uses.join(", ")) };
            let _ = writeln!(text, "{}", format!("{number:>4}  {:width$}{arrow}", graph.nodes[*node]).trim_end());
        }
    }
    for cycle in graph.cycles() {
        let _ = writeln!(
            text,
            "  cycle: {}{}",
            graph.names(&cycle).join(", "),
            check::edges(graph, &cycle).replace('\n', "\n  ")
        );
    }
    text
}

/// Returns whether a node is a crate's root that only declares modules.
fn is_bare_root(graph: &Graph, node: usize) -> bool {
    graph.nodes[node] == "crate" && !graph.edges.keys().any(|(from, to)| *from == node || *to == node)
}

/// Graphs as one Graphviz graph, with a box for each crate. Edges of cycles are red.
pub fn dot(graphs: &[Graph]) -> String {
    let mut text = "digraph modules {\n  rankdir=BT;\n  node [shape=box, fontname=\"sans-serif\"];\n".to_owned();
    for (i, graph) in graphs.iter().enumerate() {
        let _ = writeln!(text, "  subgraph \"cluster_{i}\" {{\n    label={:?};", graph.name);
        let id = |node: usize| format!("{:?}", format!("{}/{}", graph.name, graph.nodes[node]));
        for (node, name) in graph.nodes.iter().enumerate().filter(|(node, _)| !is_bare_root(graph, *node)) {
            let _ = writeln!(text, "    {} [label={name:?}];", id(node));
        }
        let cycles = graph.cycles();
        for (from, to) in graph.edges.keys() {
            let cyclic = cycles.iter().any(|cycle| cycle.contains(from) && cycle.contains(to));
            let color = if cyclic { " [color=red]" } else { "" };
            let _ = writeln!(text, "    {} -> {}{color};", id(*from), id(*to));
        }
        text.push_str("  }\n");
    }
    text.push_str("}\n");
    text
}

/// Graphs as JSON: for each its nodes with layers (from 1, the lowest), its edges with references, and its cycles.
pub fn json(graphs: &[Graph]) -> serde_json::Value {
    let graph = |graph: &Graph| {
        let layers = graph.layers();
        let layer = |node: &usize| layers.iter().position(|layer| layer.contains(node)).map(|layer| layer + 1);
        let nodes = graph.nodes.iter().enumerate().map(|(node, name)| json!({ "name": name, "layer": layer(&node) }));
        let edges = graph.edges.iter().map(|((from, to), references)| {
            json!({ "from": graph.nodes[*from], "to": graph.nodes[*to], "references": references })
        });
        json!({
            "name": graph.name,
            "nodes": nodes.collect::<Vec<_>>(),
            "edges": edges.collect::<Vec<_>>(),
            "cycles": graph.cycles().iter().map(|cycle| graph.names(cycle)).collect::<Vec<_>>(),
        })
    };
    serde_json::Value::Array(graphs.iter().map(graph).collect())
}

/// The tables for a page: the crates, and each crate's modules, in dependency order.
pub fn markdown(crates: &Graph, modules: &[Graph]) -> String {
    let mut text = "| crate | uses |\n| --- | --- |\n".to_owned();
    for node in crates.layers().into_iter().flatten() {
        let uses: Vec<usize> = crates.uses(node).collect();
        let uses = if uses.is_empty() { "–".to_owned() } else { crates.names(&uses).join(", ") };
        let _ = writeln!(text, "| {} | {uses} |", crates.nodes[node]);
    }
    text.push_str("\n| crate | modules, the lowest layer first | cycles |\n| --- | --- | --- |\n");
    for graph in
        crates.layers().into_iter().flatten().filter_map(|node| modules.iter().find(|g| g.name == crates.nodes[node]))
    {
        let layers: Vec<String> = graph
            .layers()
            .iter()
            .map(|layer| {
                let shown: Vec<usize> = layer.iter().copied().filter(|node| !is_bare_root(graph, *node)).collect();
                graph.names(&shown).join(", ")
            })
            .filter(|layer| !layer.is_empty())
            .collect();
        let cycles: Vec<String> = graph.cycles().iter().map(|cycle| graph.names(cycle).join(", ")).collect();
        let cycles = if cycles.is_empty() { "none".to_owned() } else { cycles.join("; ") };
        let _ = writeln!(text, "| {} | {} | {cycles} |", graph.name, layers.join(" → "));
    }
    text
}

/// A page with its generated part replaced by `tables`. `None` if the page has no such part.
pub fn update(page: &str, tables: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", tables.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_layers_and_cycles() {
        let graph = Graph::of_names("g", [("a", vec!["b"]), ("b", vec!["c"]), ("c", vec!["b"]), ("d", vec![])]);
        assert_eq!(
            text(&graph),
            "g\n   1  b -> c\n      c -> b\n      d\n   2  a -> b\n  cycle: b, c\n    b -> c\n    c -> b\n"
        );
    }

    #[test]
    fn only_the_generated_part_of_a_page_is_replaced() {
        let page = "before\n<!-- generated: modules -->\nold\n<!-- end -->\nafter\n";
        let new = update(page, "| new |\n").unwrap();
        assert_eq!(new, "before\n<!-- generated: modules -->\n\n| new |\n\n<!-- end -->\nafter\n");
        assert_eq!(update(&new, "| new |\n").unwrap(), new);
        assert_eq!(update("no such part", ""), None);
    }
}
