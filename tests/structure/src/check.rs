//! Compares a workspace with the [rules](crate::rules).

use std::fmt::Write as _;

use crate::graph::Graph;
use crate::rules::{CYCLES, Cycle, DIRECTIONS, FORBIDDEN, STAGES};
use crate::workspace::Workspace;

/// Checks the direction of the workspace's crates. Returns one message for each wrong dependency.
pub fn directions(workspace: &Workspace) -> Vec<String> {
    let mut wrong = Vec::new();
    for package in &workspace.packages {
        let name = &package.name;
        let Some((_, allowed)) = DIRECTIONS.iter().find(|(krate, _)| krate == name) else {
            wrong.push(format!("{name}: not listed; add it to DIRECTIONS in tests/structure/src/rules.rs with the crates that it may use"));
            continue;
        };
        for used in package.uses.iter().filter(|used| !allowed.contains(&used.as_str())) {
            let allowed = if allowed.is_empty() { "no crate of the workspace".to_owned() } else { allowed.join(", ") };
            wrong.push(format!("{name} -> {used}: wrong direction; {name} may use {allowed}"));
        }
        for rule in FORBIDDEN.iter().filter(|rule| rule.crates.contains(&name.as_str())) {
            for linked in rule.packages.iter().filter(|linked| package.links.contains(**linked)) {
                wrong.push(format!(
                    "{name} links {linked}: {} (`cargo tree -e normal -i {linked}` shows through what)",
                    rule.reason
                ));
            }
        }
    }
    wrong
}

/// Checks a crate's top-level modules, which are the nodes of `graph`. Returns one message for each cycle that is not allowed, each allowed
/// cycle that no longer exists, and each stage that uses a later one.
pub fn modules(graph: &Graph) -> Vec<String> {
    let allowed: Vec<&Cycle> = CYCLES.iter().filter(|cycle| cycle.krate == graph.name).collect();
    let stages = STAGES.iter().find(|(krate, _)| *krate == graph.name).map(|(_, stages)| *stages);
    cycles(graph, &allowed).into_iter().chain(order(graph, stages.unwrap_or_default())).collect()
}

/// Compares a graph's cycles with those that are allowed.
pub fn cycles(graph: &Graph, allowed: &[&Cycle]) -> Vec<String> {
    let mut wrong = Vec::new();
    let found = graph.cycles();
    for cycle in &found {
        let names = graph.names(cycle);
        if !allowed.iter().any(|allowed| allowed.modules == names) {
            wrong.push(format!(
                "{}: a cycle between modules: {}\n{}",
                graph.name,
                names.join(", "),
                edges(graph, cycle)
            ));
        }
    }
    for cycle in allowed {
        if !found.iter().any(|found| graph.names(found) == cycle.modules) {
            wrong.push(format!(
                "{}: the allowed cycle of {} no longer exists as it is listed; take it out of CYCLES in tests/structure/src/rules.rs, \
                 or list the remaining one",
                graph.name,
                cycle.modules.join(", "),
            ));
        }
    }
    wrong
}

/// Finds stages that use a later one, directly or through other modules.
pub fn order(graph: &Graph, stages: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    let present: Vec<usize> = stages.iter().filter_map(|stage| graph.position(stage)).collect();
    for (i, stage) in present.iter().enumerate() {
        let reachable = graph.reachable(*stage);
        for later in present[i + 1..].iter().filter(|later| reachable.contains(later)) {
            let (from, to) = (&graph.nodes[*stage], &graph.nodes[*later]);
            let mut message =
                format!("{}: {from} -> {to}: wrong direction; the order is {}", graph.name, stages.join(", "));
            match graph.edges.get(&(*stage, *later)) {
                Some(_) => write_edge(graph, (*stage, *later), &mut message),
                None => message.push_str(" (through other modules)"),
            }
            wrong.push(message);
        }
    }
    wrong
}

/// The edges between the nodes of a cycle, with the lines of source that make them.
pub fn edges(graph: &Graph, cycle: &[usize]) -> String {
    let mut text = String::new();
    for edge in graph.edges.keys().filter(|(from, to)| cycle.contains(from) && cycle.contains(to)) {
        write_edge(graph, *edge, &mut text);
    }
    text
}

fn write_edge(graph: &Graph, (from, to): (usize, usize), text: &mut String) {
    let _ = write!(text, "\n  {} -> {}", graph.nodes[from], graph.nodes[to]);
    for reference in &graph.edges[&(from, to)] {
        let _ = write!(text, "\n    {}:{}: {}", reference.file, reference.line, reference.text);
    }
}
